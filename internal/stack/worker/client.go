// Package worker walks and symbolises stacks in a child process without privileges,
// which is given open files and copied stacks and answers with frames.
//
// Client is the parent's side: it remembers walks, so that a stack like one that was
// seen before needs no child; it opens modules, and kills and restarts a child that
// hangs or dies. Confine and Serve are the child's.
package worker

import (
	"errors"
	"slices"
	"sync"
	"time"
	"unsafe"

	"rmagent/internal/clock"
	"rmagent/internal/procmem"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/record"
)

const (
	maxQueued      = 4096                  // stacks that wait for the child
	maxQueuedBytes = 8 << 20               // of their windows
	maxImages      = 256                   // remembered; the one used longest ago is forgotten
	maxSiteBytes   = 64 << 20              // of the frames of all images' sites
	maxNodes       = 1 << 19               // of the walks remembered, of all images: some 64 bytes each
	mapsAge        = time.Second           // how old mappings may be for a stack unlike those before
	checkAge       = 10 * time.Second      // for all others
	freshMaps      = 50 * time.Millisecond // how old mappings may be where code is in none of them
	maxFailures    = 3                     // of the child over one image, after which it is left alone
)

// Image is one program of a process: ExecID as in sample.Process, or 0 where it is not
// known.
type Image struct {
	ID     sample.ID
	ExecID uint64
}

// Site is where calls came from: stacks with equal frames of one image are one Site.
// It is not changed after it was handed out.
type Site struct {
	ID     uint64         // from 1, unique for the Client
	Frames []record.Frame // innermost first; a goroutine's creator is last
	End    string         // why there are no more; "" where the first function was reached
}

// Answer is the Site of a stack that had to be walked.
type Answer struct {
	Image Image
	Seq   uint64
	Site  *Site
}

// Stats are a client's counts since it was made.
type Stats struct {
	Matched  uint64 // stacks whose walk was remembered
	Walked   uint64 // stacks that the child walked
	Refused  uint64 // stacks for which the queue had no room
	Failed   uint64 // stacks that the child did not answer for
	Started  uint64 // children
	Killed   uint64 // children that did not answer in time or not what was asked
	Resets   uint64 // times that the remembered walks were dropped for want of room
	Images   int
	Sites    int
	Queued   int
	LastFail string // of a child, "" where there was none
}

// Client walks stacks. Site, Answers, Forget and Stats may be called from any
// goroutine and do not wait for files or the child; Site may wait for a process's memory,
// a twentieth of a second, once.
type Client struct {
	start func() (*child, error)
	open  *opener
	gate  procmem.Gate // of reads of memory

	mu        sync.Mutex
	wake      chan struct{}
	images    map[Image]*imageState
	queue     queue
	answers   []Answer
	stats     Stats
	sites     int
	siteBytes int
	nodes     int // of the walks that are remembered
	nextSite  uint64
	clock     uint64             // counts uses, for forgetting what was not used for longest
	forgotten []uint64           // images that the child has still
	slow      map[sample.ID]bool // whose memory kept a reader waiting
	pid       int                // of the child; 0: none
	calls     *conn              // to the child; nil: none
	pastCPU   time.Duration      // of the children before it
	lastCPU   time.Duration      // and of it, as it was read last

	stop chan struct{}
	done chan struct{}

	// Only the client's own goroutine has these.
	child   *child
	retryAt time.Time
	backoff time.Duration
	modules moduleCache
	number  uint64 // of the last image
}

type job struct {
	image Image
	seq   uint64
	raw   sample.RawStack
	g     []byte
	check bool // only the mappings are to be read again
	find  *search
}

// imageState is what is known of an image. The client's mutex guards all that is above
// the empty line; the client's goroutine alone writes what is below, and number and read.
type imageState struct {
	templates stack.Templates[*Site]
	epoch     uint64 // another for each image, and whenever its templates were forgotten
	sites     map[string]*Site
	siteBytes int
	used      uint64
	dropped   bool
	checking  bool      // a job that reads the mappings is queued
	read      time.Time // when the mappings were
	number    uint64    // in the child; 0 where it does not have the image
	generates bool      // it tells of the code that it generates
	codeRead  time.Time // since when what is known of that is kept

	mappings []stack.Mapping
	machine  *machine // nil until it is asked for
	failures int
}

