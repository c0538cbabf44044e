package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/replay"
	"rmagent/record"
)

func replayCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "replay",
		Usage:     "runs the policy over recorded JSON lines and prints what it would have decided",
		ArgsUsage: "FILE...",
		Description: "Prints state, prune and leak records, one a line, to stdout, and what the recording lacks to stderr.\n" +
			"A FILE may be compressed by gzip; - is stdin; of several the oldest is played first.\n" +
			"The policy is that of the recording, unless --config names another.",
		Flags:  cmdline.Flags(&cli.BoolFlag{Name: "quiet", Usage: "nothing but mistakes to stderr"}),
		Action: replayRecordings,
	})
}

func replayRecordings(c *cli.Context) error {
	if !c.Args().Present() {
		return cmdline.Usagef("replay wants a FILE of recorded JSON lines, or - for stdin")
	}
	o := replay.Options{}
	if c.IsSet("config") {
		l, err := cmdline.LoadConfig(c)
		if err != nil {
			return err
		}
		p := l.Policy(0)
		o.Policy = &p
	}
	inputs, closeAll, err := openRecordings(c.Args().Slice(), os.Stdin)
	if err != nil {
		return err
	}
	defer closeAll()
	out := bufio.NewWriterSize(c.App.Writer, 1<<16)
	var line []byte
	o.Write = func(r record.Record) error {
		var err error
		if line, err = record.Append(line[:0], r); err != nil {
			return err
		}
		_, err = out.Write(line)
		return err
	}
	result, err := replay.New(o).Play(inputs...)
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if err == nil {
		err = result.Empty()
	}
	if err != nil {
		return err
	}
	if !c.Bool("quiet") {
		for _, text := range result.Summary() {
			fmt.Fprintf(c.App.ErrWriter, "rmagent: replay: %s\n", text)
		}
	}
	return nil
}

// openRecordings opens all of them, or none.
func openRecordings(names []string, stdin io.Reader) (inputs []replay.Input, closeAll func(), err error) {
	var files []*os.File
	closeAll = func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, name := range names {
		if name == "-" {
			inputs = append(inputs, replay.Input{Name: "stdin", Reader: stdin})
			continue
		}
		f, err := openInput("replay", name)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		files = append(files, f)
		inputs = append(inputs, replay.Input{Name: name, Reader: f})
	}
	return inputs, closeAll, nil
}
