package execcmd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/filewatch"
	"rmagent/internal/footprint"
	"rmagent/internal/job"
	"rmagent/internal/opened"
	"rmagent/record"
)

// watchFlags are the flags of what is watched beside a job's processes.
func watchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "measure-dir", Usage: "measure what `DIR` holds; repeatable; default: the working directory at the start"},
		&cli.BoolFlag{Name: "follow-chdir", Usage: "measure what the working directories of the job's processes hold"},
		&cli.BoolFlag{Name: "without-disk-footprint", Usage: "measure no directory"},
		&cli.BoolFlag{Name: "with-inotify", Usage: "write TEMPLATE.files: what was opened in the directories, how often"},
		&cli.StringFlag{Name: "snapshot-events", Usage: "take snapshots at what `FILE` (JSON) says of files: TEMPLATE.snapshot.NN"},
		&cli.StringFlag{Name: "taskid", Usage: "put `ID` into the summary"},
	}
}

// readWatchFlags reads watchFlags.
func readWatchFlags(c *cli.Context, o *cctools.Options) error {
	o.MeasureDirs, o.FollowChdir = c.StringSlice("measure-dir"), c.Bool("follow-chdir")
	o.NoDisk, o.Inotify, o.TaskID = c.Bool("without-disk-footprint"), c.Bool("with-inotify"), c.String("taskid")
	if o.FollowChdir && len(o.MeasureDirs) > 0 {
		return cmdline.Usagef("--follow-chdir and --measure-dir can't be used together")
	}
	if o.EventsPath = c.String("snapshot-events"); o.EventsPath != "" {
		data, err := readFew(o.EventsPath, cctools.MaxEventsFile)
		if err == nil {
			o.SnapshotFiles, err = cctools.ParseEvents(o.EventsPath, data)
		}
		if err != nil {
			return cmdline.Usagef("--snapshot-events: %v", err)
		}
	}
	if (o.Inotify || o.SnapshotFiles != nil) && o.Template == "" {
		return cmdline.Usagef("exec: --with-inotify and --snapshot-events write files: --output says where")
	}
	return nil
}

// maxSnapshots is how many snapshots a summary keeps.
const maxSnapshots = 10_000

// jobWatch is what is watched beside a job's processes: its directories and files.
type jobWatch struct {
	plan   *plan
	here   string // the working directory at the start
	dirs   []string
	begin  time.Time
	disk   *footprint.Meter   // nil: not measured
	files  *opened.Counter    // nil: not counted
	events *filewatch.Watcher // nil: none
	out    *os.File           // for files; nil without

	nodes     uint64 // that the filesystem had free at first
	measured  bool   // directories were, once at least
	partial   bool   // not all of them could be
	snapshots []cctools.Snapshot
	window    cctools.Measures // since the last snapshot
	since     float64          // seconds at which it began
	lost      int              // snapshots that were not kept
	failed    error            // writing a snapshot, the first time
}

// openJobWatch begins to watch. Mistakes are told before anything is started.
func openJobWatch(p *plan, f *jobFiles) (_ *jobWatch, err error) {
	w := &jobWatch{plan: p}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.here, err = os.Getwd(); err != nil {
		return nil, fmt.Errorf("the working directory: %w", err)
	}
	if w.dirs, err = directories(p.MeasureDirs, w.here); err != nil {
		return nil, err
	}
	if err := w.measurable(); err != nil {
		return nil, err
	}
	if !p.NoDisk {
		w.disk = footprint.Start(footprint.Options{Dirs: w.dirs, Follow: p.FollowChdir, Every: w.every(), Share: w.share()})
	}
	if p.Inotify {
		if w.out, err = f.create(p.Template+".files", 0); err != nil {
			return nil, err
		}
		if w.files, err = opened.Start(opened.Options{Dirs: w.dirs, Here: w.here, Ignore: ownFiles(p, w.here)}); err != nil {
			return nil, err
		}
	}
	if p.SnapshotFiles != nil {
		w.events = filewatch.Start(p.SnapshotFiles, w.here)
	}
	return w, nil
}

// started is told when the job began.
func (w *jobWatch) started(at time.Time) { w.begin = at }

