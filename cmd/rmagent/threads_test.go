package main

import (
	"testing"
	"time"
)

func TestDemandIsHighWhileManyAsk(t *testing.T) {
	var d demand
	now := time.Unix(1_800_000_000, 0)
	for range 60 { // once a second is not many, however long
		if d.asked(now) {
			t.Fatal("one request a second is many")
		}
		now = now.Add(time.Second)
	}
	for i := range 2 * manyRequests {
		if got, want := d.asked(now), i+1 >= manyRequests; got != want {
			t.Fatalf("request %d of a second: many %v, want %v", i+1, got, want)
		}
		now = now.Add(time.Millisecond)
	}
	if now = now.Add(calmTime - time.Second); !d.high(now) {
		t.Errorf("they are few after less than %v", calmTime)
	}
	if now = now.Add(time.Second); d.high(now) {
		t.Errorf("they are still many %v later", calmTime)
	}
	if d.asked(now) {
		t.Error("one request is many again")
	}
}
