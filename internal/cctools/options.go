package cctools

import "time"

// Options are what resource_monitor, and `rmagent exec`, can be asked for.
type Options struct {
	// What to measure: one of Command, Shell (run by /bin/sh -c) and PID.
	Command []string
	Shell   string
	PID     int

	Template   string        // prefix of the files; empty: resource-pid-N with the monitor's PID
	Interval   time.Duration // between rows of the series and readings of directories
	Limits     Limits
	Only       bool // --measure-only: a broken limit is noted, not enforced
	Foreground bool // -f: the command becomes the terminal's foreground process group

	Series        bool // write Template.series
	Inotify       bool // write Template.files
	UpdateSummary bool // write Template.summary at every interval
	Compact       bool // --no-pprint: the summary in one line
	AccurateShort bool // --accurate-short-processes: rmagent always is, unless it polls

	Category string // of the summary; -V 'category: NAME' sets it too
	TaskID   string
	Verbatim []Field

	MeasureDirs   []string      // absolute; empty: the working directory at the start
	FollowChdir   bool          // every working directory of the tree's processes
	NoDisk        bool          // --without-disk-footprint: wins over the two above
	SnapshotFiles []WatchedFile // --snapshot-events
	EventsPath    string        // of the file that SnapshotFiles came from

	DebugFile string // -o: what the monitor says of itself; :stderr and :stdout are those; empty: nowhere
}

// WatchedFile is a file whose changes cause snapshots.
type WatchedFile struct {
	Path          string // relative to the working directory at the start
	FromStart     bool   // lines that are there at the start count
	KeepTruncated bool   // a file that was cut short is read on from its end, not from its start
	Delete        bool   // the file is deleted when it is found
	Events        []WatchEvent
}

// WatchEvent is what causes a snapshot: exactly one of the four.
type WatchEvent struct {
	Label      string // [A-Za-z0-9_-]+
	OnCreate   bool
	OnDelete   bool
	OnTruncate bool
	OnPattern  *Pattern // a line matches
	Count      int64    // snapshots at most; below 0: no limit
}
