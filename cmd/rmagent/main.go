// Command rmagent is a host agent: it reads what a Linux machine and each of its
// processes have, judges it by one policy, and writes both down. This package has
// its flags, signals and exit statuses; a file per command.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"rmagent/internal/config"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // it failed at run time
	exitUsage  = 2 // wrong usage or configuration

	exitLeaking = 3 // fds --fail: something leaks
)

// statusError ends the command with a status of its own, and says nothing.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a mistake of who called: exit status 2.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

func main() { os.Exit(execute(os.Args, os.Stdout, os.Stderr)) }

// execute runs one command line and returns its exit status.
func execute(args []string, stdout, stderr io.Writer) int {
	if isResourceMonitor(args) {
		return resourceMonitor(args[1:], stdout, stderr)
	}
	err := newApp(stdout, stderr).Run(args)
	if err == nil {
		return exitOK
	}
	if status := statusError(0); errors.As(err, &status) {
		return int(status)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "rmagent: %s\n", line)
	}
	if failure := (*execError)(nil); errors.As(err, &failure) {
		return failure.status
	}
	var usage *usageError
	var wrong *config.Error
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailed
}

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:      "rmagent",
		Usage:     "what this machine runs out of, which process takes it, and how long it lasts",
		UsageText: "rmagent COMMAND [flags]",
		Version:   version,
		Writer:    stdout,
		ErrWriter: stderr,
		Commands: []*cli.Command{
			runCommand(),
			snapshotCommand(),
			fdsCommand(),
			headroomCommand(),
			execCommand(),
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
		},
		// A comma is part of a pattern; what may be given several times is repeated.
		DisableSliceFlagSeparator: true,

		HideVersion:     true,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // execute decides
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			switch {
			case c.Args().First() == "help" && c.App.Command(c.Args().Get(1)) != nil:
				return cli.ShowCommandHelp(c, c.Args().Get(1))
			case c.Args().Present() && c.Args().First() != "help":
				return unknownCommand(c.App, c.Args().First())
			case c.NArg() > 1:
				return unknownCommand(c.App, c.Args().Get(1))
			}
			return cli.ShowAppHelp(c)
		},
	}
}

// command fills in what every command shares: one line for a wrong flag, and no
// arguments where none are taken.
func command(c *cli.Command) *cli.Command {
	c.OnUsageError = onUsageError
	c.HideHelpCommand = true
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		if ctx.Args().Present() && c.ArgsUsage == "" {
			return usagef("%s takes no argument, but got %q", c.Name, ctx.Args().First())
		}
		return action(ctx)
	}
	return c
}

// invalidValue is what package flag says of a value that it could not parse.
const invalidValue = `(?s)^invalid (?:boolean )?value (".*") for(?: flag)? -+([a-z.-]+): (.*)$`

// invalidBecause says what is wrong with a value. Of numbers, package flag has only
// the words of package strconv.
func invalidBecause(value, why string) string {
	switch {
	case strings.Contains(why, "strconv.ParseInt") || strings.Contains(why, "strconv.ParseUint"):
		return value + " is not a whole number; for several, repeat the flag"
	case strings.Contains(why, "parse error"), strings.Contains(why, "strconv.ParseBool"):
		return value + " can't be understood"
	default:
		return value + ": " + why
	}
}

// onUsageError makes one line of what package flag says, which names a flag
// with a single dash.
func onUsageError(c *cli.Context, err error, _ bool) error {
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		msg = fmt.Sprintf("unknown flag --%s", strings.TrimPrefix(name, "-"))
	} else if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		msg = fmt.Sprintf("flag --%s needs a value", strings.TrimPrefix(name, "-"))
	} else if m := regexp.MustCompile(invalidValue).FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("--%s: %s", m[2], invalidBecause(m[1], m[3]))
	}
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		return usagef("%s: %s (rmagent %s --help lists the flags)", c.Command.Name, msg, c.Command.Name)
	}
	return usagef("%s (rmagent --help lists the commands)", msg)
}

func unknownCommand(app *cli.App, name string) error {
	names := make([]string, 0, len(app.Commands))
	for _, cmd := range app.VisibleCommands() {
		names = append(names, cmd.Name)
	}
	return usagef("unknown command %q: there are %s", name, strings.Join(names, ", "))
}
