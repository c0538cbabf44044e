package main

import (
	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/engine"
)

// filterFlags choose processes.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntSliceFlag{Name: "pid", Usage: "only process `PID`; repeatable"},
		&cli.StringSliceFlag{Name: "name", Usage: "only processes whose name matches `PATTERN`, as nginx*; repeatable, as the next two"},
		&cli.StringSliceFlag{Name: "cgroup", Usage: "only processes in a cgroup that matches `PATTERN`, or below it"},
		&cli.StringSliceFlag{Name: "unit", Usage: "only processes of the systemd unit `PATTERN`"},
	}
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
			return f, cmdline.Usagef("--pid %d: allowed are 1 to %d", pid, maxPID)
		}
		f.PIDs = append(f.PIDs, int32(pid))
	}
	if pattern, err := f.Validate(); err != nil {
		return f, cmdline.Usagef("pattern %q: %v", pattern, err)
	}
	return f, nil
}
