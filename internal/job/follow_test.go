package job

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"rmagent/internal/cctools"
)

func TestFollow(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 0.5 & sleep 0.6; exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r, tracker, err := Follow(context.Background(), cmd.Process.Pid, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := Summarize(r, tracker)
	if n, _ := s.Measures.Get(cctools.MaxConcurrentProcesses); n != 3 || s.ExitType != cctools.ExitNormal {
		t.Errorf("%v processes at once, %s", n, s.ExitType)
	}
	if wall, _ := s.Measures.Get(cctools.WallTime); wall < 0.1 || wall > 5 {
		t.Errorf("%v s", wall)
	}
	if err := <-ended; cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("the process was not left alone: %v", err)
	}
	if _, _, err := Follow(context.Background(), cmd.Process.Pid, Options{}); !errors.Is(err, ErrFollow) {
		t.Errorf("a process that is gone: %v", err)
	}
}

// A limit ends the following, not the process.
func TestFollowLeavesTheProcessAlone(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var o Options
	o.Limits.Set(cctools.WallTime, 0.2)
	begin := time.Now()
	r, _, err := Follow(context.Background(), cmd.Process.Pid, o)
	if err != nil || len(r.Exceeded) != 1 || time.Since(begin) > 20*time.Second {
		t.Errorf("%v, %+v after %s", err, r, time.Since(begin))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Follow(ctx, cmd.Process.Pid, Options{}); err != nil {
		t.Errorf("it does not live any more: %v", err)
	}
}
