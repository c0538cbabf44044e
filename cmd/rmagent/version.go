package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/loader"
)

// Set by the linker: see the Makefile.
var (
	version = "unknown"
	commit  = "unknown"
)

func versionCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "version",
		Usage: "print the version, commit, Go and the hash of the BPF objects",
		Flags: cmdline.Flags(),
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "rmagent %s\ncommit  %s\ngo      %s %s/%s\nbpf     %s\n",
				version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, loader.ObjectHash())
			return err
		},
	})
}
