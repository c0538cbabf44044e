package server

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// send asks on the socket with a body.
func (s *testServer) send(t *testing.T, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequest(method, "http://rmagent"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return do(t, s.unix, r)
}

func TestChanges(t *testing.T) {
	var control *fakeControl
	s := serve(t, newFake(machine(3)), func(o *Options) { documented(o); control = o.Control.(*fakeControl) })
	for _, c := range []struct {
		method, path, body string
		status             int
		detail             string
	}{
		{"PUT", "/v1/thresholds/fd", `{"warning":0.75,"hold":"20s"}`, 204, ""},
		{"PUT", "/v1/thresholds/fd", `{"warning":7}`, 422, "out of range"},
		{"PUT", "/v1/thresholds/fd", `{"wraning":0.7}`, 400, "wraning"},
		{"PUT", "/v1/thresholds/fd", `{"warning":"0.7"}`, 400, "body"},
		{"PUT", "/v1/thresholds/fd", `{}`, 400, "nothing"},
		{"PUT", "/v1/thresholds/fd", `{"warning":0.7}{}`, 400, "more than one"},
		{"PUT", "/v1/thresholds/fd", ``, 400, "body"},
		{"PUT", "/v1/thresholds/fd", `{"warning":` + strings.Repeat(" ", 70_000) + `1}`, 413, ""},
		{"PUT", "/v1/thresholds/coffee", `{"warning":0.7}`, 404, "memory"},
		{"PUT", "/v1/limits", `{"max_memory_usage_mb":100}`, 204, ""},
		{"PUT", "/v1/tracked/2", `{"max_fd":10,"actions":["restart"]}`, 204, ""},
		{"PUT", "/v1/tracked/77", `{"max_fd":10}`, 404, "77"},
		{"PUT", "/v1/tracked/2", `{"command":"rm"}`, 400, "command"},
		{"DELETE", "/v1/tracked/2", "", 204, ""},
		{"DELETE", "/v1/tracked/2", "", 404, "no limits"},
		{"DELETE", "/v1/stats", "", 204, ""},
		{"POST", "/v1/fd/check", `{"pid":2,"files":100}`, 200, ""},
		{"POST", "/v1/fd/check", `{"files":100}`, 400, "pid"},
		{"POST", "/v1/fd/check", `{"pid":77,"files":100}`, 404, ""},
		{"POST", "/v1/fd/check", `{"pid":2,"files":100,"margin":2}`, 422, "margin"},
		{"GET", "/v1/history/cpu?count=3", "", 200, ""},
		{"GET", "/v1/history/coffee", "", 404, "coffee"},
		{"GET", "/v1/stats", "", 200, ""},
	} {
		a := s.send(t, c.method, c.path, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.detail) {
			t.Errorf("%s %s %.60s: status %d, want %d: %s", c.method, c.path, c.body, a.status, c.status, a.body)
		}
		if c.path == "/v1/thresholds/fd" && c.status == 204 {
			want := map[string]string{"thresholds.fd.warning": "0.75", "thresholds.fd.hold": "20s"}
			if diff := cmp.Diff(want, control.settings); diff != "" {
				t.Error(diff)
			}
		}
	}
	if control.resets != 1 {
		t.Errorf("%d resets", control.resets)
	}
}

// Only root changes what the agent does, also where others may read.
func TestOnlyRootChanges(t *testing.T) {
	var control *fakeControl
	s := serve(t, newFake(machine(3)), func(o *Options) { documented(o); control = o.Control.(*fakeControl) })
	if err := os.Chmod(s.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	var requests []string
	for i := range routes {
		if routes[i].changes {
			requests = append(requests, routes[i].method+":"+strings.NewReplacer("{pid}", "2", "{resource}", "fd").Replace(routes[i].path))
		}
	}
	for i, a := range askAs(t, s.socket, 1001, 1001, requests...) {
		if !strings.HasPrefix(a, "403 ") {
			t.Errorf("%s as another user: %s", requests[i], a)
		}
	}
	if control.resets != 0 || len(control.tracked) != 0 {
		t.Error("something was changed")
	}
}
