package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/report"
	"rmagent/record"
)

// badProgram is the first leaker after something was done to its file.
type badProgram struct {
	name   string
	damage func(t *testing.T, path string)
	check  func(t *testing.T, s *record.Site)
}

var badPrograms = []badProgram{
	{"two gigabytes", func(t *testing.T, path string) {
		if err := os.Truncate(path, 2<<30); err != nil {
			t.Fatal(err)
		}
	}, leakers[0].check},
	{"noise for debug information", func(t *testing.T, path string) {
		noise(t, path, ".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_rnglists")
	}, func(t *testing.T, s *record.Site) {
		if i := report.Culprit(s.Stack); i < 0 || s.Stack[i].Function.Or("") != leakers[0].function || s.Stack[i].Line.Known() {
			t.Errorf("not the function alone: %s", brief(s))
		}
	}},
	{"noise for call frame information", func(t *testing.T, path string) {
		noise(t, path, ".eh_frame", ".eh_frame_hdr")
	}, func(t *testing.T, s *record.Site) {
		// The C library's own is as it was, and leads to who called it; the code itself may
		// tell the rest.
		guessed := slices.ContainsFunc(s.Stack, func(f record.Frame) bool { return f.Guess.Known() })
		if i := report.Culprit(s.Stack); i < 0 || s.Stack[i].Function.Or("") != leakers[0].function || !s.StackEnd.Known() && !guessed {
			t.Errorf("not who leaks, or all of it is certain: %s", brief(s))
		}
	}},
	{"noise for section headers", noiseForSections, func(t *testing.T, s *record.Site) {
		if len(s.Stack) < 4 {
			t.Errorf("the walk needs none: %s", brief(s))
		}
		for i := range s.Stack {
			if f := &s.Stack[i]; filepath.Base(f.Module.Or("")) == leakers[0].name && f.Function.Known() {
				t.Errorf("a name from nowhere: %s", brief(s))
			}
		}
	}},
}

// Of a program whose file is damaged, or very large, what is not damaged is said, and
// what is held as ever; who walks the stacks stands it.
func TestFDsOfDamagedPrograms(t *testing.T) {
	needTracing(t)
	l := &leakers[0]
	var programs []*program
	for _, bad := range badPrograms {
		path := l.compile(t)
		bad.damage(t, path)
		p, _ := startProgram(t, path)
		programs = append(programs, p)
	}
	w := watchFDs(t, "10s", programs...)
	w.walks()
	for _, p := range programs {
		p.Say("")
	}
	time.Sleep(6 * time.Second)
	leaked := map[int32]uint64{}
	for _, p := range programs {
		p.Say("")
		leaked[p.PID()] = p.number()
	}
	leaks := w.leaks()
	if strings.Contains(w.stderr.String(), "stack_worker_failed") {
		t.Error(w.stderr.String())
	}
	for i, bad := range badPrograms {
		t.Run(bad.name, func(t *testing.T) {
			pid := programs[i].PID()
			r := leaks[pid]
			if r == nil || len(r.Sites) == 0 || r.Verdict != record.VerdictGrowing {
				t.Fatalf("it is said: %+v", r)
			}
			holds(t, r, leaked[pid])
			s := &r.Sites[0]
			if s.Type != l.kind || s.Target.Or("") != "/etc/hostname" {
				t.Errorf("type %s, target %s", s.Type, s.Target.Or(""))
			}
			bad.check(t, s)
		})
	}
}

// noise overwrites sections of a file.
func noise(t *testing.T, path string, sections ...string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	source := rand.New(rand.NewPCG(1, 2))
	for _, name := range sections {
		s := f.Section(name)
		if s == nil {
			t.Fatalf("%s has no %s", path, name)
		}
		b := make([]byte, s.Size)
		for i := range b {
			b[i] = byte(source.Uint32())
		}
		if _, err := out.WriteAt(b, int64(s.Offset)); err != nil {
			t.Fatal(err)
		}
	}
}

// noiseForSections takes the sections away: the kernel needs none (elf(5), e_shoff).
func noiseForSections(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, length := range map[int64]int{40: 8, 58: 6} { // e_shoff; e_shentsize, e_shnum, e_shstrndx
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, length), at); err != nil {
			t.Fatal(err)
		}
	}
}

