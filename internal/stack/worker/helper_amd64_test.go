package worker

import (
	"encoding/json"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// lock keeps a test on its thread, to which ptrace belongs.
func lock(t testing.TB) {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

func rawOf(pid int, regs *unix.PtraceRegs) (sample.RawStack, error) {
	raw := sample.RawStack{
		Registers: sample.Registers{
			IP: regs.Rip, SP: regs.Rsp, BP: regs.Rbp, BX: regs.Rbx,
			R12: regs.R12, R13: regs.R13, R14: regs.R14, R15: regs.R15,
		},
		Window: make([]byte, 2048),
	}
	n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &raw.Window[0], Len: uint64(len(raw.Window))}},
		[]unix.RemoteIovec{{Base: uintptr(regs.Rsp), Len: len(raw.Window)}}, 0)
	raw.Window = raw.Window[:max(n, 0)]
	return raw, err
}

// checkForeign takes an answer as the client does: whatever it says, the client's
// memory of walks stands it, and looks up stacks afterwards.
func checkForeign(t *testing.T, b []byte) {
	var a answer
	if json.Unmarshal(b, &a) != nil || a.check() != nil {
		return
	}
	c := &Client{images: map[Image]*imageState{}, wake: make(chan struct{}, 1)}
	im := c.image(Image{})
	if site := c.remember(im, &a); site == nil {
		t.Error("no site")
	}
	c.match(Image{}, &sample.RawStack{Window: make([]byte, 64), Chain: []uint64{1}})
}
