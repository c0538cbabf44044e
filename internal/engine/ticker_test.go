package engine

import (
	"testing"
	"time"
)

func TestTickerTicksInTime(t *testing.T) {
	const interval = 20 * time.Millisecond
	start := time.Now()
	k, err := newTicker(interval)
	if err != nil {
		t.Fatal(err)
	}
	defer k.stop()
	for n := range 5 {
		<-k.C
		if early := time.Duration(n+1)*interval - time.Since(start); early > 0 {
			t.Errorf("tick %d came %v early", n, early)
		}
	}
}

func TestTickerCanBeReset(t *testing.T) {
	k, err := newTicker(0)
	if err != nil {
		t.Fatal(err)
	}
	defer k.stop()
	for range 2 {
		if err := k.reset(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		<-k.C
		<-k.C
		if err := k.reset(time.Hour); err != nil {
			t.Fatal(err)
		}
		late := 0
		for over := time.After(20 * time.Millisecond); over != nil; {
			select {
			case <-k.C:
				late++
			case <-over:
				over = nil
			}
		}
		if late > 1 { // one may have been on its way
			t.Errorf("%d ticks after it was reset to an hour", late)
		}
	}
}

func TestStoppedTickerIsSilent(t *testing.T) {
	_, before := descriptors(t)
	k, err := newTicker(time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	<-k.C
	k.stop()
	k.drop()
	select {
	case <-k.C:
		t.Error("it ticks on")
	case <-time.After(20 * time.Millisecond):
	}
	if _, after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
