package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Hook is a place in the kernel that events come from.
type Hook struct {
	Name    string
	Default bool
	For     string // what it is for
	Kernel  string // what it needs
	// Cost is what one event costs, as measured on Linux 6.18 (amd64; docs/events.md
	// says how), and of what; "" where it is rare.
	Cost string

	variants []variant
}

// variant is one way to get a hook's events; the first that the kernel has, and
// that stands its test, is taken.
type variant struct {
	programs []string // in the order of their attachment
	here     func(*btf.Spec) bool
	// test, if any, tries the attached programs out: they are there and may not see
	// all the same.
	test func(*Events) error
}

// Hooks is every hook: what --hooks takes, doctor prints and the documentation
// lists.
var Hooks = []Hook{
	{
		Name: "exits", Default: true,
		For:    "exit records with final totals; exe, uid, cgroup and parent of processes too short for /proc",
		Kernel: "BTF, 5.17 (bpf_loop)",
		Cost:   "3900 ns a process, of the 550 us in which one is forked, calls exec and ends",
		variants: []variant{{
			// on_free before on_exit: an exit seen is an exit that will be sent.
			programs: []string{eventsProgOnFork, eventsProgOnExec, eventsProgOnFree, eventsProgOnExit, eventsProgRefreshUnreaped, eventsProgSendOverdue},
			here:     always,
		}},
	},
	{
		Name: "net", Default: true,
		For:    "bytes received and sent over IP sockets",
		Kernel: "6.3 (sock_send_length), below that fexit on inet_sendmsg and its family",
		Cost:   "100 to 300 ns a send or receive, 3 to 10 % of one by TCP",
		variants: []variant{
			{
				programs: []string{eventsProgOnSend, eventsProgOnReceive},
				here:     func(k *btf.Spec) bool { return hasTracepoint(k, "sock_send_length") && !hasFunc(k, "inet_sendpage") },
			},
			{ // 6.3 and 6.4: sendfile still goes by its own way
				programs: []string{eventsProgOnSend, eventsProgOnReceive, eventsProgOnInetSendpage},
				here:     func(k *btf.Spec) bool { return hasTracepoint(k, "sock_send_length") },
			},
			{
				programs: []string{eventsProgOnInetSend, eventsProgOnInet6Send, eventsProgOnInetReceive, eventsProgOnInet6Receive, eventsProgOnInetSendpage},
				here:     func(k *btf.Spec) bool { return hasFunc(k, "inet_sendpage") },
			},
		},
	},
	{
		Name: "oom", Default: true,
		For:    "the OOM killer's victims",
		Kernel: "BTF; the victim's memory from 6.8 on, and in later stable kernels of 6.1 and 6.6",
		variants: []variant{
			{programs: []string{eventsProgOnOom}, here: victimIsTask},
			{programs: []string{eventsProgOnVictimExit}, here: always},
		},
	},
	{
		Name:   "fds",
		For:    "descriptors opened and closed; without fentry, of processes whose calls all say how many",
		Kernel: "BTF",
		Cost:   "100 ns every system call, 250 ns one that opens or closes; with fentry only these",
		variants: []variant{
			{
				programs: []string{eventsProgOnFdCloexec, eventsProgOnFdClose, eventsProgOnFdReplace, eventsProgOnFdInstall},
				here:     func(k *btf.Spec) bool { return hasFuncs(k, "file_close_fd_locked", tableFuncs...) },
				test:     (*Events).testDescriptors,
			},
			{
				programs: []string{eventsProgOnFdCloexec, eventsProgOnFdCloseBefore67, eventsProgOnFdReplace, eventsProgOnFdInstall},
				here:     func(k *btf.Spec) bool { return hasFuncs(k, "pick_file", tableFuncs...) },
				test:     (*Events).testDescriptors,
			},
			{
				programs: []string{eventsProgOnSyscall},
				here:     always,
			},
		},
	},
}

// runNames are the hooks whose runs are counted, in the order of enum hook.
var runNames = []string{"send", "receive", "fds"}

// ErrUnknownHook is wrapped by errors about a name that no hook has.
var ErrUnknownHook = errors.New("unknown hook")

func hookNamed(name string) (*Hook, error) {
	for i := range Hooks {
		if Hooks[i].Name == name {
			return &Hooks[i], nil
		}
	}
	return nil, fmt.Errorf("%w %q", ErrUnknownHook, name)
}

// choose returns the variants that this kernel has.
func (h *Hook) choose(env *environment) (here []*variant, err error) {
	k, err := env.btf.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read kernel BTF: %w", err)
	}
	for i := range h.variants {
		if v := &h.variants[i]; v.here(k) {
			here = append(here, v)
		}
	}
	if here == nil {
		return nil, fmt.Errorf("%w: needs %s", ebpf.ErrNotSupported, h.Kernel)
	}
	return here, nil
}

func always(*btf.Spec) bool { return true }

func hasTracepoint(k *btf.Spec, name string) bool { return tracepoint(k, name) != nil }

// tracepoint returns the prototype of a tracepoint's programs; its first
// parameter is the kernel's own.
func tracepoint(k *btf.Spec, name string) *btf.FuncProto {
	var t *btf.Typedef
	if k.TypeByName("btf_trace_"+name, &t) != nil {
		return nil
	}
	p, ok := t.Type.(*btf.Pointer)
	if !ok {
		return nil
	}
	proto, _ := p.Target.(*btf.FuncProto)
	return proto
}

func hasFunc(k *btf.Spec, name string) bool {
	var f *btf.Func
	return k.TypeByName(name, &f) == nil
}

// tableFuncs are the functions that change a table of descriptors, but for the one
// that closes.
var tableFuncs = []string{"fd_install", "do_dup2", "do_close_on_exec"}

func hasFuncs(k *btf.Spec, name string, more ...string) bool {
	return hasFunc(k, name) && !slices.ContainsFunc(more, func(name string) bool { return !hasFunc(k, name) })
}

func victimIsTask(k *btf.Spec) bool {
	proto := tracepoint(k, "mark_victim")
	if proto == nil || len(proto.Params) < 2 {
		return false
	}
	_, ok := proto.Params[1].Type.(*btf.Pointer)
	return ok
}