// Itself is this program again, as the program of a client's child.
const Itself = "/proc/self/exe"

// Command is the command of rmagent that calls Confine and Serve.
const Command = "stack-worker"

// New returns a client whose child is a program, run with the arguments with which it
// calls Confine and Serve. It is started when it is needed first.
func New(program string, args ...string) *Client {
	c := &Client{
		open: newOpener(), gate: procmem.NewGate(maxStuck), wake: make(chan struct{}, 1), images: map[Image]*imageState{},
		slow: map[sample.ID]bool{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	c.start = func() (*child, error) { return startChild(program, args) }
	go c.run()
	return c
}

// CPU is the CPU time of all children so far.
func (c *Client) CPU() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readCPU()
	return c.pastCPU + c.lastCPU
}

// readCPU reads the child's; mu is held.
func (c *Client) readCPU() {
	if c.pid == 0 {
		return
	}
	if now, ok := clock.CPUOf(c.pid); ok {
		c.lastCPU = now
	}
}

// Close ends the child and the client's goroutine, without waiting for an answer.
func (c *Client) Close() {
	close(c.stop)
	c.mu.Lock()
	if c.calls != nil {
		_ = c.calls.c.Close()
	}
	c.mu.Unlock()
	<-c.done
}

// Site returns where a stack came from, if its walk is remembered. If not, the stack
// is copied and walked, and Answers has its Site under seq later; it is false where
// there is no room for that.
func (c *Client) Site(image Image, seq uint64, raw *sample.RawStack) (site *Site, ok bool) {
	if site, ok = c.known(image, raw); site != nil || !ok {
		return site, ok
	}
	// The goroutine is read at once, as long as it is likely to be the same.
	j := job{image: image, seq: seq, g: c.goroutine(image.ID, raw)}
	j.raw = sample.RawStack{Registers: raw.Registers, Window: slices.Clone(raw.Window), Chain: slices.Clone(raw.Chain)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enqueue(j)
	return nil, true
}

// known returns the Site of a stack whose walk is remembered; false where it is not, and
// there is no room for it to wait.
func (c *Client) known(image Image, raw *sample.RawStack) (site *Site, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if site = c.match(image, raw); site != nil {
		c.stats.Matched++
		return site, true
	}
	if !c.queue.room(image, len(raw.Window)) {
		c.stats.Refused++
		return nil, false
	}
	return nil, true
}

func (c *Client) match(image Image, raw *sample.RawStack) *Site {
	im := c.use(image)
	if im == nil || im.generates && time.Since(im.codeRead) > codeAge {
		return nil
	}
	site, ok := im.templates.Match(raw)
	if ok {
		c.checkLater(image, im)
	}
	return site
}

// use is what is known of an image, which is used now; nil: nothing.
func (c *Client) use(image Image) *imageState {
	im := c.images[image]
	if im != nil {
		c.clock++
		im.used = c.clock
	}
	return im
}

// checkLater has the mappings looked at where that was long ago.
func (c *Client) checkLater(image Image, im *imageState) {
	if !im.checking && time.Since(im.read) > checkAge {
		im.checking = true
		c.enqueue(job{image: image, check: true})
	}
}

// Words are what the walk of a stack to a site read, where that is all that it depends on,
// appended to dst: while Epoch is what is returned here, who finds them again need not ask
// where the stack came from. False where the walk is not remembered, as it was since Site told
// of it, or more goes into it.
func (c *Client) Words(image Image, raw *sample.RawStack, to *Site, dst sample.WalkWords) (words sample.WalkWords, epoch uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	im := c.images[image]
	if im == nil || im.generates {
		return dst, 0, false
	}
	site, words, ok := im.templates.Words(raw, dst)
	return words, im.epoch, ok && site == to
}

// Epoch changes when the walks of an image that are remembered are forgotten, as its
// mappings changed; 0: nothing is known of it any more. Who asks has the mappings looked at
// now and then, as Site does.
func (c *Client) Epoch(image Image) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	im := c.use(image)
	if im == nil {
		return 0
	}
	c.checkLater(image, im)
	return im.epoch
}

// reset forgets the walks of an image; mu is held.
func (c *Client) reset(im *imageState) {
	im.templates.Reset(codeOf(im.mappings))
	c.clock++
	im.epoch = c.clock
}

func (c *Client) enqueue(j job) {
	c.queue.add(j)
	c.signal()
}

// signal has the client's goroutine look for a job.
func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Answers appends what was walked since the last call.
func (c *Client) Answers(dst []Answer) []Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full() {
		c.signal() // it rests until there is room
	}
	dst = append(dst, c.answers...)
	clear(c.answers)
	c.answers = c.answers[:0]
	return dst
}

