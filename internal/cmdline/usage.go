package cmdline

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"rmagent/internal/config"
)

// Exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1 // it failed at run time
	ExitUsage  = 2 // wrong usage or configuration
)

// StatusError ends a program with a status of its own, and says nothing.
type StatusError int

func (e StatusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// UsageError is a mistake of who called: exit status 2.
type UsageError struct{ msg string }

func (e *UsageError) Error() string { return e.msg }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...)}
}

// FailedError ends a program with a status, and lines.
type FailedError struct {
	Status int
	Err    error
}

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// Status says in lines what went wrong, as a program of some name, and returns its exit
// status.
func Status(err error, name string, stderr io.Writer) int {
	if err == nil {
		return ExitOK
	}
	if status := StatusError(0); errors.As(err, &status) {
		return int(status)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "%s: %s\n", name, line)
	}
	var failed *FailedError
	if errors.As(err, &failed) {
		return failed.Status
	}
	var usage *UsageError
	var wrong *config.Error
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return ExitUsage
	}
	return ExitFailed
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

// OnUsageError makes one line of what package flag says, which names a flag
// with a single dash.
func OnUsageError(c *cli.Context, err error, _ bool) error {
	msg := err.Error()
	global := c.Command == nil || c.Command.Name == "" || c.Command.Name == c.App.Name
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		msg = unknownFlag(c, strings.TrimPrefix(name, "-"), global)
	} else if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		msg = fmt.Sprintf("flag --%s needs a value", strings.TrimPrefix(name, "-"))
	} else if m := regexp.MustCompile(invalidValue).FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("--%s: %s", m[2], invalidBecause(m[1], m[3]))
	}
	if !global {
		return Usagef("%s: %s (rmagent %s --help lists the flags)", c.Command.Name, msg, c.Command.Name)
	}
	return Usagef("%s (rmagent --help lists the commands)", msg)
}

// unknownFlag says what may have been meant by a flag.
func unknownFlag(c *cli.Context, name string, global bool) string {
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	msg := "unknown flag " + dashes + name
	switch {
	case !global && len(name) > 2:
		hint := config.DidYouMean(name, slices.DeleteFunc(flagNames(c.Command), func(n string) bool { return len(n) == 1 }))
		return msg + strings.Replace(hint, "mean ", "mean --", 1)
	case !global:
		return msg
	case name == "version" || name == "v":
		return msg + "; it is rmagent version"
	case slices.ContainsFunc(c.App.Commands, func(cmd *cli.Command) bool { return slices.Contains(flagNames(cmd), name) }):
		return msg + " before the command; it goes behind: rmagent COMMAND " + dashes + name
	}
	return msg
}

func flagNames(c *cli.Command) (names []string) {
	for _, f := range c.Flags {
		names = append(names, f.Names()...)
	}
	return names
}
