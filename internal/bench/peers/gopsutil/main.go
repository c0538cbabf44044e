// Command gopsutil watches every process once a second the way programs on top
// of gopsutil do: handles are kept between readings, and each reading takes the
// name, CPU time, memory, number of FDs and I/O of each process.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

func main() {
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	known := map[int32]*process.Process{}
	for ticker := time.NewTicker(time.Second); ; <-ticker.C {
		known = read(out, known)
		fmt.Fprintln(out, "tick", len(known))
		if err := out.Flush(); err != nil {
			return // nobody reads any more
		}
	}
}

func read(out *bufio.Writer, known map[int32]*process.Process) map[int32]*process.Process {
	pids, err := process.Pids()
	if err != nil {
		fmt.Fprintln(os.Stderr, "list processes:", err)
		os.Exit(1)
	}
	now := make(map[int32]*process.Process, len(pids))
	for _, pid := range pids {
		p := known[pid]
		if p == nil {
			if p, err = process.NewProcess(pid); err != nil {
				continue
			}
		}
		now[pid] = p
		show(out, p)
	}
	return now
}

func show(out *bufio.Writer, p *process.Process) {
	name, _ := p.Name()
	cpu, err := p.Times()
	if err != nil {
		return
	}
	memory, err := p.MemoryInfo()
	if err != nil {
		return
	}
	fds, _ := p.NumFDs()
	var read, written uint64
	if io, err := p.IOCounters(); err == nil {
		read, written = io.ReadBytes, io.WriteBytes
	}
	fmt.Fprintf(out, "%d %s cpu=%.2f rss=%d fds=%d read=%d written=%d\n",
		p.Pid, name, cpu.User+cpu.System, memory.RSS, fds, read, written)
}
