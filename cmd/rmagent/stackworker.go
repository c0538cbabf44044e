package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"rmagent/internal/stack/worker"
)

// stackWorkerCommand is what the agent runs itself, in a process without privileges that
// walks call stacks for it.
func stackWorkerCommand() *cli.Command {
	return &cli.Command{
		Name:   worker.Command,
		Hidden: true,
		Action: func(*cli.Context) error {
			// It was run as /proc/self/exe; who sees it in a list wants to know what it is.
			_ = os.WriteFile("/proc/self/comm", []byte("rmagent-stacks"), 0)
			if err := worker.Confine(); err != nil {
				return err
			}
			return worker.Serve(os.NewFile(worker.SocketFD, "socket"))
		},
	}
}

// openStacks returns what walks stacks; its child is started with the first of them.
func openStacks() *worker.Client { return worker.New(worker.Itself, worker.Command) }
