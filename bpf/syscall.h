// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// A system call's number and arguments, by the registers that its caller had.
#ifndef RMAGENT_SYSCALL_H
#define RMAGENT_SYSCALL_H

#include "events_kernel.h"

#if defined(__TARGET_ARCH_x86)
// The call is a 32-bit one: its number means another call.
static __always_inline bool is_compat(struct task_struct *t)
{
	struct task_struct___x86 *x = (void *)t;

	return x->thread_info.status & TS_COMPAT;
}

static __always_inline u64 call_number(void *regs)
{
	struct pt_regs___x86 *r = regs;

	return r->orig_ax;
}

static __always_inline u64 first_argument(void *regs)
{
	struct pt_regs___x86 *r = regs;

	return r->di;
}

static __always_inline u64 second_argument(void *regs)
{
	struct pt_regs___x86 *r = regs;

	return r->si;
}

static __always_inline u64 third_argument(void *regs)
{
	struct pt_regs___x86 *r = regs;

	return r->dx;
}

static __always_inline u64 fourth_argument(void *regs)
{
	struct pt_regs___x86 *r = regs;

	return r->r10;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline bool is_compat(struct task_struct *t)
{
	struct task_struct___64 *x = (void *)t;

	return x->thread_info.flags & _TIF_32BIT;
}

// It is an int there: of one whose sign is extended, 6.1's verifier knows no bound once it was
// compared.
static __always_inline u64 call_number(void *regs)
{
	struct pt_regs___64 *r = regs;
	u64 nr = (u32)r->syscallno;

	asm volatile("" : "+r"(nr)); // or the compiler compares its lower half
	return nr;
}

static __always_inline u64 first_argument(void *regs)
{
	struct pt_regs___64 *r = regs;

	return r->orig_x0;
}

static __always_inline u64 second_argument(void *regs)
{
	struct pt_regs___64 *r = regs;

	return r->regs[1];
}

static __always_inline u64 third_argument(void *regs)
{
	struct pt_regs___64 *r = regs;

	return r->regs[2];
}

static __always_inline u64 fourth_argument(void *regs)
{
	struct pt_regs___64 *r = regs;

	return r->regs[3];
}
#endif

#endif
