package opened

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

// Bounds of what is counted.
const (
	maxWatches = 50_000  // directories
	maxFiles   = 100_000 // files that were opened
)

// mask is what is counted of files, and what tells of new directories.
const mask = unix.IN_OPEN | unix.IN_ACCESS | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_CLOSE_NOWRITE |
	unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK

// Options say what is counted.
type Options struct {
	Dirs []string // absolute; with all that is below them
	// Here is the directory whose files are named relative to it, as cctools does.
	Here string
	// Ignore, if any, tells of files, by their absolute path, that are not the job's.
	Ignore func(path string) bool
}

// Counter counts until it is closed.
type Counter struct {
	options Options
	in      *os.File // the inotify instance
	fd      int      // its descriptor, which in keeps open
	ended   chan struct{}
	once    sync.Once

	mu     sync.Mutex
	dirs   map[int32]string // by watch descriptor
	files  map[string]*cctools.File
	missed string // why not all is counted; empty: it is
}

// Start begins to count. What happens after it returns is counted.
func Start(o Options) (*Counter, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch files: inotify_init1: %w", err)
	}
	c := &Counter{
		options: o, in: os.NewFile(uintptr(fd), "inotify"), fd: fd, ended: make(chan struct{}),
		dirs: map[int32]string{}, files: map[string]*cctools.File{},
	}
	for _, dir := range o.Dirs {
		c.tree(dir, false)
	}
	go c.loop()
	return c, nil
}

// Files returns what was counted, by path, and why that is not all of it.
func (c *Counter) Files() ([]cctools.File, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]cctools.File, 0, len(c.files))
	for _, f := range c.files {
		list = append(list, *f)
	}
	slices.SortFunc(list, func(a, b cctools.File) int { return cmp.Compare(a.Path, b.Path) })
	return list, c.missed
}

// Close takes what has happened until now into account, and ends the counting. The
// sizes of files that are still open are read.
func (c *Counter) Close() { c.once.Do(c.close) }

func (c *Counter) close() {
	c.drain()
	c.in.Close()
	<-c.ended
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.files {
		c.final(f)
	}
}

// loop reads events until the instance is closed.
func (c *Counter) loop() {
	defer close(c.ended)
	buf := make([]byte, 64<<10)
	for {
		n, err := c.in.Read(buf)
		if err != nil {
			return
		}
		c.take(buf[:n])
	}
}

// drain reads what is there and does not wait for more.
func (c *Counter) drain() {
	raw, err := c.in.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	_ = raw.Control(func(fd uintptr) { // it stays open meanwhile
		for {
			n, err := unix.Read(int(fd), buf)
			if err != nil || n <= 0 {
				return
			}
			c.take(buf[:n])
		}
	})
}

// tree watches a directory and all below it. Late: it has come to be meanwhile, and
// what is in it may have been opened unseen.
func (c *Counter) tree(root string, late bool) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil { // gone, or closed to us
			if !errors.Is(err, fs.ErrNotExist) {
				c.miss("a directory could not be read: " + err.Error())
			}
			return nil
		}
		if !d.IsDir() {
			if late {
				c.found(path)
			}
			return nil
		}
		return c.watch(path)
	})
}

func (c *Counter) watch(dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dirs) >= maxWatches {
		c.missed = fmt.Sprintf("there are more than %d directories", maxWatches)
		return fs.SkipAll
	}
	wd, err := unix.InotifyAddWatch(c.fd, dir, mask)
	switch {
	case err == nil:
		c.dirs[int32(wd)] = dir
	case errors.Is(err, unix.ENOSPC):
		c.missed = "no more directories may be watched (fs.inotify.max_user_watches)"
		return fs.SkipAll
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
		c.missed = fmt.Sprintf("directory %q could not be watched: %v", dir, err)
	}
	return nil
}

func (c *Counter) miss(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = why
}

// found notes a file that was made before its directory was watched.
func (c *Counter) found(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.file(path, true); f != nil {
		f.Output = true
		c.missed = "files in new directories were opened before they could be watched"
	}
}

// take counts events.
func (c *Counter) take(b []byte) {
	for {
		e, rest, ok := cutEvent(b)
		if !ok {
			return
		}
		b = rest
		c.event(e)
	}
}

func (c *Counter) event(e event) {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		c.miss("the kernel's queue of events was full (fs.inotify.max_queued_events)")
		return
	}
	c.mu.Lock()
	dir, ok := c.dirs[e.wd]
	if e.mask&unix.IN_IGNORED != 0 {
		delete(c.dirs, e.wd)
		ok = false
	}
	c.mu.Unlock()
	if !ok || e.name == "" {
		return
	}
	path := filepath.Join(dir, e.name)
	if e.mask&unix.IN_ISDIR != 0 {
		if e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			c.tree(path, true)
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.file(path, e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0); f != nil {
		c.count(f, e.mask)
	}
}

// file returns what is known of a file; nil: it is not counted.
func (c *Counter) file(path string, fresh bool) *cctools.File {
	if c.options.Ignore != nil && c.options.Ignore(path) {
		return nil
	}
	name := path
	if rel, ok := strings.CutPrefix(path, c.options.Here+"/"); ok && c.options.Here != "" {
		name = rel
	}
	f := c.files[name]
	if f != nil {
		return f
	}
	if len(c.files) >= maxFiles {
		c.missed = fmt.Sprintf("more than %d files were opened", maxFiles)
		return nil
	}
	f = &cctools.File{Path: name, SizeInitial: -1, SizeFinal: -1}
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		f.Device = int64(st.Dev)
		if !fresh {
			f.SizeInitial = st.Size
		}
	}
	c.files[name] = f
	return f
}

func (c *Counter) count(f *cctools.File, mask uint32) {
	switch {
	case mask&unix.IN_OPEN != 0:
		f.Opens++
	case mask&unix.IN_ACCESS != 0:
		f.Reads++
	case mask&unix.IN_MODIFY != 0:
		f.Writes++
		f.Output = true
	case mask&(unix.IN_CLOSE_WRITE|unix.IN_CLOSE_NOWRITE) != 0:
		f.Closes++
		f.Output = f.Output || mask&unix.IN_CLOSE_WRITE != 0
		c.final(f)
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		f.Output = true
	}
}

// final reads the size of a file as it is now.
func (c *Counter) final(f *cctools.File) {
	path := f.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.options.Here, path)
	}
	var st unix.Stat_t
	f.SizeFinal = -1
	if unix.Lstat(path, &st) == nil {
		f.SizeFinal = st.Size
	}
}
