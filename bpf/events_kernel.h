// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What the event programs read of the kernel beyond kernel.h.
#ifndef RMAGENT_EVENTS_KERNEL_H
#define RMAGENT_EVENTS_KERNEL_H

#include "kernel.h"

/* include/linux/sched/signal.h */
#define SIGNAL_GROUP_EXIT 0x00000004

/* include/linux/sched.h */
#define EXIT_ZOMBIE 0x00000020

/* include/linux/socket.h */
#define AF_INET 2
#define AF_INET6 10
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000

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
struct file {
	struct path f_path;
};
struct linux_binprm {
	struct file *file;
};

/* Sockets. */
struct sock_common {
	unsigned short skc_family;
};
struct sock {
	struct sock_common __sk_common;
	u8 sk_kern_sock : 1;
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

#pragma clang attribute pop

#endif
