package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// print writes the result for a person.
func (r *result) print(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "%d CPUs, Linux %s; agent: %s\n", m.CPUs, m.Kernel, m.Agent)
	fmt.Fprintf(w, "memory cgroup: %s; windows of %.0f s, rounds: %d, medians\n",
		m.MemoryCgroup, m.WindowSeconds, m.Rounds)
	if len(m.OtherAgents) > 0 {
		fmt.Fprintf(w, "disturbed: other agents run here, whose hooks cost too: PIDs %v\n", m.OtherAgents)
	}
	for rows := r.Steady; len(rows) > 0; {
		n := samePopulation(rows)
		printPopulation(w, rows[:n])
		rows = rows[n:]
	}
	printLoops(w, r.Loops)
	printBurst(w, r.Burst)
	printJobs(w, r.Jobs)
	printClients(w, r.Clients)
	for _, f := range r.Failed {
		fmt.Fprintf(w, "\n%s: not measured: %s\n", f.Suite, f.Why)
	}
}

// samePopulation counts the rows that share the first one's population.
func samePopulation(rows []*steadyRow) int {
	n := 1
	for n < len(rows) && rows[n].N == rows[0].N && rows[n].Kind == rows[0].Kind {
		n++
	}
	return n
}

func printPopulation(w io.Writer, rows []*steadyRow) {
	fmt.Fprintf(w, "\n%s\n", populationTitle(rows))
	agent := agentRow(rows)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "watcher\tCPU s/min\tx rmagent\tRSS MiB\tPSS MiB\tcharged MiB\treadings/s\tshown\twritten KiB/s\t")
	for _, row := range rows {
		if len(row.Samples) > 0 {
			printRow(t, row, agent)
		}
	}
	t.Flush()
	for _, row := range rows {
		if row.Missing != "" {
			fmt.Fprintf(w, "  %s missing: %s\n", row.Watcher, row.Missing)
		}
	}
	printLate(w, rows)
	if forks := forksBeside(rows); forks > disturbingForks {
		fmt.Fprintf(w, "  disturbed: something else started %.0f processes a second\n", forks)
	}
	printSteadyGoals(w, agent)
}

// printLate names who didn't read once a second: their CPU is for less than it
// seems.
func printLate(w io.Writer, rows []*steadyRow) {
	for _, row := range rows {
		if len(row.Samples) > 0 && row.Median.ReadingsPerSecond < 0.9 {
			fmt.Fprintf(w, "  %s could not hold one reading a second\n", row.Watcher)
		}
	}
}

// disturbingForks is what a machine that does nothing else stays below. The
// watchers themselves start none.
const disturbingForks = 5

func forksBeside(rows []*steadyRow) float64 {
	var all []float64
	for _, row := range rows {
		for _, s := range row.Samples {
			all = append(all, s.ForksPerSecond)
		}
	}
	return median(all)
}

func populationTitle(rows []*steadyRow) string {
	title := fmt.Sprintf("%d %s processes of %d FDs, watched once a second", rows[0].N, rows[0].Kind, fdsEach)
	if rows[0].Kind == "busy" {
		var cores []float64
		for _, row := range rows {
			if len(row.Samples) > 0 {
				cores = append(cores, row.Median.PopulationCores)
			}
		}
		title += fmt.Sprintf(" (they use %.0f %% of one CPU)", median(cores)*100)
	}
	return title
}

func agentRow(rows []*steadyRow) *steadyRow {
	for _, row := range rows {
		if row.Watcher == agentName && len(row.Samples) > 0 {
			return row
		}
	}
	return nil
}

