//go:build cgo

// Command rmagent-nvml asks NVIDIA's library about the GPUs, for rmagent, whose
// child it is: package wire says how they speak. It is a program of its own because
// the library is C, which may hang, or crash who calls it; rmagent has neither C
// nor the rights that it runs without.
//
// It must be linked with -z lazy, as the Makefile does: functions that an older
// library lacks stay unresolved, and are not called.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"rmagent/internal/gpu/wire"
)

const library = "libnvidia-ml.so.1"

func main() {
	for _, fd := range []int{wire.RequestFD, wire.ReadingFD} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			fmt.Fprintln(os.Stderr, "rmagent-nvml: rmagent starts this program, where there are NVIDIA GPUs")
			os.Exit(2)
		}
	}
	r := newReader(nvml.New(nvml.WithLibraryPath(library)), "/proc/driver/nvidia/gpus")
	r.open = open
	if err := serve(os.NewFile(wire.RequestFD, "requests"), os.NewFile(wire.ReadingFD, "readings"), r); err != nil {
		fmt.Fprintln(os.Stderr, "rmagent-nvml:", err)
		os.Exit(1)
	}
}

// open says why the library can't be loaded; NVML itself only says that it can't.
func open() error { return dl.New(library, dl.RTLD_LAZY|dl.RTLD_GLOBAL).Open() }

// serve answers until nobody asks any more, or NVML can't be used.
func serve(requests io.Reader, readings io.Writer, r *reader) error {
	for {
		var asked wire.Request
		if err := wire.Read(requests, &asked); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		answer := r.read()
		if err := wire.Write(readings, answer); err != nil {
			return err
		}
		if answer.Failure != "" {
			return nil
		}
	}
}
