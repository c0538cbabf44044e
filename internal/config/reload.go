package config

import (
	"reflect"

	"golang.org/x/sys/unix"
)

// Adoption is what becomes of a new configuration in an agent that runs.
type Adoption struct {
	// Loaded is what is in force from now on: the new values of keys that can change
	// while the agent runs, the old ones of all others.
	*Loaded
	Changed []string // keys with a new value in force
	Waiting []string // keys whose new value takes effect at the next start
}

// Live tells whether a key can change while the agent runs.
func Live(name string) bool {
	k := keyNamed(name)
	return k != nil && !k.restart
}

// Adopt says what an agent that works by l does with the configuration next.
func (l *Loaded) Adopt(next *Loaded) (*Adoption, error) {
	a := Adoption{}
	values, origins := typedLayer{}, map[string]Origin{}
	for place, o := range next.origins { // those of items, too
		origins[place] = o
	}
	for i := range keys {
		k := &keys[i]
		values[k.name] = next.values[k.name]
		if reflect.DeepEqual(l.values[k.name], next.values[k.name]) {
			continue
		}
		if k.restart {
			values[k.name], origins[k.name] = l.values[k.name], l.origins[k.name]
			a.Waiting = append(a.Waiting, k.name)
			continue
		}
		a.Changed = append(a.Changed, k.name)
	}
	var err error
	if a.Loaded, err = merge([]typedLayer{values}); err != nil {
		return nil, err
	}
	a.origins, a.Notes, a.file, a.dotEnv = origins, next.Notes, next.file, next.dotEnv
	return &a, nil
}

// FileWatch notices that a file is another one than before: that it was written to,
// that another was renamed over it, or that a link on the way to it points elsewhere,
// as those of a Kubernetes ConfigMap do.
type FileWatch struct {
	path         string
	loaded, seen fileState
}

// fileState tells one content of a file from another.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// WatchFile begins to watch; what is there now counts as known.
func WatchFile(path string) *FileWatch {
	w := &FileWatch{path: path}
	w.Reading()
	return w
}

// Changed looks at the file. It is true once for each change, and only when the file
// was the same at the look before: one that is being written is not read half.
func (w *FileWatch) Changed() bool {
	now := stateOf(w.path)
	settled := now == w.seen
	w.seen = now
	if now == w.loaded || !settled {
		return false
	}
	w.loaded = now
	return true
}

// Reading says that the file is about to be read: what is there now counts as known.
func (w *FileWatch) Reading() {
	w.loaded = stateOf(w.path)
	w.seen = w.loaded
}

// stateOf is the zero state where there is no such file.
func stateOf(path string) fileState {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileState{}
	}
	return fileState{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}
