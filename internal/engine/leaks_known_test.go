package engine

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/internal/stack/worker"
)

// knownTracer is a tracer with births of one process, that notes which walks it is to know.
type knownTracer struct {
	FDTracer
	births  []sample.FDBirth
	as      []uint32
	forgets int
}

func (k *knownTracer) ExecID(sample.ID) uint64  { return 1 }
func (k *knownTracer) NeedDeep(sample.ID) error { return nil }
func (k *knownTracer) ForgetWalks(sample.ID)    { k.forgets++ }
func (k *knownTracer) Drain(d *sample.FDBirths) error {
	d.Reset()
	d.Births = append(d.Births, k.births...)
	return nil
}

func (k *knownTracer) Remember(_ sample.ID, exec uint64, words sample.WalkWords, as uint32) bool {
	if exec == 1 && len(words) == 1 {
		k.as = append(k.as, as)
	}
	return true
}

// knownStacks is who has walked all stacks, by where they begin.
type knownStacks struct {
	StackResolver
	sites map[uint64]*worker.Site
	epoch uint64
	more  bool // goes into the walks than words tell
}

func (k *knownStacks) Site(_ worker.Image, _ uint64, raw *sample.RawStack) (*worker.Site, bool) {
	return k.sites[raw.IP], true
}
func (k *knownStacks) Answers(dst []worker.Answer) []worker.Answer { return dst }
func (k *knownStacks) Stats() worker.Stats                         { return worker.Stats{} }
func (k *knownStacks) Epoch(worker.Image) uint64                   { return k.epoch }
func (k *knownStacks) Words(_ worker.Image, raw *sample.RawStack, _ *worker.Site, dst sample.WalkWords) (sample.WalkWords, uint64, bool) {
	return append(dst, sample.WalkWord{Value: raw.IP}), k.epoch, !k.more
}

func TestWalksAreKnownToTheTracer(t *testing.T) {
	id := sample.ID{PID: 7, StartTicks: 1}
	leak, use := stackOf("", "open", "leak", "main"), stackOf("", "open", "use", "main")
	cut := stackOf(stack.EndWindow, "open", "deep")
	tracer := &knownTracer{}
	stacks := &knownStacks{sites: map[uint64]*worker.Site{1: leak, 2: use, 3: cut}, epoch: 5}
	l := NewLeaks(LeakOptions{Tracer: tracer, Stacks: stacks, Log: zap.NewNop(), Now: func() time.Duration { return time.Hour }})
	tr := newTraced()
	tr.execID, tr.bySite = 1, map[*worker.Site]int{}
	l.traced[id] = tr
	seq := uint64(0)
	drain := func(births ...sample.FDBirth) {
		t.Helper()
		for i := range births {
			seq++
			births[i].Seq, births[i].ID, births[i].ExecID, births[i].At = seq, id, 1, time.Hour
		}
		tracer.births, tracer.as = births, nil
		l.drain()
	}
	from := func(ip uint64) sample.FDBirth {
		return sample.FDBirth{Stack: sample.RawStack{Registers: sample.Registers{IP: ip}}}
	}
	drain(from(1), from(2), from(3))
	if len(tracer.as) != 2 || tracer.as[0] == 0 || tracer.as[0] == tracer.as[1] || tracer.forgets != 1 {
		t.Fatalf("the tracer is to know walks as %v, after %d forgets; a stack that is cut off is none", tracer.as, tracer.forgets)
	}
	known := sample.FDBirth{Known: tracer.as[0], Thread: sample.Comm{'w'}}
	drain(known, known, from(2))
	site := tr.bySite[tr.canonical(leak)]
	if c := l.judge.Ledger(id).Counts(site); c.Opened != 3 || c.Held != 3 || tr.sites[site].thread != known.Thread {
		t.Errorf("the site has %+v, last by %q; want 3 opened and held", c, tr.sites[site].thread.Bytes())
	}
	if c := l.judge.Ledger(id).Counts(tr.bySite[tr.canonical(use)]); c.Opened != 2 {
		t.Errorf("the other site has %+v, want 2 opened", c)
	}

	stacks.epoch++ // something else is mapped
	drain(known)
	if tracer.forgets != 2 {
		t.Errorf("walks of before are forgotten %d times, want twice", tracer.forgets)
	}
	stacks.more = true
	failed := from(1)
	failed.Errno = 24
	drain(from(1), failed)
	if len(tracer.as) != 0 {
		t.Errorf("the tracer is to know %v, into which more goes than it sees", tracer.as)
	}
	stacks.more, tr.runsPython = false, true
	if drain(from(1)); len(tracer.as) != 0 {
		t.Errorf("the tracer is to know %v of CPython", tracer.as)
	}
	tr.runsPython = false
	many := make([]sample.FDBirth, 100)
	for i := range many {
		many[i] = from(1)
	}
	if drain(many...); len(tracer.as) == 0 || len(tracer.as) > maxOffered {
		t.Errorf("the tracer was offered %d walks at once, at most %d are wanted", len(tracer.as), maxOffered)
	}
}
