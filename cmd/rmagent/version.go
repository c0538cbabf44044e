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

// versions is what version prints.
type versions struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	BPF     string `json:"bpf"` // the hash of the objects
}

func versionCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "version",
		Usage: "print the version, commit, Go and the hash of the BPF objects",
		Flags: cmdline.Flags(&cli.BoolFlag{Name: "json", Usage: "JSON: one object"}),
		Action: func(c *cli.Context) error {
			if c.Bool("json") {
				return printJSON(c.App.Writer, versions{version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, loader.ObjectHash()}, true)
			}
			_, err := fmt.Fprintf(c.App.Writer, "rmagent %s\ncommit  %s\ngo      %s %s/%s\nbpf     %s\n",
				version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, loader.ObjectHash())
			return err
		},
	})
}
