package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// HelperName is the file name of the child.
const HelperName = "rmagent-nvml"

// WhyNone says why there is nothing to start a child for; empty: there is a driver.
// It costs one or two calls of stat.
func WhyNone(root string) string {
	if _, err := os.Stat(root + "/proc/driver/nvidia/version"); err != nil {
		return "no NVIDIA driver is loaded"
	}
	if _, err := os.Stat(root + "/dev/nvidiactl"); err != nil {
		return "the NVIDIA driver is loaded, but /dev/nvidiactl is missing: run nvidia-modprobe"
	}
	return ""
}

// find returns the child's path: beside the agent, else in the libexec directory
// that belongs to it, else in PATH. An agent runs with many rights, so the file
// must be one that nobody else can have put there.
func find() (string, error) {
	var places []string
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		places = append(places, dir, filepath.Join(dir, "../libexec/rmagent"), filepath.Join(dir, "../libexec"))
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			places = append(places, dir)
		}
	}
	for _, dir := range places {
		path := filepath.Join(dir, HelperName)
		if _, err := os.Stat(path); err == nil {
			return trusted(path)
		}
	}
	return "", fmt.Errorf("%s is not installed: it is neither beside rmagent, nor in its libexec directory, nor in PATH", HelperName)
}

// Installed says why the child's program can't be started from where it is looked for;
// nil: it can.
func Installed() error {
	_, err := find()
	return err
}

// trusted returns the real path of a program that only root and this user can
// change.
func trusted(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is no program", real)
	}
	for p := real; ; p = filepath.Dir(p) {
		if err := onlyOurs(p); err != nil {
			return "", fmt.Errorf("%s is not started: %w", path, err)
		}
		if p == "/" {
			return real, nil
		}
	}
}

// onlyOurs fails if another user can change a file, or what a directory has. In a
// sticky directory others can add names, but not replace ours.
func onlyOurs(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is unknown")
	}
	if sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d", path, sys.Uid)
	}
	if writable := st.Mode()&0o022 != 0; writable && !(st.IsDir() && st.Mode()&fs.ModeSticky != 0) {
		return fmt.Errorf("%s can be written by others (mode %04o)", path, st.Mode().Perm())
	}
	return nil
}

// firstLine is the first line of what a program said, short enough for a log.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return clip(line)
}
