package dashboard

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// open opens a dashboard of an agent that says what it was asked.
func open(t *testing.T) *Dashboard {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/events" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: one\n\n")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" cookie="+r.Header.Get("Cookie"))
	}))
	t.Cleanup(agent.Close)
	d, err := Open(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", agent.Listener.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

// ask sends a request with headers, and returns what comes back, following nothing.
func ask(t *testing.T, method, url string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		if k == "Host" {
			r.Host = v
		}
		r.Header.Set(k, v)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestOneBrowserGetsIn(t *testing.T) {
	d := open(t)
	base := "http://" + d.host
	wrong, _ := ask(t, "GET", base+"/?token=wrong", nil)
	none, _ := ask(t, "GET", base+"/", nil)
	api, _ := ask(t, "GET", base+"/v1/system", nil)
	if wrong.StatusCode != 401 || none.StatusCode != 401 || api.StatusCode != 401 {
		t.Errorf("without the token: %d, %d, %d", wrong.StatusCode, none.StatusCode, api.StatusCode)
	}
	url := d.URL()
	first, _ := ask(t, "GET", url, nil)
	if first.StatusCode != 200 || len(first.Cookies()) != 1 {
		t.Fatalf("with the token: status %d, %v", first.StatusCode, first.Cookies())
	}
	c := first.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode {
		t.Errorf("cookie %+v", c)
	}
	if again, _ := ask(t, "GET", url, nil); again.StatusCode != 401 {
		t.Errorf("the token works twice: %d", again.StatusCode)
	}
	with := func(more map[string]string) map[string]string {
		h := map[string]string{"Cookie": c.Name + "=" + c.Value}
		for k, v := range more {
			h[k] = v
		}
		return h
	}
	page, text := ask(t, "GET", base+"/", with(nil))
	if page.StatusCode != 200 || !strings.Contains(text, "<script src=\"/app.js\"") || !strings.Contains(page.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page: %d, %s", page.StatusCode, page.Header.Get("Content-Security-Policy"))
	}
	for _, inline := range []string{"<style", "onclick", "http://", "https://", "<script>"} {
		if strings.Contains(text, inline) {
			t.Errorf("the page has %s, which its policy forbids", inline)
		}
	}
	if _, body := ask(t, "GET", base+"/v1/processes?limit=3", with(nil)); body != "GET /v1/processes?limit=3 cookie=" {
		t.Errorf("the agent was asked %q", body)
	}
	for name, c := range map[string]struct {
		method, path string
		headers      map[string]string
		status       int
	}{
		"another origin":  {"GET", "/v1/system", map[string]string{"Origin": "http://attacker.example"}, 403},
		"its own origin":  {"GET", "/v1/system", map[string]string{"Origin": base}, 200},
		"another host":    {"GET", "/v1/system", map[string]string{"Host": "attacker.example"}, 421},
		"localhost":       {"GET", "/v1/system", map[string]string{"Host": "localhost"}, 421},
		"a change":        {"DELETE", "/v1/stats", nil, 404},
		"a change of one": {"PUT", "/v1/tracked/1", nil, 404},
		"another verb":    {"POST", "/v1/processes", nil, 405},
		"metrics":         {"GET", "/metrics", nil, 404},
		"another file":    {"GET", "/assets/page.html", nil, 404},
	} {
		if resp, body := ask(t, c.method, base+c.path, with(c.headers)); resp.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d: %s", name, resp.StatusCode, c.status, body)
		}
	}
	if resp, _ := ask(t, "GET", base+"/v1/system", map[string]string{"Cookie": c.Name + "=x"}); resp.StatusCode != 401 {
		t.Errorf("another cookie: %d", resp.StatusCode)
	}
}

// Events come as they happen, not when there are many.
func TestEventsComeAtOnce(t *testing.T) {
	d := open(t)
	r, err := http.NewRequest("GET", "http://"+d.host+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(&http.Cookie{Name: d.cookie(), Value: d.session})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := http.DefaultClient.Do(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "data: one\n" {
		t.Errorf("%q, %v", line, err)
	}
}
