package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Everybody who may use the socket sees what jobs use; how they were called is for their
// own user and for root.
func TestJobs(t *testing.T) {
	s := serve(t, newFake(machine(3)), documented)
	for name, c := range map[string]struct {
		caller       caller
		mine, theirs bool
	}{
		"root":              {caller{private: true, trusted: true}, true, true},
		"the user of a job": {caller{private: true, uid: 4711, known: true}, false, true},
		"somebody else":     {caller{private: true, uid: 4712, known: true}, false, false},
		"who is not known":  {caller{private: true}, false, false},
	} {
		a := httptest.NewRecorder()
		q := httptest.NewRequest("GET", "/v1/jobs", nil)
		s.answer(a, q.WithContext(context.WithValue(q.Context(), callerKey{}, &c.caller)))
		var got RunningJobs
		if err := json.Unmarshal(a.Body.Bytes(), &got); err != nil || a.Code != http.StatusOK || len(got.Jobs) != 2 {
			t.Fatalf("%s: status %d, %v: %s", name, a.Code, err, a.Body)
		}
		if got.Jobs[0].Command.Known() != c.mine || got.Jobs[1].Command.Known() != c.theirs {
			t.Errorf("%s sees the commands %v and %v", name, got.Jobs[0].Command, got.Jobs[1].Command)
		}
		if near := got.Jobs[0].Limits; len(near) != 1 || near[0].Ratio.Or(0) != 0.5 || got.Jobs[0].GPUs.Or(0) != 2 {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	if a := s.getTCP(t, "/v1/jobs"); a.status != http.StatusForbidden && a.status != http.StatusNotFound {
		t.Errorf("on the door for numbers: status %d: %s", a.status, a.body)
	}
	without := serve(t, newFake(machine(3)), nil)
	if a := without.get(t, "/v1/jobs"); a.status != http.StatusNotImplemented {
		t.Errorf("an agent without jobs: status %d: %s", a.status, a.body)
	}
}
