package worker

import "time"

// queue is the jobs that wait for the child, a line for each image. Whoever used the
// child least is served next, so that one image whose stacks are many, or whose files
// take long to read, leaves the others their share. Its zero value is empty.
type queue struct {
	lines map[Image]*line
	jobs  int
	bytes int // of their windows
}

type line struct {
	jobs  []job
	bytes int
	spent time.Duration // on its jobs, and at least what others had spent when it came
}

// ofQueue is the share of the queue that one image may fill.
const ofQueue = 4

// room tells whether one more job of an image, with a window of so many bytes, may
// wait.
func (q *queue) room(image Image, bytes int) bool {
	if q.jobs >= maxQueued || q.bytes+bytes > maxQueuedBytes {
		return false
	}
	l := q.lines[image]
	return l == nil || len(l.jobs) < maxQueued/ofQueue && l.bytes+bytes <= maxQueuedBytes/ofQueue
}

// add has a job wait; those that find something are the first of their line.
func (q *queue) add(j job) {
	l := q.lines[j.image]
	if l == nil {
		l = &line{}
		if least := q.least(); least != nil {
			l.spent = least.spent
		}
		if q.lines == nil {
			q.lines = map[Image]*line{}
		}
		q.lines[j.image] = l
	}
	if j.find != nil {
		l.jobs = append([]job{j}, l.jobs...)
	} else {
		l.jobs = append(l.jobs, j)
	}
	q.jobs++
	l.bytes += len(j.raw.Window)
	q.bytes += len(j.raw.Window)
}

// next takes a job out.
func (q *queue) next() (job, bool) {
	l := q.least()
	if l == nil {
		return job{}, false
	}
	j := l.jobs[0]
	l.jobs[0] = job{}
	l.jobs = l.jobs[1:]
	q.jobs--
	l.bytes -= len(j.raw.Window)
	q.bytes -= len(j.raw.Window)
	return j, true
}

// took notes how long a job took that next returned.
func (q *queue) took(j *job, d time.Duration) {
	l := q.lines[j.image]
	if l == nil {
		return
	}
	l.spent += d
	if len(l.jobs) == 0 {
		delete(q.lines, j.image)
	}
}

// least is the line that is served next; nil where nobody waits. What is to be found
// goes before what it is found for.
func (q *queue) least() (least *line) {
	for _, l := range q.lines {
		switch {
		case len(l.jobs) == 0: // its last job is being done
		case l.jobs[0].find != nil:
			return l
		case least == nil || l.spent < least.spent:
			least = l
		}
	}
	return least
}
