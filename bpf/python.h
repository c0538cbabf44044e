// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The frames of a CPython thread, read by the thread itself while it is in a system
// call: nobody else changes them then. Where they are is different in each version,
// and told by user space. What is read is the process's own memory: user space
// verifies that it is what it should be.
#ifndef RMAGENT_PYTHON_H
#define RMAGENT_PYTHON_H

#define PYTHON_FRAMES 32 // a power of two
#define PYTHON_STEPS 128 // threads, and interpreters, that are looked through
#define PYTHON_ENTRY (1ULL << 63) // in instruction: C called this frame

struct python_frame {
	u64 code;	 // address of the code object
	u64 instruction; // the one that is running, or runs another
};

// Where the frames are, by address and offset. Pointers are read at them.
struct python {
	u64 interpreters;   // the newest one
	u32 next_interpreter;
	u32 threads;	    // an interpreter's newest thread
	u32 next_thread;
	u32 thread_id;	    // pthread_self()
	u32 current;	    // a thread's frame, or a structure that has it
	u32 indirect;	    // 1 + its offset in that structure; 0: there is none
	u32 code;
	u32 instruction;
	u32 previous;
	u32 owner;
	u32 shim;	    // owner of a frame that is C's, which called the ones before it
	u32 entry;	    // where there are none: a byte that says that C called
};

static __always_inline u64 python_word(u64 at)
{
	u64 v = 0;

	bpf_probe_read_user(&v, sizeof v, (void *)at);
	return v;
}

struct python_search {
	struct python *p;
	u64 self, interpreter, thread, found;
};

static long python_search(u64 i, void *data)
{
	struct python_search *s = data;

	if (!s->thread) {
		s->interpreter = python_word(s->interpreter + s->p->next_interpreter);
		if (!s->interpreter)
			return 1;
		s->thread = python_word(s->interpreter + s->p->threads);
		return 0;
	}
	if (python_word(s->thread + s->p->thread_id) == s->self) {
		s->found = s->thread;
		return 1;
	}
	s->thread = python_word(s->thread + s->p->next_thread);
	return 0;
}

struct python_walk {
	struct python *p;
	struct python_frame *to;
	u64 frame;
	u64 n;
};

// A place that the verifier sees to be one.
static __always_inline u64 python_place(u64 n)
{
	asm volatile("" : "+r"(n));
	return n & (PYTHON_FRAMES - 1);
}

static long python_walk(u64 i, void *data)
{
	struct python_walk *w = data;
	struct python *p = w->p;
	u8 owner = 0, entry = 0;
	u64 instruction;

	if (!w->frame)
		return 1;
	bpf_probe_read_user(&owner, 1, (void *)(w->frame + p->owner));
	if (p->shim && owner == p->shim) {
		if (w->n)
			w->to[python_place(w->n - 1)].instruction |= PYTHON_ENTRY;
	} else {
		if (w->n >= PYTHON_FRAMES)
			return 1;
		if (!p->shim)
			bpf_probe_read_user(&entry, 1, (void *)(w->frame + p->entry));
		instruction = python_word(w->frame + p->instruction) & ~PYTHON_ENTRY;
		if (entry)
			instruction |= PYTHON_ENTRY;
		w->to[python_place(w->n)].code = python_word(w->frame + p->code);
		w->to[python_place(w->n)].instruction = instruction;
		w->n++;
	}
	w->frame = python_word(w->frame + p->previous);
	return 0;
}

// Innermost first; returns how many.
static __always_inline u64 read_python(struct python_frame *to, struct python *p, u64 self)
{
	struct python_search s = { .p = p, .self = self, .interpreter = python_word(p->interpreters) };
	struct python_walk w = { .p = p, .to = to };

	if (!s.interpreter)
		return 0;
	s.thread = python_word(s.interpreter + p->threads);
	bpf_loop(PYTHON_STEPS, python_search, &s, 0);
	if (!s.found)
		return 0;
	w.frame = python_word(s.found + p->current);
	if (w.frame && p->indirect)
		w.frame = python_word(w.frame + p->indirect - 1);
	bpf_loop(2 * PYTHON_FRAMES, python_walk, &w, 0);
	return w.n;
}

_Static_assert(sizeof(struct python) == 56, "python");

#endif
