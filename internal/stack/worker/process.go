package worker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/procmem"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
)

// refresh reads the mappings of an image where what is known is older than age. Where
// they changed, what was remembered of walks is forgotten. A process that is gone
// keeps those it had.
func (c *Client) refresh(image Image, im *imageState, age time.Duration) error {
	if !im.read.IsZero() && time.Since(im.read) < age {
		return nil
	}
	mappings, err := readMappings(image.ID)
	if err != nil {
		if im.read.IsZero() {
			return err
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	im.read = time.Now()
	if slices.Equal(mappings, im.mappings) {
		return nil
	}
	if !im.dropped {
		c.nodes -= im.templates.Nodes()
	}
	im.mappings, im.machine, im.generates = mappings, nil, hasMachine(mappings)
	c.reset(im)
	if im.number != 0 {
		c.forgotten = append(c.forgotten, im.number)
		im.number = 0
	}
	return nil
}

func codeOf(mappings []stack.Mapping) []stack.Range {
	code := make([]stack.Range, len(mappings))
	for i := range mappings {
		code[i] = stack.Range{Start: mappings[i].Start, End: mappings[i].End}
	}
	return code
}

// readMappings reads what is executable in a process, and makes sure that it is that
// process: the one that has its PID now may be another.
func readMappings(id sample.ID) ([]stack.Mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", id.PID))
	if err != nil {
		return nil, endedOr(err)
	}
	defer f.Close()
	mappings, err := stack.ParseMaps(f)
	if err != nil {
		return nil, endedOr(err)
	}
	start, err := startTicks(id.PID)
	if err != nil {
		return nil, endedOr(err)
	}
	if start != id.StartTicks || len(mappings) == 0 {
		return nil, errEnded
	}
	return mappings, nil
}

var errEnded = errors.New("it ended before")

func endedOr(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return errEnded
	}
	return err
}

// startTicks reads field 22 of /proc/PID/stat (proc(5)).
func startTicks(pid int32) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, errors.New("not a line of /proc/PID/stat")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// goroutine copies what may be the runtime.g of a stack's goroutine; nil where there is
// nothing. Go keeps its address in R14 on amd64 (its ABIInternal); a program that is
// not Go has something else there, which is found out by who reads the copy. What is there
// may keep a reader for ever: who did so once is not asked again.
func (c *Client) goroutine(id sample.ID, raw *sample.RawStack) []byte {
	const size = 512
	if raw.R14 == 0 || raw.R14%8 != 0 || raw.R14>>47 != 0 {
		return nil
	}
	c.mu.Lock()
	slow := c.slow[id]
	c.mu.Unlock()
	if slow {
		return nil
	}
	at := raw.R14
	b, err := procmem.InTime(c.gate, goroutineTime, func() ([]byte, error) {
		b := make([]byte, size)
		return b, procmem.Process(id.PID).ReadAt(b, at)
	}, nil)
	if errors.Is(err, procmem.ErrLate) {
		c.mu.Lock()
		c.slow[id] = true
		c.mu.Unlock()
	}
	if err != nil {
		return nil
	}
	return b
}

// goroutineTime is how long whoever asks for a Site waits for that.
const goroutineTime = 50 * time.Millisecond

// ownVDSO copies the kernel's module from this process: it is the same code in all of
// them, and others may have changed theirs.
func ownVDSO() ([]byte, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mappings, err := stack.ParseMaps(f)
	if err != nil {
		return nil, err
	}
	for _, m := range mappings {
		if m.Path != vdsoPath {
			continue
		}
		b := make([]byte, m.End-m.Start)
		return b, procmem.Process(os.Getpid()).ReadAt(b, m.Start)
	}
	return nil, errors.New("this process has none")
}

// openMapped opens the file of a mapping: as the kernel has it, which is right for
// deleted and replaced files and in every mount namespace, but takes a capability
// (proc(5), map_files); the program itself; by its path in the process's root.
func (c *Client) openMapped(pid int32, m *stack.Mapping) (opened, error) {
	f, err := c.open.link(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End), nil)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return f, endedOr(err)
	}
	if !errors.Is(err, os.ErrPermission) {
		return f, err
	}
	same := mappedAt(m.Device, m.Inode)
	if f, err = c.open.link(fmt.Sprintf("/proc/%d/exe", pid), same); err == nil {
		return f, nil
	}
	return c.open.inside(pid, m.Path, 0, same)
}

// rootsOwn refuses files that somebody else than root may have made.
func rootsOwn(st *unix.Stat_t) error {
	if st.Uid != 0 {
		return errors.New("not root's")
	}
	return nil
}

// openPerfMap opens what a process says of the code that it generated, under the PID
// that it has in its own namespace. It is in a directory that everybody writes to: a
// link there, of either kind, could be to a file that is nobody's to see.
func (c *Client) openPerfMap(pid int32) (opened, bool) {
	own, err := ownPID(pid)
	if err != nil {
		return opened{}, false
	}
	var process unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &process); err != nil {
		return opened{}, false
	}
	f, err := c.open.inside(pid, "/tmp/perf-"+own+".map", unix.O_NOFOLLOW, func(st *unix.Stat_t) error {
		if st.Uid != process.Uid && st.Uid != 0 {
			return errors.New("another user's")
		}
		if st.Nlink != 1 {
			return errors.New("it has another name, too")
		}
		return nil
	})
	return f, err == nil
}

// ownPID reads the PID that a process has in its own namespace (proc(5), NSpid).
func ownPID(pid int32) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(b), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if !ok || len(fields) == 0 {
		return "", errors.New("no NSpid")
	}
	return fields[len(fields)-1], nil
}
