package act

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/config"
	"rmagent/record"
)

// longestBackoff bounds the pause between two tries of a webhook.
const longestBackoff = time.Minute

// maxAnswer is how much of an answer is read.
const maxAnswer = 16 << 10

// newHTTPClient returns a client that follows no redirections: what is posted is for
// the address in the configuration.
func newHTTPClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 1
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// webhook posts a job until it is taken, or there were enough tries.
func (r *Runner) webhook(j *job) {
	if j.dryRun {
		r.emit(j, result{outcome: record.OutcomeDryRun, attempt: 1})
		return
	}
	pause := r.Backoff
	for try := range uint64(j.action.Retries) + 1 {
		begin := time.Now()
		again, after, res := r.post(j)
		res.attempt, res.took = try+1, time.Since(begin)
		r.emit(j, res)
		if !again {
			return
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(min(max(pause, after), longestBackoff)):
		}
		pause = min(2*pause, longestBackoff)
	}
}

// post tries once. again says that it may succeed later, not before after.
func (r *Runner) post(j *job) (again bool, after time.Duration, res result) {
	ctx, cancel := context.WithTimeout(r.ctx, j.action.TimeLimit)
	defer cancel()
	request, err := r.request(ctx, j)
	if err != nil {
		return false, 0, result{outcome: record.OutcomeFailed, detail: err.Error()}
	}
	answer, err := r.http.Do(request)
	if err != nil {
		outcome := record.OutcomeFailed
		if errors.Is(err, context.DeadlineExceeded) {
			outcome = record.OutcomeTimedOut
		}
		return r.ctx.Err() == nil, 0, result{outcome: outcome, detail: withoutURL(err)}
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // so that the connection can be used again
	if answer.StatusCode/100 == 2 {
		return false, 0, result{outcome: record.OutcomeDone, detail: answer.Status}
	}
	switch answer.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		again = true
	default:
		again = answer.StatusCode >= 500
	}
	return again, retryAfter(answer), result{outcome: record.OutcomeFailed, detail: answer.Status}
}

func (r *Runner) request(ctx context.Context, j *job) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, j.action.URL, bytes.NewReader(j.input))
	if err != nil {
		return nil, errors.New("the address is malformed")
	}
	h := request.Header
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", r.UserAgent)
	if j.id != "" {
		h.Set("Idempotency-Key", j.id) // a try that got no answer may have been taken
	}
	for _, header := range j.action.Headers {
		name, value, _ := strings.Cut(header, ":")
		h.Set(name, strings.TrimSpace(value))
	}
	if path := j.action.AuthorizationFile; path != "" {
		value, err := readSecret(path)
		if err != nil {
			return nil, err
		}
		h.Set("Authorization", value)
	}
	return request, nil
}

// withoutURL leaves the address out of an error: it may hold a secret.
func withoutURL(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time"
	}
	return err.Error()
}

func retryAfter(answer *http.Response) time.Duration {
	seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 3600)) * time.Second
}

// maxSecret bounds a file with a header's value.
const maxSecret = 8 << 10

// readSecret reads the value of a header from a regular file.
func readSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(b))
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%s has no value of a header", path)
	}
	return value, nil
}

// what says what a job does, without secrets.
func (j *job) what(who *Process) string {
	a := &j.action
	switch a.Kind {
	case config.ActionCommand:
		return strings.Join(a.Argv, " ")
	case config.ActionWebhook:
		u, err := url.Parse(a.URL)
		if err != nil {
			return "POST"
		}
		return "POST " + u.Scheme + "://" + u.Host
	case config.ActionSignal:
		if who == nil {
			return "SIG" + a.Signal
		}
		return fmt.Sprintf("SIG%s to %s (pid %d)", a.Signal, who.Comm, who.ID.PID)
	}
	return "a line in the log"
}
