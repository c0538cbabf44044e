package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"rmagent/internal/agent"
	"rmagent/internal/config"
	"rmagent/internal/sink"
)

// local is what a command reads the machine with that asks no agent: its
// configuration, its log, and its parts, which read.
type local struct {
	config *config.Loaded
	log    *sink.Log
	parts  *agent.Parts
}

// openLocal opens all that a configuration asks for, or nothing.
func openLocal(c *cli.Context, l *config.Loaded) (*local, error) {
	log, err := openLog(l)
	if err != nil {
		return nil, err
	}
	p, err := agent.OpenParts(l, nil, log.Logger())
	if err != nil {
		log.Close(c.Context)
		return nil, err
	}
	return &local{l, log, p}, nil
}

func (l *local) close() error {
	return errors.Join(l.parts.Close(), l.log.Close(context.Background()))
}
