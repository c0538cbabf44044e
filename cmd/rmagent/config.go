package main

import (
	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
)

func configCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "config",
		Usage: "print the effective configuration and where each value came from",
		Flags: append(runFlags(), &cli.BoolFlag{Name: "schema", Usage: "print a JSON schema of the configuration file instead"}),
		Action: func(c *cli.Context) error {
			if c.Bool("schema") {
				_, err := c.App.Writer.Write(config.Schema())
				return quiet(err)
			}
			l, err := cmdline.LoadConfig(c)
			if err != nil {
				return err
			}
			return l.Write(c.App.Writer)
		},
	})
}
