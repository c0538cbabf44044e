package main

import (
	"context"
	"fmt"
	"time"
)

// settle is how long a watcher runs between its first reading and the window. It
// isn't a whole number of seconds: a window begins and ends between two readings,
// and so holds the same number of them each time.
const settle = 1300 * time.Millisecond

// steadySample is what one watcher cost over one window beside a population.
type steadySample struct {
	CPUSecondsPerMinute float64 `json:"cpu_seconds_per_minute"`
	RSSBytes            int64   `json:"rss_bytes"`
	PSSBytes            int64   `json:"pss_bytes"`
	// The highest of one value a second; nil where there is no memory cgroup.
	ChargedBytes      *int64  `json:"memory_current_bytes"`
	ReadingsPerSecond float64 `json:"readings_per_second"`
	WrittenPerSecond  float64 `json:"written_bytes_per_second"`
	SeenRatio         float64 `json:"seen_ratio"`
	PopulationCores   float64 `json:"population_cores"`
	// Processes that anybody started meanwhile: the agent has more to do where
	// something else starts many.
	ForksPerSecond float64 `json:"forks_per_second"`
}

// steadyRow gathers a watcher's samples beside one population.
type steadyRow struct {
	Kind    string         `json:"population"`
	N       int            `json:"n"`
	Watcher string         `json:"watcher"`
	Missing string         `json:"missing,omitempty"`
	Samples []steadySample `json:"samples"`
	Median  steadySample   `json:"median"`

	changesOnly bool
}

// steady measures every peer beside every population, in turns: a round visits
// all, so that what drifts on the machine touches all.
func (b *bench) steady(ctx context.Context) error {
	for _, pop := range b.populations() {
		for _, p := range b.peers {
			b.result.Steady = append(b.result.Steady, &steadyRow{
				Kind: pop.kind(), N: pop.n, Watcher: p.name, Missing: p.missing, changesOnly: p.changesOnly})
		}
	}
	for round := range b.rounds {
		rows := b.result.Steady
		for _, pop := range b.populations() {
			b.progress("round %d of %d: %v", round+1, b.rounds, pop)
			if err := b.besidePopulation(ctx, pop, rows[:len(b.peers)]); err != nil {
				return err
			}
			rows = rows[len(b.peers):]
		}
	}
	for _, row := range b.result.Steady {
		row.Median = medianSteady(row.Samples)
	}
	return nil
}

func (b *bench) populations() []population {
	var all []population
	for _, n := range b.idle {
		all = append(all, population{n: n})
	}
	if b.busy > 0 {
		all = append(all, population{n: b.busy, hertz: b.hertz})
	}
	return all
}

// besidePopulation adds one sample to each row.
func (b *bench) besidePopulation(ctx context.Context, pop population, rows []*steadyRow) error {
	for i, p := range b.peers {
		if rows[i].Missing != "" {
			continue
		}
		sample, err := b.watch(ctx, p, pop)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			rows[i].Missing = err.Error()
			b.progress("%v", err)
			continue
		}
		rows[i].Samples = append(rows[i].Samples, sample)
	}
	return nil
}

// watch runs a peer beside the population for one window. The processes are new
// for each: the kernel charges what it keeps for a file in /proc to who looks
// first.
func (b *bench) watch(ctx context.Context, p peer, pop population) (steadySample, error) {
	watched, err := startPopulation(ctx, pop, b.cache)
	if err != nil {
		return steadySample{}, err
	}
	defer watched.stop()
	w, err := startWatcher(ctx, p, watched.pids)
	if err != nil {
		return steadySample{}, err
	}
	defer w.stop()
	if err := pause(ctx, settle); err != nil {
		return steadySample{}, err
	}
	before := w.meter()
	population := watched.cpu()
	charged, err := w.highestCharge(ctx, b.span)
	if err != nil {
		return steadySample{}, err
	}
	after := w.meter()
	s := after.since(before)
	s.PopulationCores = (watched.cpu() - population).Seconds() / after.at.Sub(before.at).Seconds()
	s.ChargedBytes = charged
	s.RSSBytes, s.PSSBytes = residentBytes(after.pids)
	s.SeenRatio = float64(after.counts.seen) / float64(len(watched.pids))
	return s, w.alive()
}

// A meter is where a watcher's counters stood.
type meter struct {
	at     time.Time
	pids   []int
	cpu    cpuReading
	counts counts
	forks  int64
}

func (w *watcher) meter() meter {
	pids := descendants(w.cmd.Process.Pid)
	return meter{cpu: readCPU(pids), at: time.Now(), pids: pids, counts: w.out.counts(), forks: forks()}
}

func (m meter) since(before meter) steadySample {
	seconds := m.at.Sub(before.at).Seconds()
	return steadySample{
		CPUSecondsPerMinute: m.cpu.since(before.cpu).Seconds() / seconds * 60,
		ReadingsPerSecond:   float64(m.counts.readings-before.counts.readings) / seconds,
		WrittenPerSecond:    float64(m.counts.bytes-before.counts.bytes) / seconds,
		ForksPerSecond:      float64(m.forks-before.forks) / seconds,
	}
}

// highestCharge waits for the window to pass, and looks at the memory cgroup
// once a second and at the end. nil: there is no such group.
func (w *watcher) highestCharge(ctx context.Context, window time.Duration) (*int64, error) {
	end := time.Now().Add(window)
	var highest *int64
	for {
		if err := pause(ctx, min(time.Second, time.Until(end))); err != nil {
			return nil, err
		}
		if w.group != nil {
			now, err := w.group.current()
			if err != nil {
				return nil, err
			}
			if highest == nil || now > *highest {
				highest = &now
			}
		}
		if !time.Now().Before(end) {
			return highest, nil
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopped: %w", ctx.Err())
	}
}
