package cmdline

import (
	"flag"
	"io"

	"github.com/urfave/cli/v2"
)

// Quick parses what follows a command's name as the Run of an [App] does, without what
// takes longest there: to look at all flags for each flag. False means that help or a
// mistake is to be told, which Run does, with a command of its own.
func Quick(app *cli.App, c *cli.Command, args []string) (*cli.Context, bool) {
	set := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	names := map[string][]string{} // by each of them
	for _, f := range c.Flags {
		if f.Apply(set) != nil {
			return nil, false
		}
		all := f.Names()
		for _, name := range all {
			names[name] = all
		}
	}
	if set.Parse(args) != nil {
		return nil, false
	}
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name := range given {
		for _, other := range names[name] {
			if other == name {
				continue
			}
			if given[other] || set.Set(other, text(set.Lookup(name).Value)) != nil {
				return nil, false
			}
		}
	}
	ctx := cli.NewContext(app, set, nil)
	ctx.Command = c
	return ctx, true
}

// text is what makes another flag of the same kind have the same value.
func text(v flag.Value) string {
	if s, ok := v.(cli.Serializer); ok {
		return s.Serialize()
	}
	return v.String()
}
