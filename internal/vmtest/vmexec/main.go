package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"rmagent/internal/vmtest"
)

const (
	statusFailed = 1 // what go test expects of a test that fails
	statusUsage  = 2
	consoleLines = 200
	moduleInside = "/src" // where the module's root would be in the guest
)

func main() {
	if vmtest.IsInit() {
		vmtest.Init()
	}
	g, timeout := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s", timeout))
	defer cancel()

	status, console, err := g.Run(ctx, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmexec: kernel %s: %v\n", g.Kernel, err)
		status = statusFailed
	}
	if status != 0 {
		fmt.Fprintf(os.Stderr, "vmexec: kernel %s: the console's last lines:\n%s\n", g.Kernel, tail(console, consoleLines))
	}
	os.Exit(status)
}

// parse makes a guest of the command line; it ends the program where it can't.
func parse() (*vmtest.Guest, time.Duration) {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: vmexec [flags] TESTBINARY [argument...]")
		flag.PrintDefaults()
	}
	g := &vmtest.Guest{}
	flag.StringVar(&g.Kernel, "kernel", "", "kernel: `NAME` of .cache/kernels/vmlinuz-NAME, or a path")
	flag.IntVar(&g.MemoryMiB, "memory", 512, "memory of the guest in `MiB`")
	flag.IntVar(&g.CPUs, "cpus", 2, "processors of the guest")
	timeout := flag.Duration("timeout", 5*time.Minute, "time until the guest is killed")
	flag.Func("file", "copy a file or directory into the guest, as `GUESTPATH=PATH`; may be given again", func(s string) error {
		inside, outside, found := strings.Cut(s, "=")
		if !found || !path.IsAbs(inside) {
			return errors.New("want /GUESTPATH=PATH")
		}
		g.Files = append(g.Files, vmtest.File{Guest: inside, Host: outside})
		return nil
	})
	flag.Func("env", "set a variable in the guest, as `NAME=VALUE`, or NAME to pass on the value here; may be given again", func(s string) error {
		if !strings.Contains(s, "=") {
			value, found := os.LookupEnv(s)
			if !found {
				return nil
			}
			s += "=" + value
		}
		g.Env = append(g.Env, s)
		return nil
	})
	flag.Parse()
	if g.Kernel == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(statusUsage)
	}
	if err := complete(g, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "vmexec:", err)
		os.Exit(statusUsage)
	}
	return g, *timeout
}

// complete adds what follows from where vmexec runs: go test starts it in the
// directory of the package. The guest gets that directory's testdata and that of
// the module's root at the same places below its own copy of the root.
func complete(g *vmtest.Guest, command []string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := moduleRoot(here)
	if err != nil {
		return err
	}
	below, err := filepath.Rel(root, here)
	if err != nil {
		return err
	}
	if strings.Contains(g.Kernel, "/") {
		g.Image, g.Kernel = g.Kernel, filepath.Base(g.Kernel)
	} else {
		g.Image = filepath.Join(root, ".cache/kernels/vmlinuz-"+g.Kernel)
	}
	if _, err := os.Stat(g.Image); err != nil {
		return fmt.Errorf("%w (make guest-kernels fetches the usual ones)", err)
	}
	arch, err := vmtest.Architecture(command[0])
	if err != nil {
		return err
	}
	if arch != runtime.GOARCH { // and this program can't be the guest's first
		g.Init = filepath.Join(root, "bin/vmexec-"+arch)
	}
	g.Dir = path.Join(moduleInside, below)
	g.Program, g.Args = command[0], command[1:]
	for _, dir := range []string{here, root} {
		testdata := filepath.Join(dir, "testdata")
		if _, err := os.Stat(testdata); err == nil {
			below, _ := filepath.Rel(root, testdata)
			g.Files = append(g.Files, vmtest.File{Guest: path.Join(moduleInside, below), Host: testdata})
		}
	}
	return nil
}

func moduleRoot(dir string) (string, error) {
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find go.mod: %w", fs.ErrNotExist)
		}
		dir = up
	}
}

func tail(text []byte, lines int) []byte {
	text = bytes.TrimRight(text, "\r\n")
	end := len(text)
	for range lines {
		newline := bytes.LastIndexByte(text[:end], '\n')
		if newline < 0 {
			return text
		}
		end = newline
	}
	return text[end+1:]
}
