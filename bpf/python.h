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

// What is read of one thread.
struct python_frames {
	u64 count;
	// Where the reading is: an interpreter and one of its threads, then a frame. It
	// is here because a program's stack is small.
	u64 interpreter, thread, frame, self;
	struct python_frame list[PYTHON_FRAMES]; // innermost first
};

struct python_walk {
	struct python *p;
	struct python_frames *to;
};

static long python_search(u64 i, void *data)
{
	struct python *p = ((struct python_walk *)data)->p;
	struct python_frames *to = ((struct python_walk *)data)->to;

	if (!to->thread) {
		to->interpreter = python_word(to->interpreter + p->next_interpreter);
		if (!to->interpreter)
			return 1;
		to->thread = python_word(to->interpreter + p->threads);
		return 0;
	}
	if (python_word(to->thread + p->thread_id) == to->self) {
		to->frame = python_word(to->thread + p->current);
		if (to->frame && p->indirect)
			to->frame = python_word(to->frame + p->indirect - 1);
		return 1;
	}
	to->thread = python_word(to->thread + p->next_thread);
	return 0;
}

// A place that the verifier sees to be one.
static __always_inline u64 python_place(u64 n)
{
	asm volatile("" : "+r"(n));
	return n & (PYTHON_FRAMES - 1);
}

static long python_walk(u64 i, void *data)
{
	struct python *p = ((struct python_walk *)data)->p;
	struct python_frames *to = ((struct python_walk *)data)->to;
	u64 instruction;

	if (!to->frame)
		return 1;
	if (p->shim && (u8)python_word(to->frame + p->owner) == p->shim) {
		if (to->count)
			to->list[python_place(to->count - 1)].instruction |= PYTHON_ENTRY;
	} else {
		if (to->count >= PYTHON_FRAMES)
			return 1;
		instruction = python_word(to->frame + p->instruction) & ~PYTHON_ENTRY;
		if (!p->shim && (u8)python_word(to->frame + p->entry))
			instruction |= PYTHON_ENTRY;
		to->list[python_place(to->count)].instruction = instruction;
		to->list[python_place(to->count)].code = python_word(to->frame + p->code);
		to->count++;
	}
	to->frame = python_word(to->frame + p->previous);
	return 0;
}

// Reads the frames of the thread that runs, whose pthread_self() is self.
static __always_inline void read_python(struct python_frames *to, struct python *p, u64 self)
{
	struct python_walk w = { .p = p, .to = to };

	to->count = to->frame = 0;
	to->self = self;
	to->interpreter = python_word(p->interpreters);
	if (!to->interpreter)
		return;
	to->thread = python_word(to->interpreter + p->threads);
	bpf_loop(PYTHON_STEPS, python_search, &w, 0);
	bpf_loop(2 * PYTHON_FRAMES, python_walk, &w, 0);
}

_Static_assert(sizeof(struct python) == 56, "python");

#endif
