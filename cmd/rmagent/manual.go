package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
)

// manCommand writes the manual pages, for make install: they are made of what the
// commands say of themselves, so that neither can lag behind the other.
func manCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "man",
		Usage:     "write the manual pages into a directory",
		ArgsUsage: "DIRECTORY",
		Hidden:    true,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usagef("man: one directory is needed")
			}
			return writeManual(c.App, c.Args().First())
		},
	})
}

func writeManual(app *cli.App, dir string) error {
	pages := map[string]string{"rmagent.1": appPage(app)}
	for _, cmd := range app.VisibleCommands() {
		pages["rmagent-"+cmd.Name+".1"] = commandPage(cmd)
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// manPage is a manual page as it grows, in the macros of man(7). A library would make it
// of Markdown, and take as long to initialize as the rest of a short command.
type manPage struct{ strings.Builder }

func newManPage(name, usage string) *manPage {
	m := &manPage{}
	fmt.Fprintf(m, ".TH %s 1 \"\" \"rmagent %s\" \"User Commands\"\n.nh\n", name, version)
	m.section("NAME", roff(name)+` \- `+roff(usage))
	return m
}

func (m *manPage) section(title, text string) {
	fmt.Fprintf(m, ".SH %s\n", title)
	if text != "" {
		fmt.Fprintln(m, text)
	}
}

// entry adds a name, what it takes, and what that is.
func (m *manPage) entry(name, value, text string) {
	fmt.Fprintf(m, ".TP\n%s%s\n%s\n", bolded(name), roff(value), roff(text))
}

// roff has text mean itself: no escapes, no requests at the start of a line, and dashes
// that can be copied.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func bolded(s string) string { return `\fB` + roff(s) + `\fP` }

// appPage is the page of rmagent itself.
func appPage(app *cli.App) string {
	m := newManPage("rmagent", app.Usage)
	m.section("SYNOPSIS", bolded("rmagent")+" COMMAND [flags]")
	m.section("COMMANDS", "")
	for _, cmd := range app.VisibleCommands() {
		m.entry("rmagent-"+cmd.Name+"(1)", "", cmd.Usage)
	}
	m.section("EXIT STATUS", roff("0 done; 1 it failed at run time; 2 wrong usage or configuration. Some commands have more: see their pages."))
	m.section("FILES", "")
	m.entry("/run/rmagent/rmagent.sock", "", "the socket on which a running agent is asked")
	m.section("ENVIRONMENT", "")
	m.entry("RMAGENT_KEY", "", "sets the key of the configuration, in capitals with dots as underscores")
	return m.String()
}

// commandPage is the page of one command.
func commandPage(cmd *cli.Command) string {
	m := newManPage("rmagent-"+cmd.Name, cmd.Usage)
	m.section("SYNOPSIS", strings.TrimSpace(bolded("rmagent "+cmd.Name)+" [flags] "+roff(cmd.ArgsUsage)))
	if cmd.Description != "" {
		m.section("DESCRIPTION", roff(cmd.Description))
	}
	if flags := flagsOf(cmd); len(flags) > 0 {
		m.section("OPTIONS", "")
		for _, f := range flags {
			m.entry("--"+f.name, f.value, f.usage)
		}
	}
	m.section("SEE ALSO", bolded("rmagent(1)"))
	return m.String()
}

// flagText is a flag as people read it.
type flagText struct {
	name, value, usage string
	takes              bool // a value
}

func flagsOf(cmd *cli.Command) []flagText {
	var list []flagText
	for _, f := range cmd.VisibleFlags() {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok || f.Names()[0] == "help" {
			continue
		}
		text := flagText{name: f.Names()[0], takes: d.TakesValue(), usage: d.GetUsage()}
		if before, rest, quoted := strings.Cut(text.usage, "`"); quoted { // the value's name
			value, after, _ := strings.Cut(rest, "`")
			text.value, text.usage = "="+value, before+value+after
		} else if text.takes {
			text.value = "=VALUE"
		}
		list = append(list, text)
	}
	return list
}

// shells are the completions that there are.
var shells = map[string]func(*cli.App) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}

func completionCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "completion",
		Usage:     "print the completion of commands and flags for bash, zsh or fish",
		ArgsUsage: "SHELL",
		Description: "For bash: rmagent completion bash > /etc/bash_completion.d/rmagent\n" +
			"For zsh: rmagent completion zsh > /usr/share/zsh/site-functions/_rmagent\n" +
			"For fish: rmagent completion fish > /etc/fish/completions/rmagent.fish",
		Action: func(c *cli.Context) error {
			write := shells[c.Args().First()]
			if c.NArg() != 1 || write == nil {
				return cmdline.Usagef("completion: one of bash, zsh and fish is needed")
			}
			_, err := fmt.Fprint(c.App.Writer, write(c.App))
			return err
		},
	})
}

