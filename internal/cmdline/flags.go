package cmdline

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"rmagent/internal/config"
	"rmagent/internal/loader"
)

// Flags are those that every command takes. Values are texts here: package
// config reads them, so that a mistake reads the same in a flag, the environment
// and the file.
func Flags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "read the configuration from `FILE` (YAML)"},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", Usage: "json or console; default: console on a terminal"},
		&cli.StringFlag{Name: "source", Usage: "auto, ebpf or procfs"},
		&cli.StringFlag{Name: "interval", Usage: "`TIME` between readings, such as 1s"},
		&cli.StringFlag{Name: "gpu", Usage: "auto (watch NVIDIA GPUs where there are any) or off"},
		&cli.StringFlag{Name: "socket", Usage: "`PATH` of the agent's socket"},
	}, more...)
}

// LoadConfig reads the configuration that a command line asks for.
func LoadConfig(c *cli.Context) (*config.Loaded, error) { return config.Read(Sources(c)) }

// Sources says where that is. Of the flags package config takes those that are
// its own: a command's other flags have names that are no keys.
func Sources(c *cli.Context) config.Sources {
	flags := map[string]string{}
	for _, name := range c.LocalFlagNames() { // those that are given
		flags[name] = fmt.Sprint(c.Value(name))
	}
	return config.Sources{
		Path:    c.String("config"),
		Environ: os.Environ(),
		Flags:   flags,
		Hooks:   HookNames(),
	}
}

// HookNames are those that a configuration may name.
func HookNames() []string {
	var names []string
	for _, h := range loader.Hooks {
		names = append(names, h.Name)
	}
	return names
}
