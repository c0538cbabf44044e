package sink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"rmagent/record"
)

// The test binary is also the program that some tests run and hurt: see child.
const childEnv = "SINK_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		os.Exit(child(what, os.Args[1]))
	}
	goleak.VerifyTestMain(m)
}

// child writes records to path until it is killed, or until its limit on file
// sizes or its reader stops it.
func child(what, path string) int {
	s, err := OpenJSONL(JSONLOptions{Path: path, Stdout: os.Stdout})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 10
	}
	for i := 0; ; i++ {
		_ = s.Write(sample(i))
		if i%100 != 0 {
			continue
		}
		err := s.Flush()
		_ = s.Sync(context.Background())
		var w *WriteError
		switch {
		case errors.Is(err, ErrReaderGone):
			return 20
		case what == "limit" && errors.As(err, &w):
			if errors.Is(err, unix.EFBIG) && w.Cause == LostWriteError && w.Lost > 0 {
				return 30
			}
			fmt.Fprintln(os.Stderr, err)
			return 11
		}
	}
}

func startChild(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

// sample is a record of some 200 bytes, or of i's choice of up to 1,500 more.
func sample(i int) record.Record {
	return &record.StateChange{Resource: "fd", Message: strings.Repeat("x", i*37%1500)}
}

func open(t *testing.T, path string, queue int) *JSONL {
	t.Helper()
	s, err := OpenJSONL(JSONLOptions{Path: path, Host: "h", BootID: "b", QueueBytes: queue})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(soon(t)) })
	return s
}