// fileFlags are completed with names of files.
var fileFlags = []string{"config", "socket", "jsonl", "log-file", "warnings-file", "web.config.file", "pprof"}

func bashCompletion(app *cli.App) string {
	var names []string
	var cases strings.Builder
	for _, cmd := range app.VisibleCommands() {
		names = append(names, cmd.Name)
		var flags []string
		for _, f := range flagsOf(cmd) {
			flags = append(flags, "--"+f.name)
		}
		fmt.Fprintf(&cases, "\t%s) words='%s' ;;\n", cmd.Name, strings.Join(flags, " "))
	}
	files := "--" + strings.Join(fileFlags, "|--")
	return fmt.Sprintf(`# bash completion of rmagent
_rmagent() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=
	case $before in
	%s) COMPREPLY=($(compgen -f -- "$word")); return ;;
	esac
	if [ "$COMP_CWORD" -eq 1 ]; then
		words='%s'
	else
		case ${COMP_WORDS[1]} in
%s		esac
		case $word in -*) ;; *) compopt -o default; COMPREPLY=(); return ;; esac
	fi
	COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _rmagent rmagent
`, files, strings.Join(names, " "), indented(cases.String()))
}

func indented(s string) string {
	return strings.ReplaceAll("\t"+strings.TrimSuffix(s, "\n"), "\n", "\n\t") + "\n"
}

func zshCompletion(app *cli.App) string {
	quote := func(s string) string {
		return strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`, "\n", " ").Replace(s)
	}
	var names, cases strings.Builder
	for _, cmd := range app.VisibleCommands() {
		fmt.Fprintf(&names, "\t\t'%s:%s'\n", cmd.Name, quote(cmd.Usage))
		fmt.Fprintf(&cases, "\t%s)\n\t\t_arguments", cmd.Name)
		for _, f := range flagsOf(cmd) {
			argument := ""
			switch {
			case f.takes && slices.Contains(fileFlags, f.name):
				argument = ":file:_files"
			case f.takes:
				argument = ":" + quote(strings.ToLower(strings.TrimPrefix(f.value, "="))) + ":"
			}
			fmt.Fprintf(&cases, " \\\n\t\t\t'*--%s[%s]%s'", f.name, quote(f.usage), argument)
		}
		cases.WriteString(" \\\n\t\t\t'*:file:_files' ;;\n")
	}
	return fmt.Sprintf(`#compdef rmagent
# zsh completion of rmagent
_rmagent() {
	local -a commands
	commands=(
%s	)
	if (( CURRENT == 2 )); then
		_describe command commands
		return
	fi
	local command=$words[2]
	shift words
	(( CURRENT-- ))
	case $command in
%s	esac
}
_rmagent "$@"
`, names.String(), cases.String())
}

func fishCompletion(app *cli.App) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", " ").Replace(s) + "'"
	}
	var b strings.Builder
	b.WriteString("# fish completion of rmagent\n")
	for _, cmd := range app.VisibleCommands() {
		fmt.Fprintf(&b, "complete -c rmagent -f -n __fish_use_subcommand -a %s -d %s\n", cmd.Name, quote(cmd.Usage))
		for _, f := range flagsOf(cmd) {
			options := ""
			switch {
			case f.takes && slices.Contains(fileFlags, f.name):
				options = " -r -F"
			case f.takes:
				options = " -x"
			}
			fmt.Fprintf(&b, "complete -c rmagent -n '__fish_seen_subcommand_from %s' -l %s%s -d %s\n", cmd.Name, f.name, options, quote(f.usage))
		}
	}
	return b.String()
}