// Forget drops what is known of a process's images: it ended.
func (c *Client) Forget(id sample.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.slow, id)
	for image, im := range c.images {
		if image.ID == id {
			c.drop(image, im)
		}
	}
}

func (c *Client) drop(image Image, im *imageState) {
	c.sites -= len(im.sites)
	c.siteBytes -= im.siteBytes
	c.nodes -= im.templates.Nodes()
	im.dropped = true
	if im.number != 0 {
		c.forgotten = append(c.forgotten, im.number)
	}
	delete(c.images, image)
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Images, s.Sites, s.Queued = len(c.images), c.sites, c.queue.jobs
	return s
}

// run takes one job after the other.
func (c *Client) run() {
	defer close(c.done)
	defer func() { c.endChild() }()
	for c.awaitChild() {
		j, ok := c.next()
		if !ok {
			select {
			case <-c.wake:
				continue
			case <-c.stop:
				return
			}
		}
		began := time.Now()
		c.do(&j)
		c.mu.Lock()
		c.queue.took(&j, time.Since(began))
		c.mu.Unlock()
	}
}

// awaitChild waits until a child that failed may be started again, unless that is long:
// jobs are not worth failing for a moment. It is false once the client is closed.
func (c *Client) awaitChild() bool {
	wait := time.Duration(0)
	if c.child == nil && c.backoff <= shortBackoff {
		wait = max(0, time.Until(c.retryAt))
	}
	select {
	case <-c.stop:
		return false
	default:
	}
	if wait == 0 {
		return true
	}
	select {
	case <-c.stop:
		return false
	case <-time.After(wait):
		return true
	}
}

func (c *Client) do(j *job) {
	c.tellForgotten()
	switch {
	case j.check:
		c.check(j.image)
	case j.find != nil:
		c.search(j.image, j.find)
	default:
		site := c.walk(j)
		c.mu.Lock()
		c.answers = append(c.answers, Answer{j.image, j.seq, site})
		c.mu.Unlock()
	}
}

func (c *Client) next() (job, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full() {
		return job{}, false
	}
	return c.queue.next()
}

// full tells whether there are so many answers that nobody took that no more are made; mu
// is held.
func (c *Client) full() bool { return len(c.answers) >= maxQueued }

// tellForgotten has the child forget images, too.
func (c *Client) tellForgotten() {
	c.mu.Lock()
	numbers := c.forgotten
	c.forgotten = nil
	c.mu.Unlock()
	for _, n := range numbers {
		c.forget(forgetRequest{Image: n})
	}
}

// check makes sure that what is remembered of an image holds still.
func (c *Client) check(image Image) {
	c.mu.Lock()
	im := c.images[image]
	c.mu.Unlock()
	if im == nil {
		return
	}
	_ = c.refresh(image, im, mapsAge) // it cannot fail where mappings were read before
	c.mu.Lock()
	im.checking = false
	c.mu.Unlock()
}

// failed ends a child that does not do what it should.
func (c *Client) failed(im *imageState, err error) {
	var refused *refusedError
	if err != nil && !errors.As(err, &refused) && !errors.Is(err, errNoChild) && !errors.Is(err, errNoFile) {
		im.failures++
		c.kill(err)
	}
}

