// Command rmagent-exec is rmagent's command exec alone, under the same flags, and cctools'
// resource_monitor under that name. A job waits for its start: it has little to
// initialize, while rmagent as a whole has much (docs/decisions/exec-alone.md).
package main

import (
	"os"

	"rmagent/internal/cmdline"
	"rmagent/internal/execcmd"
)

// version is set by the linker: see the Makefile.
var version = "unknown"

func main() {
	if execcmd.IsMonitor(os.Args) {
		os.Exit(execcmd.Monitor(os.Args, version, os.Stdout, os.Stderr))
	}
	os.Exit(cmdline.Status(run(os.Args[1:]), "rmagent", os.Stderr))
}

func run(args []string) error {
	app := cmdline.App(version, os.Stdout, os.Stderr, execcmd.Command(version))
	command := execcmd.Command(version)
	if c, ok := cmdline.Quick(app, command, args); ok {
		return command.Action(c)
	}
	return app.Run(append([]string{"rmagent", command.Name}, args...))
}
