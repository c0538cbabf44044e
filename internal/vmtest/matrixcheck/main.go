package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
)

func main() {
	kernel := flag.String("kernel", "", "`NAME` of the kernel that the tests run on, as the matrix has it")
	file := flag.String("matrix", "testdata/matrix.txt", "matrix `FILE`")
	list := flag.Bool("packages", false, "print the packages that the matrix names for the kernel, and end")
	skip := flag.String("skip", "", "print what go test -skip needs for `PACKAGE`, and end")
	flag.Parse()
	if flag.NArg() != 0 || *kernel == "" {
		flag.Usage()
		os.Exit(2)
	}
	rules, err := readMatrix(*file, *kernel)
	if err != nil {
		// Whoever writes into this program should not fail first.
		if !*list && *skip == "" {
			io.Copy(io.Discard, os.Stdin)
		}
		fmt.Fprintln(os.Stderr, "matrixcheck:", err)
		os.Exit(2)
	}
	switch {
	case *list:
		for _, name := range packages(rules) {
			fmt.Println("./" + name)
		}
		return
	case *skip != "":
		fmt.Println(skipPattern(rules, path.Clean(*skip)))
		return
	}
	if !judge(*kernel, rules, os.Stdin) {
		os.Exit(1)
	}
}

func readMatrix(name, kernel string) ([]*rule, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rules, err := parseMatrix(f, kernel)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rules, nil
}

// judge reads test events and reports whether all is well.
func judge(kernel string, rules []*rule, events io.Reader) bool {
	fmt.Printf("--- kernel %s\n", kernel)
	module := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		module = info.Main.Path
	}
	c := newCheck(module, rules, os.Stdout)
	err := c.read(events)
	wrong := c.end()
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	for _, w := range wrong {
		fmt.Fprintf(os.Stderr, "matrixcheck: kernel %s: %s\n", kernel, w)
	}
	return len(wrong) == 0
}
