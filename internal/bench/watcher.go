package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstReadingTimeout = 30 * time.Second
	endTimeout          = 5 * time.Second
	pipeBytes           = 1 << 20 // so that no watcher waits for its reader
)

// A watcher is a peer that runs.
type watcher struct {
	peer   peer
	cmd    *exec.Cmd
	out    *output
	errors *tail
	ended  chan error

	group    *memoryGroup // nil where groupErr says why
	groupErr error
	scraping context.CancelFunc
	scraped  chan struct{}
}

// startWatcher returns once the watcher has given its first reading.
func startWatcher(ctx context.Context, p peer, pids []int) (*watcher, error) {
	w := &watcher{peer: p, out: newOutput(p.mark, pids), errors: &tail{}, ended: make(chan error, 1)}
	w.group, w.groupErr = newMemoryGroup()
	if err := w.start(ctx); err != nil {
		w.removeGroup()
		return nil, err
	}
	if err := w.awaitFirstReading(ctx); err != nil {
		w.stop()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return w, nil
}

func (w *watcher) start(ctx context.Context) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer write.Close()
	_, _ = unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, pipeBytes) // best effort: unprivileged pipes may be capped
	w.cmd = w.command()
	w.cmd.Stdout, w.cmd.Stderr = write, w.errors
	if err := w.cmd.Start(); err != nil {
		read.Close()
		return fmt.Errorf("start %s: %w", w.peer.name, err)
	}
	go func() {
		w.out.follow(read)
		read.Close()
	}()
	go func() { w.ended <- w.cmd.Wait() }()
	if w.peer.scrape != "" {
		w.startScraping(ctx)
	}
	return nil
}

// command puts the watcher into its memory cgroup before it is itself, by a
// shell that becomes it: then everything that it allocates is charged there. It
// dies with this program, however that ends.
func (w *watcher) command() *exec.Cmd {
	argv := w.peer.argv
	if w.group != nil {
		argv = append([]string{"/bin/sh", "-c", `echo 0 >"$0" && exec "$@"`, w.group.procs()}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.WaitDelay = endTimeout // a child of the watcher may hold its stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	return cmd
}

func (w *watcher) awaitFirstReading(ctx context.Context) error {
	select {
	case <-w.out.first:
		return nil
	case err := <-w.ended:
		w.ended <- err
		return fmt.Errorf("ended before its first reading: %v: %s", err, w.errors)
	case <-time.After(firstReadingTimeout):
		return fmt.Errorf("no reading in %v: %s", firstReadingTimeout, w.errors)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startScraping asks the watcher once a second. A reading that takes longer
// than that delays the next.
func (w *watcher) startScraping(ctx context.Context) {
	ctx, w.scraping = context.WithCancel(ctx)
	w.scraped = make(chan struct{})
	go func() {
		defer close(w.scraped)
		for tick := time.NewTicker(time.Second); ; {
			if body, err := get(ctx, w.peer.scrape); err == nil {
				w.out.scraped(body)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// alive fails once the watcher has ended by itself.
func (w *watcher) alive() error {
	select {
	case err := <-w.ended:
		w.ended <- err
		return fmt.Errorf("%s ended: %v: %s", w.peer.name, err, w.errors)
	default:
		return nil
	}
}

// stop ends the watcher and whatever it has started, and waits for that.
func (w *watcher) stop() {
	if w.scraping != nil {
		w.scraping()
		<-w.scraped
	}
	pid := w.cmd.Process.Pid
	_ = unix.Kill(pid, unix.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(endTimeout):
		_ = unix.Kill(-pid, unix.SIGKILL)
		<-w.ended
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // what it left behind
	w.removeGroup()
}

func (w *watcher) removeGroup() {
	if w.group == nil {
		return
	}
	if err := w.group.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const keep = 1 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - keep; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLine(t.b)
}
