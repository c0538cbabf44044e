// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What the event programs read of the kernel beyond kernel.h.
#ifndef RMAGENT_EVENTS_KERNEL_H
#define RMAGENT_EVENTS_KERNEL_H

#include "kernel.h"

/* include/linux/sched/signal.h */
#define SIGNAL_GROUP_EXIT 0x00000004

/* include/linux/sched.h */
#define PF_IO_WORKER 0x00000010
#define EXIT_ZOMBIE 0x00000020

/* include/linux/socket.h */
#define AF_INET 2
#define AF_INET6 10
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define SCM_PIDFD 4

/* include/uapi/asm-generic/errno-base.h */
#define EBADF 9
#define EEXIST 17
#define ENFILE 23
#define EMFILE 24

/* include/uapi/linux/fcntl.h */
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030

/* include/uapi/linux/sched.h */
#define CLONE_PIDFD 0x1000

/* arch/x86/include/asm/thread_info.h, arch/arm64/include/asm/thread_info.h */
#define TS_COMPAT 0x0002
#define _TIF_32BIT (1 << 22)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Paths. */
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};
struct qstr {
	u32 len;
	const unsigned char *name;
};
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file_operations;
struct inode;
struct file {
	struct path f_path;
	struct inode *f_inode;
	const struct file_operations *f_op;
	const struct cred *f_cred;
	void *private_data;
	long long f_pos;
};
struct super_block {
	u32 s_dev;
	unsigned long s_magic;
};
struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
	struct super_block *i_sb;
};
struct linux_binprm {
	struct file *file;
};

/* io_uring. What a request asks for lies at its beginning, by its opcode, since
 * 6.0 (f2ccb5aed7bc, io_uring: make io_kiocb_to_cmd() typesafe). */
struct io_kiocb {
	u8 opcode;
};
struct io_open {
	u32 file_slot;
};
struct io_accept {
	u32 file_slot;
};
struct io_socket {
	u32 file_slot;
};
struct io_pipe {
	int *fds;
	int file_slot;
};
struct io_close {
	int fd;
	u32 file_slot;
};
struct io_uring_cqe {
	s32 res;
};

/* Sockets. */
struct in6_addr {
	u8 bytes[16];
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	u8 sk_kern_sock : 1;
	u16 sk_protocol;
};
struct inet_sock {
	__be16 inet_sport;
};
struct tcp_sock {
	u64 bytes_received;
	u64 bytes_sent;
};
struct socket {
	struct sock *sk;
};
struct msghdr {
	int msg_namelen;
};
struct page {
	unsigned long flags;
};

/* System calls. */
struct pt_regs;
struct pt_regs___x86 {
	unsigned long r15, r14, r13, r12, bp, bx, r10, cx, dx, si, di, orig_ax, ip, sp;
};
struct pt_regs___64 {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 orig_x0;
	s32 syscallno;
};
struct thread_info___x86 {
	u32 status;
};
struct thread_info___64 {
	unsigned long flags;
};
struct thread_struct___x86 {
	unsigned long fsbase;
};
struct thread_struct___64 {
	struct {
		unsigned long tp_value;
	} uw;
};
struct task_struct___x86 {
	struct thread_info___x86 thread_info;
	struct thread_struct___x86 thread;
};
struct task_struct___64 {
	struct thread_info___64 thread_info;
	struct thread_struct___64 thread;
};

#pragma clang attribute pop

#endif
