package hostfs

import (
	"fmt"
	"strings"
	"testing"
)

func TestContainerAndUnit(t *testing.T) {
	a, b := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	for _, c := range []struct{ path, container, unit string }{
		{"/docker/" + a, a, ""},
		{"/system.slice/docker-" + a + ".scope", a, "docker-" + a + ".scope"},
		{"/kubepods/burstable/pod1/" + a, a, ""},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + a + ".scope", a, "cri-containerd-" + a + ".scope"},
		{"/kubepods.slice/kubepods-pod1.slice/crio-" + a + ".scope", a, "crio-" + a + ".scope"},
		{"/kubepods.slice/kubepods-pod1.slice/crio-conmon-" + a + ".scope", "", "crio-conmon-" + a + ".scope"},
		{"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + a, a, "containerd.service"},
		{"/machine.slice/libpod-" + a + ".scope/container", a, "libpod-" + a + ".scope"},
		{"/libpod_parent/libpod-" + a, a, ""},
		{"/libpod_parent/conmon", "", ""},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + a + ".scope/container", a, "libpod-" + a + ".scope"},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-" + a + ".scope", "", "libpod-conmon-" + a + ".scope"},
		{"/docker/" + a + "/kubelet.slice/cri-containerd-" + b + ".scope", b, "cri-containerd-" + b + ".scope"},
		{"/docker/" + a + "/init.scope", a, "init.scope"},
		{"/../../system.slice/ssh.service", "", "ssh.service"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "", "x.service"},
		{"/user.slice/user-1000.slice/session-3.scope", "", "session-3.scope"},
		{`/system.slice/system-getty.slice/getty@tty1.service`, "", "getty@tty1.service"},
		{`/system.slice/a\x2db.service`, "", `a\x2db.service`},
		{"/docker/" + strings.ToUpper(a), "", ""},
		{"/docker/" + a + "0", "", ""},
		{"/docker/x" + a, "", ""},
		{"/docker/" + a[1:], "", ""},
		{"/.service/.scope", "", ""},
		{"/", "", ""},
		{"", "", ""},
		{"//" + a + "//", a, ""},
	} {
		if got := containerOf(c.path); got != c.container {
			t.Errorf("%s: container %q, want %q", c.path, got, c.container)
		}
		if got := unitOf(c.path); got != c.unit {
			t.Errorf("%s: unit %q, want %q", c.path, got, c.unit)
		}
	}
}

// Whoever makes paths that are as long as they may be takes no more memory for them.
func TestSharedStringsAreBounded(t *testing.T) {
	var i Identifier
	long := strings.Repeat("/d", 2000)
	for n := range 10_000 {
		path := fmt.Sprintf("%s/%d.service", long, n)
		if l := i.label([]byte(path)); l.path != path || l != i.label([]byte(path)) {
			t.Fatalf("%+v", l)
		}
	}
	kept := 0
	for path := range i.paths.known {
		kept += len(path)
	}
	if kept > maxSharedBytes || kept == 0 {
		t.Errorf("%d bytes are kept, in %d paths", kept, len(i.paths.known))
	}
}
