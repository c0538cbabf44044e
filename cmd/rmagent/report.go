package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/htmlreport"
)

func reportCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "report",
		Usage:     "draw recorded JSON lines as one self-contained HTML page",
		ArgsUsage: "FILE...",
		Description: "Reads the JSON lines that rmagent run or snapshot wrote, plain or compressed by gzip; - is the\n" +
			"standard input. Several files, such as those that logrotate left, are read in the order of their\n" +
			"times. The page needs no network.",
		Flags: cmdline.Flags(
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the page to `FILE`, or - for stdout"}),
		Action: drawReport,
	})
}

func drawReport(c *cli.Context) error {
	if _, err := cmdline.LoadConfig(c); err != nil {
		return err
	}
	paths := c.Args().Slice()
	out := c.String("output")
	switch {
	case len(paths) == 0:
		return cmdline.Usagef("report: name the files to draw: rmagent report -o out.html FILE... (- is the standard input)")
	case out == "":
		return cmdline.Usagef("report: say where the page goes: rmagent report -o out.html FILE... (- is the standard output)")
	}
	for i, path := range paths {
		if path == "-" && slices.Contains(paths[:i], "-") {
			return cmdline.Usagef("report: the standard input can be read only once")
		}
	}
	files, err := openRecorded(paths)
	if err != nil {
		return err
	}
	defer files.close()
	r := htmlreport.New()
	for i := range files {
		if err := r.Read(files[i].name, files[i].in); err != nil {
			return err
		}
	}
	return writePage(c, out, r)
}

// recorded is an input of JSON lines.
type recorded struct {
	name  string
	in    io.Reader
	file  *os.File
	first string // the time of its first record as text, which sorts as time does
}

type recordedFiles []recorded

// openRecorded opens all files, or none, and puts them in the order of their times.
func openRecorded(paths []string) (files recordedFiles, err error) {
	defer func() {
		if err != nil {
			files.close()
		}
	}()
	for _, path := range paths {
		f := os.Stdin
		if path != "-" {
			if f, err = openInput("report", path); err != nil {
				return files, err
			}
		}
		r := recorded{name: path, file: f}
		files = append(files, r)
		in := bufio.NewReaderSize(f, 64<<10)
		files[len(files)-1].in = in
		if len(paths) > 1 {
			files[len(files)-1].first = firstTime(in)
		}
	}
	slices.SortStableFunc(files, func(a, b recorded) int { return cmp.Compare(a.first, b.first) })
	return files, nil
}

// openInput opens a file that a command reads.
func openInput(command, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, cmdline.Usagef("%s: %s is a directory: name the files in it", command, path)
	}
	return f, nil
}

func (files recordedFiles) close() {
	for _, r := range files {
		r.file.Close()
	}
}

// firstTime returns the time of the first record without reading on: the text that
// every line begins with, empty where it is not there.
func firstTime(in *bufio.Reader) string {
	begin, _ := in.Peek(16 << 10)
	if len(begin) > 2 && begin[0] == 0x1f && begin[1] == 0x8b {
		z, err := gzip.NewReader(strings.NewReader(string(begin)))
		if err != nil {
			return ""
		}
		text := make([]byte, 64)
		n, _ := io.ReadFull(z, text)
		begin = text[:n]
	}
	text, ok := strings.CutPrefix(string(begin[:min(len(begin), 64)]), `{"time":"`)
	if !ok {
		return ""
	}
	text, _, _ = strings.Cut(text, `"`)
	return text
}

// writePage writes the whole page or nothing: a file appears when it is complete.
func writePage(c *cli.Context, path string, r *htmlreport.Report) error {
	if path == "-" {
		out := bufio.NewWriterSize(c.App.Writer, 64<<10)
		return cmp.Or(r.Write(out, time.Now()), out.Flush())
	}
	err := cmdline.WriteFile(path, 0o640, func(w io.Writer) error { return r.Write(w, time.Now()) })
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}
