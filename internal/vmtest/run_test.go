package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// payloadVariable makes this test binary a program for a guest to run.
const payloadVariable = "VMTEST_PAYLOAD"

func TestMain(m *testing.M) {
	if IsInit() {
		Init()
	}
	switch payload := os.Getenv(payloadVariable); payload {
	case "":
		os.Exit(m.Run())
	case "report":
		content, err := os.ReadFile("/given/file")
		fmt.Printf("%q %q %v\n", os.Args[1:], content, err)
		os.Stdout.WriteString(everyByte() + "no end of line")
		os.Exit(7)
	case "killed":
		unix.Kill(os.Getpid(), unix.SIGKILL)
	case "panic":
		err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		fmt.Println("still here:", err)
		os.Exit(0)
	case "power off":
		fmt.Println("\x00vmtest status WRONGMARKER 0")
		fmt.Println("PASS")
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "hang":
		fmt.Println("hanging")
		unix.Pause()
	default:
		panic("no payload " + payload)
	}
}

// everyByte is text that a serial line in another mode would change.
func everyByte() string {
	var b []byte
	for c := range 256 {
		b = append(b, byte(c))
	}
	return string(b) + "\r\n\t\x16=== RUN\x04\n"
}

// payload returns a guest, of the newest kernel there is, that runs this program.
func payload(t *testing.T, what string) *Guest {
	t.Helper()
	images, err := filepath.Glob("../../.cache/kernels/vmlinuz-?.*")
	if err != nil {
		t.Fatal(err)
	}
	images = slices.DeleteFunc(images, func(path string) bool { return strings.HasSuffix(path, "-arm64") })
	if len(images) == 0 {
		t.Skip("no kernel image: make guest-kernels fetches some")
	}
	return &Guest{
		Kernel: "test", Image: slices.Max(images), MemoryMiB: 256, CPUs: 1,
		Dir: "/", Program: "/proc/self/exe", Env: []string{payloadVariable + "=" + what},
	}
}

func TestRunStatusAndOutput(t *testing.T) {
	t.Parallel()
	given := filepath.Join(t.TempDir(), "given")
	if err := os.WriteFile(given, []byte("a\x00b"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := payload(t, "report")
	g.Args = []string{"-x", "", "two words", "new\nline", "'\"$"}
	g.Files = []File{{Guest: "/given/file", Host: given}}
	var out bytes.Buffer
	status, console, err := g.Run(t.Context(), &out)
	if err != nil || status != 7 {
		t.Errorf("status %d, error %v, want 7; console:\n%s", status, err, console)
	}
	want := fmt.Sprintf("%q %q %v\n", g.Args, "a\x00b", nil) + everyByte() + "no end of line"
	if out.String() != want {
		t.Errorf("output\n%q, want\n%q", out.String(), want)
	}
}

func TestRunKilled(t *testing.T) {
	t.Parallel()
	status, console, err := payload(t, "killed").Run(t.Context(), &bytes.Buffer{})
	if want := 128 + int(unix.SIGKILL); err != nil || status != want {
		t.Errorf("status %d, error %v, want %d; console:\n%s", status, err, want, console)
	}
}

func TestRunPanic(t *testing.T) {
	t.Parallel()
	_, console, err := payload(t, "panic").Run(t.Context(), &bytes.Buffer{})
	if !errors.Is(err, ErrNoStatus) {
		t.Errorf("error %v, want %v", err, ErrNoStatus)
	}
	if want := "Kernel panic - not syncing: sysrq triggered crash"; !strings.Contains(string(console), want) {
		t.Errorf("console has no %q:\n%s", want, console)
	}
}

func TestRunWithoutMarker(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	_, console, err := payload(t, "power off").Run(t.Context(), &out)
	if !errors.Is(err, ErrNoStatus) {
		t.Errorf("error %v, want %v", err, ErrNoStatus)
	}
	if !strings.Contains(out.String(), "PASS\n") {
		t.Errorf("output %q has no PASS, so the program did not run; console:\n%s", &out, console)
	}
}

// cancelWriter ends a context once something was written.
type cancelWriter struct{ cancel context.CancelCauseFunc }

var errEnough = errors.New("enough")

func (w cancelWriter) Write(b []byte) (int, error) {
	w.cancel(errEnough)
	return len(b), nil
}

func TestRunEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	_, _, err := payload(t, "hang").Run(ctx, cancelWriter{cancel})
	if !errors.Is(err, ErrNoStatus) || !errors.Is(err, errEnough) {
		t.Errorf("error %v, want %v and %v", err, ErrNoStatus, errEnough)
	}
}

func TestRunRefusesImage(t *testing.T) {
	t.Parallel()
	g := payload(t, "report")
	g.Image = os.DevNull
	if _, _, err := g.Run(t.Context(), &bytes.Buffer{}); !errors.Is(err, ErrNoStatus) {
		t.Errorf("error %v, want %v", err, ErrNoStatus)
	} else {
		t.Log(err)
	}
}

func TestRunRefusesHiddenFile(t *testing.T) {
	g := &Guest{Program: "/proc/self/exe", Dir: "/", Files: []File{{Guest: "/tmp/x", Host: os.DevNull}}}
	if _, _, err := g.Run(t.Context(), &bytes.Buffer{}); err == nil {
		t.Error("a file below a mount was accepted")
	}
}