// walk has a stack walked, unless one like it has been meanwhile.
func (c *Client) walk(j *job) *Site {
	im := c.image(j.image)
	if err := c.refresh(j.image, im, mapsAge); err != nil {
		return c.fail(im, "the process's mappings can't be read: "+err.Error())
	}
	if err := c.expire(im); err != nil {
		c.failed(im, err)
	}
	c.mu.Lock()
	site, ok := im.templates.Match(&j.raw)
	c.mu.Unlock()
	if ok {
		return site
	}
	if im.failures >= maxFailures {
		return c.fail(im, "walking this program's stacks failed too often")
	}
	a, err := c.ask(j, im)
	if err == nil && a.End == stack.EndNotCode {
		// Code may have been mapped since the mappings were read.
		if before := im.read; c.refresh(j.image, im, freshMaps) == nil && im.read != before {
			a, err = c.ask(j, im)
		}
	}
	if err != nil {
		c.failed(im, err)
		return c.fail(im, "the stack could not be walked: "+err.Error())
	}
	im.nameGenerated(a)
	return c.remember(im, a)
}

// image returns what is known of an image, and forgets another where there are too many.
func (c *Client) image(image Image) *imageState {
	c.mu.Lock()
	defer c.mu.Unlock()
	im := c.images[image]
	if im == nil {
		if len(c.images) >= maxImages {
			var oldest Image
			var least *imageState
			for i, s := range c.images {
				if least == nil || s.used < least.used {
					oldest, least = i, s
				}
			}
			c.drop(oldest, least)
		}
		im = &imageState{sites: map[string]*Site{}}
		c.images[image] = im
	}
	c.clock++
	im.used = c.clock
	return im
}

// remember makes a Site of an answer, and a template of what the walk depended on.
func (c *Client) remember(im *imageState, a *answer) *Site {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Walked++
	site := c.site(im, string(a.Key), a.Frames, a.End)
	if c.nodes >= maxNodes {
		c.stats.Resets++
		for _, other := range c.images {
			c.reset(other)
		}
		c.nodes = 0
	}
	if im.dropped {
		return site
	}
	before := im.templates.Nodes()
	if len(a.Deps) > 0 && !im.templates.Add(a.Deps, site) && im.templates.Full() {
		c.stats.Resets++
		c.reset(im)
	}
	c.nodes += im.templates.Nodes() - before
	return site
}

// site returns the one of a key. Where there are too many, all further ones of an
// image are one without frames.
func (c *Client) site(im *imageState, key string, frames []record.Frame, end string) *Site {
	if site := im.sites[key]; site != nil {
		return site
	}
	bytes := siteBytes(key, frames)
	if c.siteBytes+bytes > maxSiteBytes {
		key, frames, end = "full", nil, "there are too many different stacks"
		if site := im.sites[key]; site != nil {
			return site
		}
		bytes = siteBytes(key, frames)
	}
	c.nextSite++
	if !im.dropped {
		c.sites++
		c.siteBytes += bytes
	}
	im.siteBytes += bytes
	site := &Site{ID: c.nextSite, Frames: frames, End: end}
	im.sites[key] = site
	return site
}

// siteBytes is what a site takes of memory: one without frames has a key, too, which may say
// why it has none in any words.
func siteBytes(key string, frames []record.Frame) int {
	return len(key) + int(unsafe.Sizeof(Site{})) + FramesBytes(frames)
}

// FramesBytes is what frames take of memory: their texts were decoded for them alone.
func FramesBytes(frames []record.Frame) int {
	n := len(frames) * int(unsafe.Sizeof(record.Frame{}))
	for i := range frames {
		f := &frames[i]
		for _, text := range [...]record.Opt[string]{f.Function, f.File, f.Module, f.BuildID, f.Language, f.Guess} {
			n += len(text.Or(""))
		}
	}
	return n
}

// fail returns a Site without frames that says why.
func (c *Client) fail(im *imageState, why string) *Site {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Failed++
	return c.site(im, "failed: "+why, nil, why)
}
