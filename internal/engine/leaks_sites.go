package engine

import (
	"hash/maphash"
	"slices"
	"strings"

	"rmagent/internal/report"
	"rmagent/internal/stack"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

// Stacks are copied to different depths, so calls from one place may be walked to
// different ends. A stack that ends with what was copied is the same site as the one
// longer stack that begins like it. Where there are several, nobody knows which it
// is, and the site is only as long as what is common.

// A function that calls itself, directly or by way of others, is in the stack as often as
// it happened to be deep then, and what it opens is one site all the same: each function is
// kept once, where it was called last.

// maxSitesTraced bounds the sites of one process; further ones are one without frames.
const maxSitesTraced = 2048

// maxSiteBytes bounds the frames of the sites of all who are traced: who walks stacks
// forgets those of programs that others took the place of, and here they are kept.
const maxSiteBytes = 64 << 20

// roomForSites tells whether there is room for frames of so many bytes.
func (l *Leaks) roomForSites(bytes int) bool {
	for _, t := range l.traced {
		bytes += t.native.bytes + t.pythonSites.bytes
	}
	return bytes <= maxSiteBytes
}

// maxJoined bounds the stacks of one process whose sites are remembered: more than there are,
// unless who walks them forgot some and walked them anew.
const maxJoined = 1 << 14

// joinedSite is a site of one or more stacks that begin alike. Its Site is the
// engine's own.
type joinedSite struct {
	site  worker.Site
	print sitePrint
	short *cutStack // the shortest of those that joined it; nil where none did
}

// cutStack is frames that are not all, with their print.
type cutStack struct {
	frames []record.Frame
	print  sitePrint
}

// sitePrint is what tells most stacks apart without a look at their frames: a program
// may have thousands that are long and differ only at their ends.
type sitePrint struct {
	begins []uint64 // hashes of so many frames and one
	python uint64   // hash of CPython's frames; 0: none
	tells  bool     // it is long enough to say who opened the descriptor for whom
}

var hashSeed = maphash.MakeSeed()

func printOf(frames []record.Frame) sitePrint {
	p := sitePrint{begins: make([]uint64, len(frames))}
	all := uint64(0)
	for i := range frames {
		f := maphash.Comparable(hashSeed, frames[i])
		all = maphash.Comparable(hashSeed, [2]uint64{all, f})
		p.begins[i] = all
		if isPython(frames[i]) {
			p.python = maphash.Comparable(hashSeed, [2]uint64{p.python, f}) | 1
		}
	}
	culprit := report.Culprit(frames)
	p.tells = culprit >= 0 && culprit+1 < len(frames) && !report.Runtime(&frames[culprit])
	return p
}

// begin tells whether the frames of a print may be the first of another's.
func (p *sitePrint) begin(longer *sitePrint) bool {
	n := len(p.begins)
	return n <= len(longer.begins) && (n == 0 || p.begins[n-1] == longer.begins[n-1])
}

// siteSet is the sites of one process, each once.
type siteSet struct {
	list  []*joinedSite
	bytes int // of their frames
}

// canonical returns the site of a stack, the same for stacks that differ only in how
// far they were walked; nil for nil.
func (t *traced) canonical(s *worker.Site) *worker.Site {
	if s == nil {
		return nil
	}
	site, met := t.joined[s]
	if !met {
		if len(t.joined) >= maxJoined {
			clear(t.joined)
		}
		site = t.native.add(folded(s), t.room)
		t.joined[s] = site
	}
	return site
}

// add returns the site that a stack belongs to, which may be a new one; nil where
// there are too many, or room says that its frames don't fit.
func (set *siteSet) add(s *worker.Site, room func(bytes int) bool) *worker.Site {
	print := printOf(s.Frames)
	j := set.join(s, &print)
	if j == nil {
		size := worker.FramesBytes(s.Frames)
		if len(set.list) >= maxSitesTraced || !room(size) {
			return nil
		}
		j = &joinedSite{site: *s, print: print}
		set.list = append(set.list, j)
		set.bytes += size
	}
	return &j.site
}

// folded is a stack with each function once, at its innermost call. What is in between
// stays: a decorator or a chain of filters is called for each function that it wraps.
func folded(s *worker.Site) *worker.Site {
	met := map[record.Frame]bool{}
	kept := make([]record.Frame, 0, len(s.Frames))
	for _, f := range s.Frames {
		key, known := functionOf(&f)
		if known && met[key] {
			if n := len(kept); kept[n-1].Inlined {
				kept[n-1].Inlined = f.Inlined
			}
			continue
		}
		met[key] = true
		kept = append(kept, f)
	}
	if len(kept) == len(s.Frames) {
		return s
	}
	folded := *s
	folded.Frames = kept
	return &folded
}

// place numbers the function of the program's own that a stack says opened something, from
// 1; 0 where it says none.
func (t *traced) place(s *worker.Site) int {
	if s == nil {
		return 0
	}
	i := report.Culprit(s.Frames)
	if i < 0 || report.Runtime(&s.Frames[i]) {
		return 0
	}
	f, ok := functionOf(&s.Frames[i])
	if !ok {
		return 0
	}
	if t.places == nil {
		t.places = map[record.Frame]int{}
	}
	n := t.places[f]
	if n == 0 {
		n = len(t.places) + 1
		t.places[f] = n
	}
	return n
}

// nameless are parts of what compilers and interpreters call functions that have no name
// of their own: several have the same one.
var nameless = []string{"lambda", "closure", "anonymous", "comp>", "genexpr>"}

// functionOf is what the frames of one function have in common; false where nothing says
// which it is.
func functionOf(f *record.Frame) (record.Frame, bool) {
	name := f.Function.Or("")
	if name == "" || slices.ContainsFunc(nameless, func(part string) bool { return strings.Contains(name, part) }) {
		return *f, f.Module.Known() || f.Line.Known()
	}
	return record.Frame{Function: f.Function, File: f.File, Module: f.Module, Language: f.Language}, true
}

func (set *siteSet) has(s *worker.Site) bool {
	return slices.ContainsFunc(set.list, func(j *joinedSite) bool { return &j.site == s })
}

// join finds the one site that a stack belongs to, nil where it is one of its own.
func (set *siteSet) join(s *worker.Site, print *sitePrint) *joinedSite {
	var longer *joinedSite
	several := false
	own := cutStack{s.Frames, *print}
	for _, j := range set.list {
		other := cutStack{j.site.Frames, j.print}
		switch {
		case (s.End == j.site.End || cutOff(s) && cutOff(&j.site)) && own.equal(&other):
			return j
		case cutOff(s) && own.begins(&other): // it is the short one
			several = several || longer != nil
			longer = j
		case cutOff(&j.site) && other.begins(&own): // only short ones came until now
			if j.short == nil {
				j.short = &cutStack{j.site.Frames, j.print}
			}
			set.change(j, &own, s.End)
			return j
		case j.short != nil && j.short.begins(&own):
			set.change(j, j.short, stack.EndWindow) // either may be meant
		}
	}
	if several || longer == nil {
		return nil
	}
	if longer.short == nil || len(s.Frames) < len(longer.short.frames) {
		longer.short = &own
	}
	return longer
}

// change gives a site other frames.
func (set *siteSet) change(j *joinedSite, to *cutStack, end string) {
	set.bytes += worker.FramesBytes(to.frames) - worker.FramesBytes(j.site.Frames)
	j.site.Frames, j.site.End, j.print = to.frames, end, to.print
}

// cutOff tells whether a stack goes on where the walk of it ended.
func cutOff(s *worker.Site) bool { return s.End == stack.EndWindow || s.End == stack.EndFrames }

func (s *cutStack) equal(other *cutStack) bool {
	return len(s.frames) == len(other.frames) && s.print.begin(&other.print) && slices.Equal(s.frames, other.frames)
}

// begins tells whether a stack that was cut off may be a longer one: that begins like
// it, and it is long enough to say who opened the descriptor for whom.
func (s *cutStack) begins(longer *cutStack) bool {
	if len(s.frames) > len(longer.frames) {
		return false
	}
	if s.print.python != 0 {
		return s.print.python == longer.print.python && samePython(s.frames, longer.frames)
	}
	return s.print.tells && s.print.begin(&longer.print) && slices.Equal(s.frames, longer.frames[:len(s.frames)])
}

// samePython tells whether a stack with CPython's frames differs from a longer one only
// in native frames that it lacks. CPython's own are all there, however little of the
// stack was copied: they say who opened the descriptor.
func samePython(short, longer []record.Frame) bool {
	for i := range longer {
		switch {
		case len(short) > 0 && short[0] == longer[i]:
			short = short[1:]
		case isPython(longer[i]):
			return false
		}
	}
	return len(short) == 0
}

func isPython(f record.Frame) bool { return f.Language.Or("") == "python" }

// tooShort tells whether a stack was cut off before anybody who is no runtime.
func tooShort(s *worker.Site) bool {
	return s.End == stack.EndWindow && !slices.ContainsFunc(s.Frames, func(f record.Frame) bool {
		return (f.Function.Known() || f.Module.Known()) && !report.Runtime(&f)
	})
}
