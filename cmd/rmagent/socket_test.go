package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// withSystemAgent runs a script as nobody, in a directory of their own, beside an agent of
// root on the usual socket: in a mount namespace, for this machine may have one. $A is the
// command.
func withSystemAgent(t *testing.T, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be two users")
	}
	dir := openDir(t)
	agent := builtAgent(t)
	if err := os.Chmod(builtDir, 0o755); err != nil {
		t.Fatal(err)
	}
	const beside = `
mount -t tmpfs tmpfs /run && chmod 755 /run || exit
"$A" run --listen '' --socket-group nogroup 2>log & agent=$!
for i in $(seq 500); do [ -S /run/rmagent/jobs.sock ] && break; sleep .02; done
setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "$S"; status=$?
kill $agent; wait $agent; exit $status`
	cmd := exec.Command("unshare", "-m", "sh", "-c", beside)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "A="+agent.Path, "S="+script, "XDG_RUNTIME_DIR=", "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("%v: %s%s", err, out, log)
	}
	return string(out)
}

// An ordinary user's jobs, and commands of who may ask, find the system's agent by
// themselves.
func TestAnOrdinaryUserFindsTheSystemsAgent(t *testing.T) {
	out := withSystemAgent(t, `
"$A" exec --quiet --output job -- true && grep measured_by job.summary || exit
for i in $(seq 500); do "$A" snapshot --pid 1 >one 2>lost; [ -s lost ] || break; sleep .02; done
cat lost; grep -o '"source":"[a-z]*"' one`)
	if out != "  \"measured_by\":\"agent\",\n\"source\":\"ebpf\"\n" {
		t.Errorf("it says %q", out)
	}
}

// A directory that somebody else made where an ordinary user's agent would have its socket
// is not listened in, and whoever answers there not asked.
func TestADirectoryOfSomebodyElse(t *testing.T) {
	out := withSystemAgent(t, `
"$A" run --listen '' --duration 100ms && "$A" exec --quiet --output job -- true
[ -O "$TMPDIR/rmagent-65534" ] && stat -c %a "$TMPDIR/rmagent-65534"`)
	if !strings.HasSuffix(out, "\n755\n") {
		t.Errorf("its own directory: %q", out)
	}
	dir := openDir(t)
	if err := os.Mkdir(filepath.Join(dir, "rmagent-65534"), 0o777); err != nil {
		t.Fatal(err)
	}
	theirs, err := net.Listen("unix", filepath.Join(dir, "rmagent-65534", "jobs.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := os.Chmod(theirs.Addr().String(), 0o666); err != nil {
		t.Fatal(err)
	}
	out = withSystemAgent(t, `
export TMPDIR=`+dir+`
"$A" run --listen '' --duration 100ms && exit 9
"$A" exec --quiet --output job -- true && grep measured_by job.summary`)
	if !strings.Contains(out, "is not this user's alone") || !strings.Contains(out, `"measured_by":"agent"`) {
		t.Errorf("somebody else's: %q", out)
	}
}
