package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Sources says where this machine's configuration is.
type Sources struct {
	Path    string // of the YAML file; empty: none
	Dir     string // where a .env file may be; empty: the working directory
	Environ []string
	Flags   map[string]string
	// As in [Inputs].
	Hooks    []string
	Settings map[string]string
	Tracked  []Tracked
	// Alone leaves out a .env file.
	Alone bool
}

// Read loads the configuration from this machine's files. Where no YAML file was
// named, a trustworthy .env file is used, and Notes says so. Its error is an
// [*Error], as Load's.
func Read(s Sources) (*Loaded, error) {
	in := s.inputs()
	var notes []string
	if s.Path != "" {
		content, err := readBounded(s.Path, maxFile+1)
		if err != nil {
			return nil, &Error{Problems: []Problem{{Origin: Origin{Layer: LayerFile, Name: s.Path}, What: err.Error()}}}
		}
		in.File = content
	} else if !s.Alone {
		content, err := readDotEnv(filepath.Join(s.Dir, dotEnvName))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			notes = append(notes, fmt.Sprintf("the file .env of the working directory is not used: %v", err))
		default:
			in.DotEnv = content
			notes = append(notes, "the file .env of the working directory is used")
		}
	}
	l, err := Load(in)
	if err != nil {
		return nil, err
	}
	l.Notes = append(notes, l.Notes...)
	return l, nil
}

func (s *Sources) inputs() Inputs {
	return Inputs{Path: s.Path, Environ: s.Environ, Flags: s.Flags, Hooks: s.Hooks, Settings: s.Settings, Tracked: s.Tracked}
}

// With loads the configuration from the text of the files that l was made of, and else
// from s: whoever changes a setting means what is in force, whatever has become of the
// files.
func (l *Loaded) With(s Sources) (*Loaded, error) {
	in := s.inputs()
	in.File, in.DotEnv = l.file, l.dotEnv
	return Load(in)
}

// readBounded reads a file up to limit bytes. A FIFO is not waited for.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, cause("open", err)
	}
	defer f.Close()
	return readRegular(f, limit)
}

func readRegular(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, cause("stat", err)
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, cause("read", err)
	}
	return content, nil
}

// readDotEnv reads a .env file that nobody but the effective user and root can
// have written. A service that is started in a directory of somebody else must
// not take its settings from there.
func readDotEnv(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link")
	}
	if err != nil {
		return nil, cause("open", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, cause("stat", err)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("it belongs to the user %d", st.Uid)
	}
	// A POSIX ACL that lets others write shows in the group's bits: they are
	// its mask (acl(5)).
	if st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("others than its owner can write it (mode %04o)", st.Mode&0o7777)
	}
	return readRegular(f, maxFile)
}

// cause leaves out the path, which who calls names.
func cause(what string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("%s: %w", what, err)
}