func printRow(w io.Writer, row, agent *steadyRow) {
	m := row.Median
	ratio, charged, shown := "-", "unknown", fmt.Sprintf("%.0f %%", m.SeenRatio*100)
	if agent != nil {
		ratio = fmt.Sprintf("%.1f", m.CPUSecondsPerMinute/agent.Median.CPUSecondsPerMinute)
	}
	if m.ChargedBytes != nil {
		charged = mebibytes(*m.ChargedBytes)
	}
	if row.changesOnly && row.Kind == "idle" {
		shown = "changes"
	}
	fmt.Fprintf(w, "%s\t%.3f\t%s\t%s\t%s\t%s\t%.2f\t%s\t%.0f\t\n", row.Watcher, m.CPUSecondsPerMinute, ratio,
		mebibytes(m.RSSBytes), mebibytes(m.PSSBytes), charged, m.ReadingsPerSecond, shown, m.WrittenPerSecond/1024)
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

func printSteadyGoals(w io.Writer, agent *steadyRow) {
	if agent == nil || agent.Kind != "idle" {
		return
	}
	if goal, ok := goalCPUSecondsPerMinute[agent.N]; ok {
		got := agent.Median.CPUSecondsPerMinute
		fmt.Fprintf(w, "  goal: at most %.2f CPU s/min: %s (%.3f)\n", goal, verdict(got <= goal), got)
	}
	if charged := agent.Median.ChargedBytes; agent.N == goalChargedN && charged != nil {
		fmt.Fprintf(w, "  goal: at most %d MiB charged: %s (%s)\n",
			goalChargedBytes>>20, verdict(*charged <= goalChargedBytes), mebibytes(*charged))
	}
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "NOT MET"
}

func printLoops(w io.Writer, rows []*loopRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\nOthers' operations beside the agent (CPU time, rounds: %d)\n", len(rows[0].With))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "operation\twithout ns\twith ns\tratio\tnoise\tgoal\t\t")
	for _, r := range rows {
		goal := "1.00 within noise"
		if r.Goal > 0 {
			goal = fmt.Sprintf("at most %.2f", r.Goal)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.3f\t%.3f\t%s\t%s\t\n", r.Operation,
			medianCPU(r.Without), medianCPU(r.With), r.Ratio, r.Noise, goal, verdict(r.met()))
	}
	t.Flush()
}

func medianCPU(costs []loopCost) float64 {
	var values []float64
	for _, c := range costs {
		values = append(values, c.CPUNanoseconds)
	}
	return median(values)
}

func printBurst(w io.Writer, r *burstResult) {
	if r == nil {
		return
	}
	lines := []string{
		fmt.Sprintf("\n%d processes of %.2f ms CPU in %.0f s beside the agent", r.Processes, r.CPUSecondsEach*1000, r.Seconds),
		fmt.Sprintf("  the agent's CPU: %.3f s; quiet, as long: %.3f s", r.AgentCPUSeconds, r.QuietCPUSeconds),
		fmt.Sprintf("  exit records: %d of %d", r.ExitRecords, r.Processes),
		fmt.Sprintf("  goal: at most %.3f s for 2000: %s", goalBurstCPUSeconds,
			verdict(r.AgentCPUSeconds <= goalBurstCPUSeconds*float64(r.Processes)/2000)),
	}
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

func printJobs(w io.Writer, rows []*jobRow) {
	for i := 0; i < len(rows); {
		task := rows[i].Task
		fmt.Fprintf(w, "\n%s (rounds: %d)\n", task, len(rows[i].Runs))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "in\tleast ms\tmedian ms\tleast CPU ms\twall ratio\tCPU ratio\tgoal\t")
		for ; i < len(rows) && rows[i].Task == task; i++ {
			r := rows[i]
			if r.Missing != "" {
				fmt.Fprintf(t, "%s\tmissing: %s\t\t\t\t\t\t\n", r.Wrapper, r.Missing)
				continue
			}
			fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.3f\t%.3f\t%s\t\n", r.Wrapper, r.least(), r.median(), r.leastCPU(), r.WallRatio, r.CPURatio, r.verdict())
		}
		t.Flush()
	}
}

func printClients(w io.Writer, rows []*clientRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%d clients of the agent's socket at once, one reading a second (rounds: %d)\n", clients, len(rows[0].Agent.P99s))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "processes\tasked for\teach every\tanswers/s\tKiB\tp50 ms\tp99 ms\tagent's CPU us\twaited for CPU\tgoal\t\t")
	for _, r := range rows {
		goal, met := "", ""
		if r.Goal > 0 {
			goal, met = fmt.Sprintf("p99 under %g ms", r.Goal*1000), verdict(r.Agent.P99 < r.Goal)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%.0f\t%.1f\t%.2f\t%.2f\t%.0f\t%.0f %%\t%s\t%s\t\n", r.Processes, r.Path, r.every(), r.PerSecond, float64(r.Bytes)/1024,
			r.Agent.P50*1000, r.Agent.P99*1000, r.CPUPerAnswer*1e6, r.AgentWaitRatio*100, goal, met)
	}
	t.Flush()
	printFloor(w, rows)
}

// printFloor compares with a server that does nothing but answer.
func printFloor(w io.Writer, rows []*clientRow) {
	fmt.Fprintln(w, "\nThe same clients, and a plain server's answers as long, in turns with these: p50 / p99 ms")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "processes\tasked for\teach every\tagent stopped\tbeside the agent\tthe agent\tits p99 x that beside it\t")
	for _, r := range rows {
		if r.Beside == nil {
			continue
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%.2f\t\n", r.Processes, r.Path, r.every(), r.Alone, r.Beside, &r.Agent, r.overFloor())
	}
	t.Flush()
}

func (r *clientRow) every() string {
	if r.EverySeconds == 0 {
		return "no pause"
	}
	return fmt.Sprintf("%g s", r.EverySeconds)
}

func (w *waits) String() string { return fmt.Sprintf("%.2f / %.2f", w.P50*1000, w.P99*1000) }
