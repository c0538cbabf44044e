package main

import (
	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
)

// effective is what config --json prints; the first two are as in a config record.
type effective struct {
	Hash    string            `json:"hash"`
	Values  map[string]any    `json:"values"`
	Origins map[string]string `json:"origins"` // by key: thresholds.fd.info, actions[0].url
}

func configCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "config",
		Usage: "print the effective configuration and where each value came from",
		Flags: append(runFlags(),
			&cli.BoolFlag{Name: "schema", Usage: "print a JSON schema of the configuration file instead"},
			&cli.BoolFlag{Name: "json", Usage: "JSON: one object with the values, their hash, and where each came from"}),
		Action: func(c *cli.Context) error {
			if c.Bool("schema") {
				_, err := c.App.Writer.Write(config.Schema())
				return err
			}
			l, err := cmdline.LoadConfig(c)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, effective{l.Hash(), l.Values(), l.Origins()}, true)
			}
			return l.Write(c.App.Writer)
		},
	})
}
