package fdcheck

import (
	"fmt"

	"rmagent/record"
)

// From so many files on, a transfer is worth a thought even where it fits, and
// from so many on, the usual limits are too low.
const (
	many    = 1_000
	tooMany = 10_000
)

// explain fills in what a person reads.
func explain(c *record.FDCheck, u *Usage) {
	safe, known := c.Safe.Get()
	if u.None != "" {
		c.Message = fmt.Sprintf("pid %d (%s) %s", u.PID, u.Comm, u.None)
		c.Advice = "Name the process that is to open the files, by --pid."
		return
	}
	if !known {
		c.Message = fmt.Sprintf("FD usage unknown for %s: %s", files(c.Files), whyUnknown(u))
		c.Advice = fmt.Sprintf("Look as root, or as the user of the process: ls /proc/%d/fd | wc -l; prlimit --pid %d --nofile.", u.PID, u.PID)
		return
	}
	open, limit := c.Open.Or(0), c.Limit.Or(0)
	usage := fmt.Sprintf("%d/%d (%.0f%%) for %s", open, limit, float64(open)/float64(max(limit, 1))*100, files(c.Files))
	c.Message = "FD usage is safe: " + usage
	if state, _ := c.State.Get(); !safe || state != record.StateNormal {
		c.Message = "High FD usage: " + usage
	}
	if safe {
		c.Advice = adviceIfSafe(c)
		return
	}
	wanted := enough(c)
	possible := c.LimitedBy != limitOfProcess || wanted <= u.Highest.Or(wanted)
	c.Advice = adviceIfRisky(c, wanted, possible)
	if possible {
		c.Raise = raise(c, u, wanted)
	}
}

func files(n uint64) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

func whyUnknown(u *Usage) string {
	switch {
	case u.Why != "":
		return u.Why
	case !u.Open.Known():
		return "how many descriptors are open can't be read"
	}
	return "the limit can't be read"
}

func adviceIfSafe(c *record.FDCheck) string {
	switch {
	case c.Files < many:
		return fmt.Sprintf("Fewer than %d files are usually safe, and these fit.", many)
	case c.Files <= tooMany:
		return fmt.Sprintf("These fit. With %d to %d files watch FD usage meanwhile, and consider batches.", many, tooMany)
	}
	return fmt.Sprintf("These fit under this limit. For more than %d files raise the limit wherever it is lower, or transfer in batches.", tooMany)
}

// adviceIfRisky: wanted is the limit under which all would fit, if there can be such
// a limit.
func adviceIfRisky(c *record.FDCheck, wanted uint64, possible bool) string {
	const common = "Consider transferring fewer files or increasing limits"
	batch := c.Batch.Or(0)
	limit := fmt.Sprintf("raise %s to %d", c.LimitedBy, wanted)
	switch {
	case !possible && batch > 0:
		return fmt.Sprintf("%s: fs.nr_open allows no limit under which all would fit; transfer in batches of at most %d.", common, batch)
	case batch == 0:
		return fmt.Sprintf("%s: nothing more fits safely now; close files first, or %s.", common, limit)
	case c.Files > tooMany:
		return fmt.Sprintf("%s: for more than %d files %s, or transfer in batches of at most %d.", common, tooMany, limit, batch)
	}
	return fmt.Sprintf("%s: transfer in batches of at most %d, or %s.", common, batch, limit)
}

// raise lists the ways to raise the limit, the one that fits where the process runs
// first.
func raise(c *record.FDCheck, u *Usage, wanted uint64) []string {
	if c.LimitedBy == limitOfHost {
		return []string{fmt.Sprintf("sysctl -w fs.file-max=%d (to keep: the same in /etc/sysctl.d/)", wanted)}
	}
	var now []string
	if hard, ok := c.HardLimit.Get(); ok && hard >= wanted {
		now = append(now, fmt.Sprintf("prlimit --pid %d --nofile=%d: (now, for this process)", u.PID, wanted))
	}
	shell := fmt.Sprintf("ulimit -n %d (in the shell that starts it%s)", wanted, byRoot(c, wanted))
	login := fmt.Sprintf("* soft nofile %d and * hard nofile %d in /etc/security/limits.conf (from the next login on)", wanted, wanted)
	unit := fmt.Sprintf("LimitNOFILE=%d in its systemd unit (systemctl edit %s, then restart)", wanted, or(u.Unit, "UNIT"))
	container := fmt.Sprintf("docker run --ulimit nofile=%d (a new container; pods inherit LimitNOFILE= of the node's containerd.service)", wanted)
	switch {
	case u.Container != "":
		return append(now, container, shell, unit, login)
	case u.Unit != "":
		return append(now, unit, shell, login, container)
	}
	return append(now, shell, login, unit, container)
}

// byRoot says where the hard limit is in the way.
func byRoot(c *record.FDCheck, wanted uint64) string {
	if hard, ok := c.HardLimit.Get(); ok && hard < wanted {
		return fmt.Sprintf("; as root, for the hard limit is %d", hard)
	}
	return ""
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