// directories makes what was given absolute; every one must be a directory.
func directories(given []string, here string) ([]string, error) {
	if len(given) == 0 {
		return []string{here}, nil
	}
	var dirs []string
	for _, dir := range given {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, fmt.Errorf("--measure-dir: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("--measure-dir: %q is no directory", dir)
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(here, dir)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// measurable refuses limits that would never be looked at.
func (w *jobWatch) measurable() error {
	for _, id := range []cctools.Measure{cctools.Disk, cctools.TotalFiles, cctools.FSNodes} {
		if w.plan.NoDisk && w.plan.Limits.Known(id) {
			return fmt.Errorf("%s is limited, but --without-disk-footprint leaves it unmeasured", id)
		}
	}
	return nil
}

// limited reports whether the job may be ended for what its directories hold.
func (w *jobWatch) limited() bool {
	l := &w.plan.Limits
	return l.Known(cctools.Disk) || l.Known(cctools.TotalFiles) || l.Known(cctools.FSNodes)
}

// every and share are how often directories are looked at: more where a limit waits
// for it.
func (w *jobWatch) every() time.Duration {
	if w.limited() {
		return 200 * time.Millisecond
	}
	return time.Second
}

func (w *jobWatch) share() int {
	if w.limited() {
		return 10
	}
	return 100
}

// ownFiles tells the files that the monitor itself writes.
func ownFiles(p *plan, here string) func(string) bool {
	absolute := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(here, path)
	}
	template, debug, records := absolute(p.Template), absolute(p.DebugFile), absolute(p.jsonl)
	dir, _ := filepath.Split(template)
	return func(path string) bool {
		if path == debug || path == records || path == template+".series" || path == template+".files" || path == template+".summary" {
			return true
		}
		return strings.HasPrefix(path, template+".snapshot.") || strings.HasPrefix(path, dir+cmdline.UnfinishedFile)
	}
}

// more adds what directories hold to each reading, and takes snapshots.
func (w *jobWatch) more(at job.Moment) *cctools.Measures {
	var more cctools.Measures
	begin := float64(w.begin.UnixMicro()) / 1e6
	more.Set(cctools.Start, begin)
	more.Set(cctools.End, begin+at.Seconds) // a limit of it is a deadline
	more.SetCount(cctools.Workers, 0)
	w.measure(at, &more)
	var times cctools.Measures // nobody asks when
	w.window.Raise(at.Now, &times, at.Seconds)
	w.window.Raise(&more, &times, at.Seconds)
	if w.events != nil {
		name := w.events.Due()
		if at.Last {
			name = strings.Trim(name+","+w.events.Final(time.Second), ",")
		}
		if name != "" {
			w.snapshot(name, at.Seconds)
		}
	}
	return &more
}

func (w *jobWatch) measure(at job.Moment, more *cctools.Measures) {
	if w.disk == nil {
		return
	}
	w.disk.Processes(func(yield func(int32) bool) {
		for i := range at.Processes {
			if !yield(at.Processes[i].ID.PID) {
				return
			}
		}
	})
	size, known := w.disk.Last()
	if at.Last {
		// Nothing of the job is left: working directories are looked at as they were.
		if last, ok := w.disk.Final(w.patience(at.Seconds)); ok {
			size, known = last, true
		}
	}
	if !known {
		return
	}
	w.partial = w.partial || size.Partial
	more.SetBytes(cctools.Disk, size.Bytes)
	more.SetCount(cctools.TotalFiles, size.Files)
	if size.Nodes {
		if !w.measured {
			w.nodes = size.FreeNodes
		}
		more.SetCount(cctools.FSNodes, w.nodes-min(w.nodes, size.FreeNodes))
	}
	w.measured = true
}

// patience is how long a job that ended waits for its directories to be measured.
func (w *jobWatch) patience(seconds float64) time.Duration {
	p := w.plan
	if w.limited() || len(p.MeasureDirs) > 0 || p.FollowChdir {
		return 10 * time.Second
	}
	least := 5 * time.Millisecond
	if p.asMonitor {
		least = 500 * time.Millisecond
	}
	return min(max(least, time.Duration(seconds*float64(time.Second)/10)), 2*time.Second)
}

// snapshot keeps what the job used since the last one, with its totals since the
// start, and writes it.
func (w *jobWatch) snapshot(name string, seconds float64) {
	begin := float64(w.begin.UnixMicro()) / 1e6
	s := cctools.Snapshot{Name: name, Measures: w.window}
	s.Set(cctools.Start, begin+w.since)
	s.Set(cctools.End, begin+seconds)
	s.Set(cctools.WallTime, seconds-w.since)
	w.window, w.since = cctools.Measures{}, seconds
	path := fmt.Sprintf("%s.snapshot.%02d", w.plan.Template, len(w.snapshots)+w.lost)
	if len(w.snapshots) < maxSnapshots {
		w.snapshots = append(w.snapshots, s)
	} else {
		w.lost++
	}
	if err := os.WriteFile(path, cctools.AppendSnapshot(nil, &s, w.plan.fileOptions()), 0o666); err != nil && w.failed == nil {
		w.failed = err // of thousands that a full disk refuses one is told
	}
}

// finish adds to the summary, and writes what is left to write.
func (w *jobWatch) finish(s *cctools.Summary) error {
	s.Snapshots = w.snapshots
	w.worth(s)
	w.explain(s)
	if w.files != nil {
		w.files.Close()
		files, missed := w.files.Files()
		s.Files, s.FilesMissed = append(w.executable(), w.withoutOwn(files)...), missed
		err := empty(w.out)
		if err == nil {
			_, err = w.out.Write(cctools.AppendFiles(nil, s.Files))
		}
		w.failed = errors.Join(w.failed, err, w.out.Close())
	}
	return w.failed
}

// errnoNoSpace is ENOSPC (errno.h).
const errnoNoSpace = 28

// explain deduces from a filesystem that had nothing left why a job failed: the kernel
// tells nobody which call failed with ENOSPC, but for a price at each call of everybody.
func (w *jobWatch) explain(s *cctools.Summary) {
	if w.disk == nil || s.ExitStatus == 0 || s.ExitType == cctools.ExitLimits || s.Cause != "" {
		return
	}
	full := w.disk.Exhausted()
	if full.Dir == "" {
		return
	}
	what := "space"
	if full.Inodes {
		what = "inodes"
	}
	s.LastError = errnoNoSpace
	s.Cause = fmt.Sprintf("the filesystem of %s had no %s left while the job ran: it failed probably by that (ENOSPC)", record.Text([]byte(full.Dir)), what)
}

// withoutOwn takes off the opens that snapshot events needed. Reads can't be: the
// kernel merges them.
func (w *jobWatch) withoutOwn(files []cctools.File) []cctools.File {
	if w.events == nil {
		return files
	}
	own := w.events.Opens()
	for i := range files {
		f := &files[i]
		path := f.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(w.here, path)
		}
		f.Opens, f.Closes = max(0, f.Opens-own[path]), max(0, f.Closes-own[path])
	}
	return files
}

// executable is the file that the job began with, as cctools counts it: opened once.
func (w *jobWatch) executable() []cctools.File {
	name := shell
	if w.plan.Shell == "" && len(w.plan.Command) > 0 {
		name = w.plan.Command[0]
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	return []cctools.File{{Path: path, Device: int64(st.Dev), SizeInitial: st.Size, SizeFinal: st.Size, Opens: 1}}
}

// worth says what is known of the directories, and why not more.
func (w *jobWatch) worth(s *cctools.Summary) {
	set := func(id cctools.Measure, e cctools.Exactness, why string) {
		s.Exactness[id] = e
		delete(s.Why, id)
		if why != "" {
			s.Why[id] = why
		}
	}
	set(cctools.Workers, cctools.Exact, "")
	for _, id := range []cctools.Measure{cctools.Disk, cctools.TotalFiles, cctools.FSNodes} {
		switch {
		case w.disk == nil:
			set(id, cctools.Unknown, "--without-disk-footprint")
		case !w.measured:
			set(id, cctools.Unknown, "the directories could not be walked in the time that the job took")
		case !s.Measures.Known(id):
			set(id, cctools.Unknown, "the filesystem does not tell")
		case id == cctools.FSNodes:
			set(id, cctools.Sampled, "of the whole filesystem, whoever took them")
		case w.partial:
			set(id, cctools.AtLeast, "not all of the directories could be read")
		default:
			set(id, cctools.Sampled, "the highest of readings between which the walk rests")
		}
	}
}

func (w *jobWatch) close() {
	if w.disk != nil {
		w.disk.Close()
	}
	if w.files != nil {
		w.files.Close()
	}
	if w.events != nil {
		w.events.Close()
	}
	if w.out != nil {
		w.out.Close()
	}
}
