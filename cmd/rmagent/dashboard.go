package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"os/signal"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/dashboard"
)

func dashboardCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "dashboard",
		Usage: "show a running agent in a browser",
		Description: "It asks the agent on --socket, listens on a port of 127.0.0.1 that the system chooses, and prints\n" +
			"an address that opens the dashboard once, for one browser. It ends with Ctrl-C.",
		Flags:  cmdline.Flags(&cli.BoolFlag{Name: "open", Usage: "open the browser too"}),
		Action: showDashboard,
	})
}

func showDashboard(c *cli.Context) error {
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	paths := cmdline.Sockets(l)
	dial := func(ctx context.Context) (conn net.Conn, err error) {
		for _, path := range paths {
			if conn, err = (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "unix", path); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
	if err := dashboard.Check(c.Context, dial); err != nil {
		return fmt.Errorf("%w; is rmagent run started, and may this user use %s?", err, strings.Join(paths, " or "))
	}
	d, err := dashboard.Open(dial)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	url := d.URL()
	fmt.Fprintln(c.App.Writer, url)
	var opening sync.WaitGroup
	if c.Bool("open") {
		opening.Go(func() {
			if err := exec.CommandContext(ctx, "xdg-open", url).Run(); err != nil && ctx.Err() == nil {
				fmt.Fprintln(c.App.ErrWriter, "rmagent: no browser was opened: xdg-open:", err)
			}
		})
	}
	err = d.Serve(ctx)
	stop()
	opening.Wait()
	return err
}
