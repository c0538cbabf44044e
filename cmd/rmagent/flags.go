package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/loader"
)

// commonFlags are those that every command takes. Values are texts here: package
// config reads them, so that a mistake reads the same in a flag, the environment
// and the file.
func commonFlags(more ...cli.Flag) []cli.Flag {
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

// filterFlags choose processes.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntSliceFlag{Name: "pid", Usage: "only process `PID`; repeatable"},
		&cli.StringSliceFlag{Name: "name", Usage: "only processes whose name matches `PATTERN`, as nginx*; repeatable, as the next two"},
		&cli.StringSliceFlag{Name: "cgroup", Usage: "only processes in a cgroup that matches `PATTERN`, or below it"},
		&cli.StringSliceFlag{Name: "unit", Usage: "only processes of the systemd unit `PATTERN`"},
	}
}

// loadConfig reads the configuration that a command line asks for.
func loadConfig(c *cli.Context) (*config.Loaded, error) { return config.Read(configSources(c)) }

// configSources says where that is. Of the flags package config takes those that are
// its own: a command's other flags have names that are no keys.
func configSources(c *cli.Context) config.Sources {
	flags := map[string]string{}
	for _, name := range c.LocalFlagNames() { // those that are given
		flags[name] = fmt.Sprint(c.Value(name))
	}
	return config.Sources{
		Path:    c.String("config"),
		Environ: os.Environ(),
		Flags:   flags,
		Hooks:   hookNames(),
	}
}

func hookNames() []string {
	var names []string
	for _, h := range loader.Hooks {
		names = append(names, h.Name)
	}
	return names
}

// maxPID is the highest PID that a kernel may give out (include/linux/threads.h:
// PID_MAX_LIMIT is one more).
const maxPID = 1<<22 - 1

// filter reads the filter flags.
func filter(c *cli.Context) (engine.Filter, error) {
	f := engine.Filter{
		Names:   c.StringSlice("name"),
		Cgroups: c.StringSlice("cgroup"),
		Units:   c.StringSlice("unit"),
	}
	for _, pid := range c.IntSlice("pid") {
		if pid < 1 || pid > maxPID {
			return f, usagef("--pid %d: allowed are 1 to %d", pid, maxPID)
		}
		f.PIDs = append(f.PIDs, int32(pid))
	}
	if pattern, err := f.Validate(); err != nil {
		return f, usagef("pattern %q: %v", pattern, err)
	}
	return f, nil
}
