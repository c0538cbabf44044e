package main

import "github.com/urfave/cli/v2"

func configCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "config",
		Usage: "print the effective configuration and where each value came from",
		Flags: runFlags(),
		Action: func(c *cli.Context) error {
			l, err := loadConfig(c)
			if err != nil {
				return err
			}
			return l.Write(c.App.Writer)
		},
	})
}
