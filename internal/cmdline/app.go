package cmdline

import (
	"io"

	"github.com/urfave/cli/v2"
)

// App is rmagent with some of its commands. [Status] makes an exit status of what its Run
// returns.
func App(version string, stdout, stderr io.Writer, commands ...*cli.Command) *cli.App {
	return &cli.App{
		Name:      "rmagent",
		Usage:     "what this machine runs out of, which process takes it, and how long it lasts",
		UsageText: "rmagent COMMAND [flags]",
		Version:   version,
		Writer:    stdout,
		ErrWriter: stderr,
		Commands:  commands,
		// A comma is part of a pattern; what may be given several times is repeated.
		DisableSliceFlagSeparator: true,

		HideVersion:     true,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // Status decides
		OnUsageError:    OnUsageError,
	}
}