// A program becomes another with the same layout every tenth of a second, while its
// stacks are walked: what one opened is never said to come from the other's code.
func TestFDsOfAProgramThatExecs(t *testing.T) {
	needTracing(t)
	dir := t.TempDir()
	files, eventfds := filepath.Join(dir, "files"), filepath.Join(dir, "eventfds")
	for path, flag := range map[string]string{files: "-DFILES", eventfds: "-UFILES"} {
		out, err := exec.Command("gcc", "-O1", "-g", "-no-pie", flag, "-o", path, leakPrograms+"reborn.c").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	p, _ := startProgram(t, files, eventfds)
	w := watchFDs(t, "9s", p)
	p.Say("")
	time.Sleep(6 * time.Second)
	p.Say("")
	var want [2]uint64
	if _, err := fmt.Sscan(p.Hear(""), &want[0], &want[1]); err != nil {
		t.Fatal(err)
	}
	r := w.leaks()[p.PID()]
	held, named := map[string]uint64{}, map[string]int{}
	for i := range r.Sites {
		site := &r.Sites[i]
		if site.Type == "file" && site.Target.Or("") != "/etc/hostname" {
			continue // from who started the test
		}
		held[site.Type] += site.Held
		if len(site.Stack) == 0 {
			continue
		}
		name := ""
		if c := report.Culprit(site.Stack); c >= 0 {
			name = site.Stack[c].Function.Or("")
		}
		if name != "leak_"+site.Type {
			t.Errorf("MISATTRIBUTED: %s", brief(site))
		}
		named[name]++
	}
	t.Logf("held %v, of %v; sites with names %v", held, want, named)
	if held["file"] != want[0] || held["eventfd"] != want[1] {
		t.Errorf("%v are held, of %v", held, want)
	}
	if len(named) == 0 {
		t.Error("nothing has a name")
	}
}

// A process that ends while it is traced is said to.
func TestFDsOfAProcessThatEnds(t *testing.T) {
	needTracing(t)
	p := leakers[0].start(t)
	w := watchFDs(t, "3s", p)
	p.Say("")
	w.walks()
	p.Kill()
	status := w.wait()
	if want := fmt.Sprintf("rmagent: pid %d ended while it was watched\n", p.PID()); status != cmdline.ExitFailed || w.stderr.String() != want {
		t.Errorf("exit status %d, %q: %q, want %q", status, w.out.String(), w.stderr.String(), want)
	}
}

// Where more descriptors are open than there is room to note who opened them, the rest is
// counted, those of closed ones make room first, and a leak is seen as ever.
func TestFDsOfACrowd(t *testing.T) {
	needTracing(t)
	// Of each that closes, as many as have places without the hash leave none in it: the next takes
	// them. The rest fills three quarters of it.
	const stamps, processes, closed, held = 65536, 4, 17500, 16500
	crowd := &leaker{name: "crowd", build: []string{"gcc", "-O2", "-o", "OUT", "crowd.c"}}
	path := crowd.compile(t)
	p := leakers[0].start(t)
	closers, holders := make([]*program, processes), make([]*program, processes)
	for i := range processes {
		closers[i], _ = startProgram(t, path, "close", strconv.Itoa(closed))
		holders[i], _ = startProgram(t, path, "hold", strconv.Itoa(held))
	}
	w := watchFDs(t, "1m", append(append([]*program{p}, closers...), holders...)...)
	for _, c := range closers {
		c.Say("")
		c.Hear("done")
	}
	const sweep = 2 * time.Second // stamps are swept once a second, where three quarters are used
	time.Sleep(sweep)
	for i, c := range holders {
		if i == processes-1 { // by the others, and by what closers had open at the sweep before
			time.Sleep(sweep)
		}
		c.Say("")
		c.Hear("done")
	}
	p.Say("")
	time.Sleep(7 * time.Second)
	p.Say("")
	leaked := p.number()
	if err := w.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	leaks := w.leaks()
	full := func(p *program) uint64 { return leaks[p.PID()].Unattributed["map_full"] }
	var crowded uint64
	for _, c := range holders {
		crowded += full(c)
	}
	t.Logf("no room for %d of the crowd, and %d of %d that leaked", crowded, full(p), leaked)
	if few := uint64(processes*held - stamps); crowded < few || crowded > few+100 {
		t.Errorf("%d of %d found no room", crowded, processes*held)
	}
	r := leaks[p.PID()]
	if full(p) == 0 || r.Verdict != record.VerdictGrowing {
		t.Errorf("%s, and %d of %d found no room", r.Verdict, full(p), leaked)
	}
	var there uint64
	for i := range r.Sites {
		s := &r.Sites[i]
		if s.Target.Or("") != "/etc/hostname" {
			continue
		}
		there += s.Held
		if len(s.Stack) > 0 {
			leakers[0].check(t, s)
		}
	}
	if there != leaked {
		t.Errorf("%d are held of %d", there, leaked)
	}
}

// Of rmagent fds that is killed while it traces, nothing stays in the kernel, and who was
// traced goes on.
func TestNothingStaysOfKilledFDs(t *testing.T) {
	needTracing(t)
	p := leakers[0].start(t)
	w := watchFDs(t, "1m", p)
	p.Say("")
	w.walks()
	killed(t, w.started)
	p.Say("")
	if leaked := p.number(); leaked == 0 {
		t.Error("it leaked nothing")
	}
}

// The same of an agent with all its hooks, which began to trace a suspect by itself.
func TestNothingStaysOfAKilledAgent(t *testing.T) {
	needTracing(t)
	p := leakers[0].start(t)
	cmd := builtAgent(t, "run", "--interval", "200ms", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the agent", func() bool { return size(out) > 0 })
	p.Say("")
	awaitFor(t, 4*patience, "the record that names its code", func() bool {
		b, err := os.ReadFile(out)
		return err == nil && slices.ContainsFunc(bytes.Split(b, []byte("\n")), func(line []byte) bool {
			return bytes.Contains(line, []byte(fmt.Sprintf(`"pid":%d,`, p.PID()))) && bytes.Contains(line, []byte(leakers[0].function))
		})
	})
	killed(t, s)
	p.Say("")
	if leaked := p.number(); leaked == 0 {
		t.Error("it leaked nothing")
	}
}

// Who walks the stacks has a name by which people know it, in top and in headroom, and not
// the agent's own, by which they send signals.
func TestWhoWalksStacksHasAName(t *testing.T) {
	needTracing(t)
	s := start(t, builtAgent(t, "fds", "--local", "--for", "1m", "--pid", fmt.Sprint(os.Getpid())))
	await(t, "its name", func() bool {
		return slices.ContainsFunc(children(s.cmd.Process.Pid), func(pid int32) bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return string(comm) == "rmagent-stacks\n"
		})
	})
	s.cmd.Process.Kill()
}

// killed kills an agent that traces, and waits until nothing of it is left: programs,
// links, maps, children.
func killed(t *testing.T, s *started) {
	t.Helper()
	pid := s.cmd.Process.Pid
	programs, links, maps := bpfObjects(t, pid)
	helpers := children(pid)
	if len(programs) < 5 || len(links) < 4 || len(maps) < 5 || len(helpers) == 0 {
		t.Fatalf("programs %v, links %v, maps %v, children %v", programs, links, maps, helpers)
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.wait()
	gone := func(err error) bool { return errors.Is(err, os.ErrNotExist) }
	await(t, "the end of its programs, links and maps", func() bool { // after a grace period
		for _, id := range programs {
			if o, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); !gone(err) {
				return o.Close() != nil
			}
		}
		for _, id := range links {
			if o, err := link.NewFromID(link.ID(id)); !gone(err) {
				return o.Close() != nil
			}
		}
		for _, id := range maps {
			if o, err := ebpf.NewMapFromID(ebpf.MapID(id)); !gone(err) {
				return o.Close() != nil
			}
		}
		return true
	})
	await(t, "the end of its children", func() bool {
		for _, child := range helpers {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", child)); err == nil {
				return false
			}
		}
		return true
	})
}

// bpfObjects are the ids of what a process has of BPF (bpf(2); /proc/PID/fdinfo).
func bpfObjects(t *testing.T, pid int) (programs, links, maps []uint32) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it was closed
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil {
				continue
			}
			switch key {
			case "prog_id":
				programs = append(programs, uint32(id))
			case "link_id":
				links = append(links, uint32(id))
			case "map_id":
				maps = append(maps, uint32(id))
			}
		}
	}
	return programs, links, maps
}
