package fallback

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"rmagent/internal/childtest"
	"rmagent/internal/sampletest"
)

// helperVariable makes this test binary a process to be measured: it becomes
// what the variable says, writes "ready" and waits for its input to end.
const helperVariable = "FALLBACK_TEST_HELPER"

func init() {
	if os.Getenv(helperVariable) != "" {
		runtime.LockOSThread() // main stays on the leader
	}
}

func TestMain(m *testing.M) {
	if kind := os.Getenv(helperVariable); kind != "" {
		helpers[kind]()
		os.Exit(0)
	}
	sampletest.Main(m)
}

var helpers = map[string]func(){
	"still":          still,
	"read as nobody": becomeNobody,
}

func still() {
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// startStill runs a process that waits until the test ends.
func startStill(t *testing.T) *childtest.Child {
	t.Helper()
	c := childtest.Start(t, childtest.Itself(helperVariable, "still"))
	c.Ready()
	return c
}
