// Command rmagent is a host agent: it reads what a Linux machine and each of its
// processes have, judges it by one policy, and writes both down. This package has
// its flags, signals and exit statuses; a file per command.
package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/execcmd"
)

const exitLeaking = 3 // fds --fail: something leaks

func main() { os.Exit(execute(os.Args, os.Stdout, os.Stderr)) }

// execute runs one command line and returns its exit status.
func execute(args []string, stdout, stderr io.Writer) int {
	if execcmd.IsMonitor(args) {
		return execcmd.Monitor(args, version, stdout, stderr)
	}
	return cmdline.Status(newApp(stdout, stderr).Run(args), "rmagent", stderr)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := cmdline.App(version, stdout, stderr,
		runCommand(),
		snapshotCommand(),
		fdsCommand(),
		headroomCommand(),
		execcmd.Command(version),
		categoryCommand(),
		checkCommand(),
		reportCommand(),
		topCommand(),
		doctorCommand(),
		replayCommand(),
		configCommand(),
		dashboardCommand(),
		completionCommand(),
		manCommand(),
		versionCommand(),
		stackWorkerCommand(),
	)
	app.Action = func(c *cli.Context) error {
		switch {
		case c.Args().First() == "help" && c.App.Command(c.Args().Get(1)) != nil:
			return cli.ShowCommandHelp(c, c.Args().Get(1))
		case c.Args().Present() && c.Args().First() != "help":
			return unknownCommand(c.App, c.Args().First())
		case c.NArg() > 1:
			return unknownCommand(c.App, c.Args().Get(1))
		}
		return cli.ShowAppHelp(c)
	}
	return app
}

// command fills in what every command shares: one line for a wrong flag, no arguments
// where none are taken, and a reader of the output that may have seen enough.
func command(c *cli.Command) *cli.Command {
	c.OnUsageError = cmdline.OnUsageError
	c.HideHelpCommand = true
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		if ctx.Args().Present() && c.ArgsUsage == "" {
			return cmdline.Usagef("%s takes no argument, but got %q", c.Name, ctx.Args().First())
		}
		if flag := lateFlag(ctx.Args().Tail()); flag != "" {
			return cmdline.Usagef("%s: flags come before the files: found %s behind %s", c.Name, flag, ctx.Args().First())
		}
		// A reader that is gone is told by the write that fails. The signal is caught and
		// not ignored: that would go over to the programs that an action runs.
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
		return quiet(action(ctx))
	}
	return c
}

// lateFlag finds a flag behind an argument, where it is taken for a file's name.
func lateFlag(args []string) string {
	for _, arg := range args {
		if _, err := os.Lstat(arg); len(arg) > 1 && arg[0] == '-' && err != nil {
			return arg
		}
	}
	return ""
}

// quiet takes a reader of the output that has gone away as one that has seen enough.
func quiet(err error) error {
	var write *fs.PathError
	if errors.As(err, &write) && write.Path == os.Stdout.Name() && errors.Is(write, unix.EPIPE) {
		return nil
	}
	return err
}

func unknownCommand(app *cli.App, name string) error {
	names := make([]string, 0, len(app.Commands))
	for _, cmd := range app.VisibleCommands() {
		names = append(names, cmd.Name)
	}
	return cmdline.Usagef("unknown command %q%s; there are %s", name, config.DidYouMean(name, names), strings.Join(names, ", "))
}