// soon is long enough for everything that should end.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, s *JSONL, n int) {
	t.Helper()
	for i := range n {
		if err := s.Write(sample(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func settle(t *testing.T, s *JSONL) {
	t.Helper()
	if err := s.Sync(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// seqs decodes lines, each of which must be whole, and returns their numbers.
func seqs(t *testing.T, text []byte) []uint64 {
	t.Helper()
	var list []uint64
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' {
			t.Fatalf("the last line is cut off: %.100q", line)
		}
		r, err := record.Decode(line)
		if err != nil {
			t.Fatalf("%v in %.100q", err, line)
		}
		list = append(list, r.Head().Seq)
	}
	return list
}

func readSeqs(t *testing.T, path string) []uint64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return seqs(t, text)
}

func upTo(n int) []uint64 {
	list := make([]uint64, n)
	for i := range list {
		list[i] = uint64(i + 1)
	}
	return list
}

// checkBalance: all records that were said are written or lost, and the file has
// those that were written, in order.
func checkBalance(t *testing.T, s *JSONL, said int, got []uint64) {
	t.Helper()
	c := s.Counters()
	sum := c.Written
	for _, n := range c.Lost {
		sum += n
	}
	if sum != uint64(said) {
		t.Errorf("%d written and %v lost are not the %d said", c.Written, c.Lost, said)
	}
	if uint64(len(got)) != c.Written {
		t.Errorf("%d lines arrived, %d count as written", len(got), c.Written)
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Error("lines are out of order or doubled")
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, path, 0)
	write(t, s, 1000)
	settle(t, s)
	got := readSeqs(t, path)
	if !slices.Equal(got, upTo(1000)) {
		t.Errorf("got %d lines", len(got))
	}
	checkBalance(t, s, 1000, got)
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	text, _ := os.ReadFile(path)
	r, _ := record.Decode(bytes.SplitN(text, []byte("\n"), 2)[0])
	want := record.Header{Kind: record.KindState, Host: "h", BootID: "b", Seq: 1, Schema: record.Schema}
	if h := *r.Head(); h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	s := open(t, os.DevNull, 0)
	r := &record.Process{}
	write(t, s, 1000)
	settle(t, s)
	if n := testing.AllocsPerRun(100, func() { _ = s.Write(r) }); n != 0 {
		t.Errorf("%v allocations a record", n)
	}
}

// TestBuffersStay: flushes of much more than is written at once use the same memory again,
// into a file, which the goroutine writes, and into a pipe, which takes most at once.
func TestBuffersStay(t *testing.T) {
	piped, r := pipe(t, 0)
	go func() { _, _ = io.Copy(io.Discard, r) }()
	for name, s := range map[string]*JSONL{
		"device": open(t, os.DevNull, 0),
		"file":   open(t, filepath.Join(t.TempDir(), "out"), 0),
		"pipe":   piped,
	} {
		t.Run(name, func(t *testing.T) {
			r := &record.StateChange{Message: strings.Repeat("x", 1000)}
			flush := func() {
				for range 3 * keepAt / 1000 {
					_ = s.Write(r)
				}
				_ = s.Flush()
				settle(t, s)
			}
			for range 2 {
				flush()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 4 {
				flush()
			}
			runtime.ReadMemStats(&after)
			// Made anew each time they take 60 MiB; if one grows yet, it takes 15.
			if n := after.TotalAlloc - before.TotalAlloc; n > 40*keepAt {
				t.Errorf("%d bytes were allocated for four flushes of 3 MiB", n)
			}
		})
	}
}

// TestBuffersAreGivenBack: what a crowd of records took is not kept for ever.
func TestBuffersAreGivenBack(t *testing.T) {
	w := &writer{}
	crowd := w.keep(make([]byte, 0, 16*keepAt), 16*keepAt)
	if crowd == nil {
		t.Fatal("a buffer that was full is not kept")
	}
	flushes := 0
	for ; crowd != nil && flushes < 1000; flushes++ {
		_ = w.flushNow()
		crowd = w.keep(crowd, 1000)
	}
	if crowd != nil {
		t.Errorf("%d bytes are kept for %d flushes of 1,000", cap(crowd), flushes)
	}
	if w.keep(make([]byte, 0, keepAt), 1000) == nil {
		t.Error("a buffer that is always kept was not")
	}
}

func TestEncodeErrorUsesUpItsSeq(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, path, 0)
	write(t, s, 1)
	far := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Write(&record.Host{Header: record.Header{Time: far}}); !errors.Is(err, record.ErrTime) {
		t.Errorf("got %v, want ErrTime", err)
	}
	write(t, s, 1)
	settle(t, s)
	if got := readSeqs(t, path); !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("got %v, want 1, 3", got)
	}
	if c := s.Counters(); c.Written != 2 || c.Lost[LostEncodeError] != 1 {
		t.Errorf("counters %+v", c)
	}
}

// TestFullDisk fills a filesystem of 64 KiB, makes room, and fills it again.
func TestFullDisk(t *testing.T) {
	dir := smallFilesystem(t)
	path := filepath.Join(dir, "out")
	s := open(t, path, 0)
	said := 0
	fill := func() {
		t.Helper()
		for full := uint64(0); full == 0; full = s.Counters().Lost[LostDiskFull] {
			write(t, s, 40)
			said += 40
			settle(t, s)
		}
	}
	fill()
	got := readSeqs(t, path)
	checkBalance(t, s, said, got)
	var w *WriteError
	if err := s.Flush(); !errors.As(err, &w) || !errors.Is(err, unix.ENOSPC) || w.Lost == 0 {
		t.Errorf("Flush: %v, want ENOSPC and a number of lines", err)
	}
	if err := s.Flush(); err != nil {
		t.Errorf("Flush says it again: %v", err)
	}

	lost := s.Counters().Lost[LostDiskFull]
	if err := os.Truncate(path, 0); err != nil { // as logrotate's copytruncate
		t.Fatal(err)
	}
	write(t, s, 10)
	said += 10
	settle(t, s)
	again := readSeqs(t, path)
	if want := upTo(said)[said-10:]; !slices.Equal(again, want) {
		t.Errorf("after the disk had room again: %v, want %v", again, want)
	}
	if n := s.Counters().Lost[LostDiskFull]; n != lost {
		t.Errorf("%d lost after there was room", n-lost)
	}
	if gap := again[0] - got[len(got)-1] - 1; gap != lost {
		t.Errorf("the gap shows %d records, %d are counted", gap, lost)
	}
}

func smallFilesystem(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small filesystem")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("CAP_SYS_ADMIN is missing for a small filesystem")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDeviceFull(t *testing.T) {
	s := open(t, "/dev/full", 0)
	write(t, s, 100)
	settle(t, s)
	if c := s.Counters(); c.Written != 0 || c.Lost[LostDiskFull] != 100 {
		t.Errorf("counters %+v", c)
	}
	if err := s.Flush(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Flush: %v", err)
	}
}

// TestFileSizeLimit: RLIMIT_FSIZE cuts a write short and sends SIGXFSZ, which must
// not end the program.
func TestFileSizeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	cmd := startChild(t, "limit", path)
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -f 100; exec "$0" "$1"`, os.Args[0], path}
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 30 {
		t.Fatalf("the child ended with %v", err)
	}
	if got := readSeqs(t, path); len(got) == 0 || !slices.Equal(got, upTo(len(got))) {
		t.Errorf("%d lines, or a gap among them", len(got))
	}
}

// TestRotate renames the file again and again while two goroutines write.
func TestRotate(t *testing.T) {
	const rounds, each = 20, 500
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	s := open(t, path, 0)
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for i := range rounds * each / 2 {
				_ = s.Write(sample(i))
				if i%50 == 0 {
					_ = s.Flush()
				}
			}
		})
	}
	for i := range rounds {
		if err := os.Rename(path, fmt.Sprintf("%s.%02d", path, i)); err != nil {
			t.Fatal(err)
		}
		s.Reopen()
		settle(t, s)
	}
	writers.Wait()
	settle(t, s)
	files, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	var got []uint64
	for _, f := range append(files, path) {
		got = append(got, readSeqs(t, f)...)
	}
	if !slices.Equal(got, upTo(rounds*each)) {
		t.Errorf("%d of %d lines, or out of order", len(got), rounds*each)
	}
	checkBalance(t, s, rounds*each, got)
}

// TestReopenFails: the old file stays in use.
func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	path := filepath.Join(dir, "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, 0)
	write(t, s, 1)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	s.Reopen()
	write(t, s, 1)
	settle(t, s)
	if err := s.Flush(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Flush: %v, want ENOENT", err)
	}
	if got := readSeqs(t, filepath.Join(dir+".old", "out")); !slices.Equal(got, upTo(2)) {
		t.Errorf("got %v", got)
	}
}

// TestKilled kills a writer: only the last line may be cut off, and the next run
// does not add to it.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	cmd := startChild(t, "write", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForSize(t, path, 1<<20)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	if got := seqs(t, text[:whole]); !slices.Equal(got, upTo(len(got))) {
		t.Error("a gap in what a killed writer left")
	}
}

func TestTornLineIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("{\"kind\":\"pro"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, 0)
	write(t, s, 2)
	settle(t, s)
	text, _ := os.ReadFile(path)
	rest, ok := bytes.CutPrefix(text, []byte("{\"kind\":\"pro\n"))
	if !ok {
		t.Fatalf("got %.60q", text)
	}
	if got := seqs(t, rest); !slices.Equal(got, upTo(2)) {
		t.Errorf("got %v", got)
	}
}

func waitForSize(t *testing.T, path string, size int64) {
	t.Helper()
	for ctx := soon(t); ; {
		if st, err := os.Stat(path); err == nil && st.Size() >= size {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not grow", path)
		case <-time.After(time.Millisecond):
		}
	}
}

// TestTakeBackTouchesOnlyItsOwn: a file that was truncated or written to by
// somebody else meanwhile stays as it is.
func TestTakeBackTouchesOnlyItsOwn(t *testing.T) {
	for content, want := range map[string]string{
		"whole\nhalf": "whole\n",
		"half":        "",
		"half others": "half others",
		"alf":         "alf",
		"":            "",
	} {
		path := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		target, err := openTarget(path)
		if err != nil {
			t.Fatal(err)
		}
		defer target.close()
		done := target.takeBack([]byte("half"))
		got, _ := os.ReadFile(path)
		if string(got) != want || done != (content != want) {
			t.Errorf("%q became %q, %v", content, got, done)
		}
	}
}

// pipe returns a sink over a pipe, and the reading end.
func pipe(t *testing.T, queue int) (*JSONL, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenJSONL(JSONLOptions{Path: Stdout, Stdout: w, QueueBytes: queue})
	if err != nil {
		t.Fatal(err)
	}
	w.Close() // the sink has its own
	t.Cleanup(func() { r.Close(); _ = s.Close(soon(t)) })
	return s, r
}

// TestSlowPipe: a reader that does not read costs records, which are counted, and
// no memory beyond the bound.
func TestSlowPipe(t *testing.T) {
	const queue, said = 128 << 10, 20000
	s, r := pipe(t, queue)
	write(t, s, said/2)
	told := uint64(0)
	tell := func() {
		var w *WriteError
		if err := s.Flush(); !errors.As(err, &w) || w.Cause != LostQueueFull {
			t.Fatalf("Flush: %v", err)
		}
		told += w.Lost
	}
	tell()
	write(t, s, said/2) // some 16 MB in all, none of it read
	s.w.mu.Lock()
	if held := len(s.w.buf) + s.w.inFlight; held > queue || cap(s.w.buf) > 2*queue {
		t.Errorf("%d bytes wait, and room for %d is held", held, cap(s.w.buf))
	}
	s.w.mu.Unlock()
	lost := s.Counters().Lost
	if lost[LostQueueFull] == 0 || len(lost) != 1 {
		t.Fatalf("lost %v, want %s only", lost, LostQueueFull)
	}
	if tell(); told != lost[LostQueueFull] {
		t.Errorf("%d are told to be lost, of %v", told, lost)
	}

	text := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		text <- b
	}()
	settle(t, s)
	write(t, s, 1) // after the gap
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	got := seqs(t, <-text)
	checkBalance(t, s, said+1, got)
	if last := got[len(got)-1]; last != said+1 {
		t.Errorf("the last seq is %d: the gap is not visible", last)
	}
}

// narrowPipe returns a target over a pipe that holds a page, and the reading end.
func narrowPipe(t *testing.T) (*target, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	out, err := inheritTarget(w)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close(); _ = out.close() })
	return out, r
}

// TestWriteNowTakesWhatFits: what a pipe has no room for is left, in the middle of a
// line too, and write goes on there.
func TestWriteNowTakesWhatFits(t *testing.T) {
	out, r := narrowPipe(t)
	said := bytes.Repeat([]byte("a line of no common length, which no page ends with\n"), 300)
	n := out.writeNow(said)
	if n == 0 {
		t.Skip("the kernel takes nothing without waiting: before 6.4")
	}
	if n >= len(said) || !out.midLine {
		t.Fatalf("wrote %d of %d bytes, within a line: %v", n, len(said), out.midLine)
	}
	if again := out.writeNow(said[n:]); again != 0 || !out.midLine {
		t.Errorf("a full pipe took %d bytes", again)
	}
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		got <- b
	}()
	if whole, err := out.write(said[n:]); err != nil || whole != len(said)-n || out.midLine {
		t.Errorf("wrote %d of %d bytes more, %v", whole, len(said)-n, err)
	}
	if err := out.close(); err != nil {
		t.Error(err)
	}
	if b := <-got; !bytes.Equal(b, said) {
		t.Errorf("read %d bytes, written were %d", len(b), len(said))
	}
}

// TestHalfALineOfWriteNowIsTorn: a line that write could not end is ended before the
// next one.
func TestHalfALineOfWriteNowIsTorn(t *testing.T) {
	out, r := narrowPipe(t)
	said := bytes.Repeat([]byte("x"), 1<<16)
	if out.writeNow(said) == 0 {
		t.Skip("the kernel takes nothing without waiting: before 6.4")
	}
	r.Close()
	if n, err := out.write(said); n != 0 || !errors.Is(err, unix.EPIPE) || !out.torn {
		t.Errorf("wrote %d bytes, %v, torn: %v", n, err, out.torn)
	}
}

// TestFlushWritesInOrder has a reader that is slower than the records come, so that
// both ways of writing take turns.
func TestFlushWritesInOrder(t *testing.T) {
	out, r := narrowPipe(t)
	s := &JSONL{w: newWriter(out, DefaultQueueBytes)}
	text := make(chan []byte)
	go func() {
		var all []byte
		for b := make([]byte, 3000); ; {
			n, err := r.Read(b)
			all = append(all, b[:n]...)
			if err != nil {
				text <- all
				return
			}
			runtime.Gosched()
		}
	}()
	const said = 3000
	for n := range said {
		write(t, s, 1)
		if n%7 == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if n%100 == 0 {
			settle(t, s) // so that nothing waits
		}
	}
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	got := seqs(t, <-text)
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("line %d has seq %d", i, seq)
		}
	}
	checkBalance(t, s, said, got)
}

func TestClosedPipe(t *testing.T) {
	s, r := pipe(t, 0)
	write(t, s, 1)
	r.Close()
	settle(t, s)
	if err := s.Flush(); !errors.Is(err, ErrReaderGone) {
		t.Errorf("Flush: %v, want ErrReaderGone", err)
	}
	write(t, s, 5)
	if err := s.Close(soon(t)); !errors.Is(err, ErrReaderGone) {
		t.Errorf("Close: %v, want ErrReaderGone", err)
	}
	write(t, s, 1)
	if c := s.Counters(); c.Written != 0 || !maps.Equal(c.Lost, map[string]uint64{LostClosed: 7}) {
		t.Errorf("counters %+v", c)
	}
}

// TestClosedStdout: SIGPIPE does not end the program, which a write to the
// descriptor 1 would.
func TestClosedStdout(t *testing.T) {
	cmd := startChild(t, "write", Stdout)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n') // as head -1 does
	if err != nil {
		t.Fatal(err)
	}
	seqs(t, []byte(line))
	out.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 20 {
		t.Errorf("the child ended with %v", err)
	}
}

// TestCloseDoesNotWaitForAStuckReader: its context ends it.
func TestCloseDoesNotWaitForAStuckReader(t *testing.T) {
	s, r := pipe(t, 0)
	write(t, s, 5000) // more than a pipe holds
	_ = s.Flush()
	write(t, s, 5000)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	if c := s.Counters(); c.Lost[LostClosed] == 0 {
		t.Errorf("counters %+v", c)
	}
	r.Close() // lets the goroutine go
	<-s.w.done
}

// TestFIFO: records wait for a reader, who gets them all.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, 0)
	write(t, s, 30) // less than a pipe holds
	_ = s.Flush()
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	write(t, s, 1)
	settle(t, s)
	lines := bufio.NewReader(r)
	var text []byte
	for range 31 {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, line...)
	}
	got := seqs(t, text)
	checkBalance(t, s, 31, got)
	r.Close()
	write(t, s, 1)
	settle(t, s)
	if err := s.Flush(); !errors.Is(err, ErrReaderGone) {
		t.Errorf("Flush: %v, want ErrReaderGone", err)
	}
}

func TestFIFOWithoutReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, 0)
	write(t, s, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	<-s.w.done
	if c := s.Counters(); c.Written != 0 || c.Lost[LostClosed] != 3 {
		t.Errorf("counters %+v", c)
	}
}

func TestOpenFails(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "no", "such"), t.TempDir(), ""} {
		if s, err := OpenJSONL(JSONLOptions{Path: path}); err == nil {
			t.Errorf("%q: no error", path)
			_ = s.Close(soon(t))
		}
	}
}

// BenchmarkWrite is one process record through the queue to /dev/null.
func BenchmarkWrite(b *testing.B) {
	s, err := OpenJSONL(JSONLOptions{Path: os.DevNull, Host: "host", BootID: strconv.Itoa(1 << 40)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(context.Background())
	r := &record.Process{}
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Write(r)
	}
}

// Close waits for a goroutine that had no turn yet, however late it is: only a target
// that hangs is left behind.
func TestCloseWaitsForItsTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	target, err := openTarget(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{target: target, limit: 1000, reopenAt: -1, wake: make(chan struct{}, 1), done: make(chan struct{}), lost: map[string]uint64{}}
	w.idle = sync.NewCond(&w.mu)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = func() {}
	cancel() // there is no time left
	if _, err := w.add(func(dst []byte) ([]byte, error) { return append(dst, "a line\n"...), nil }); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- w.close(ctx) }()
	for closing := false; !closing; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		closing = w.closing
		w.mu.Unlock()
	}
	for range 5 { // it looks, and looks again
		if left := w.patience(); left <= 0 {
			t.Fatalf("patience %v", left)
		}
		time.Sleep(noTurn)
	}
	go w.run(context.Background()) // its turn
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "a line\n" || w.written != 1 || len(w.lost) != 0 {
		t.Errorf("%q, %v; %d written, lost %v", b, err, w.written, w.lost)
	}
}
