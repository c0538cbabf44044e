package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

//go:embed assets
var assets embed.FS

// policy lets the page have its own files and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Dashboard is one open dashboard.
type Dashboard struct {
	listener net.Listener
	server   *http.Server
	host     string // ADDRESS:PORT, which every request must name

	mu    sync.Mutex
	token string // for the first request; empty: used
	// session is the cookie of the browser that came with the token.
	session string
}

// cookie is the name of the session's cookie. Cookies know no ports, so it has the
// dashboard's own.
func (d *Dashboard) cookie() string {
	_, port, _ := net.SplitHostPort(d.host)
	return "rmagent_dashboard_" + port
}

// asked are the paths of the agent that the page asks for.
var asked = []string{"/v1/system", "/v1/processes", "/v1/leaks", "/v1/events", "/v1/headroom/", "/v1/processes/", "/v1/history/"}

// Open begins to listen. dial reaches the agent.
func Open(dial func(ctx context.Context) (net.Conn, error)) (*Dashboard, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &Dashboard{listener: l, host: l.Addr().String(), token: secret(), session: secret()}
	agent := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "rmagent"})
			r.Out.Header = http.Header{}
			for _, name := range []string{"Accept", "Last-Event-ID"} {
				if v := r.In.Header.Get(name); v != "" {
					r.Out.Header.Set(name, v)
				}
			}
		},
		Transport: &http.Transport{
			DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxIdleConns: 8,
		},
		FlushInterval: -1, // events as they come
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "the agent does not answer", http.StatusBadGateway)
		},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.page)
	for _, name := range []string{"app.js", "style.css"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, assets, "assets/"+name) })
	}
	for _, path := range asked {
		mux.Handle("GET "+path, agent)
	}
	d.server = &http.Server{
		Handler:           d.guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	return d, nil
}

// secret is text that nobody guesses.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}

// URL is where the dashboard is, with the token that opens it once.
func (d *Dashboard) URL() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return "http://" + d.host + "/?token=" + d.token
}

// Serve answers until ctx ends, which is no error.
func (d *Dashboard) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.server.Close() })
	defer stop()
	if err := d.server.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// guard lets only the browser in that came with the token, from this page, by this
// machine's own name.
func (d *Dashboard) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer") // the address may have the token
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		switch origin := r.Header.Get("Origin"); {
		case r.Host != d.host:
			http.Error(w, "this is another host's name", http.StatusMisdirectedRequest)
			return
		case origin != "" && origin != "http://"+d.host:
			http.Error(w, "other pages may not ask", http.StatusForbidden)
			return
		}
		if r.URL.Path == "/" && r.URL.Query().Has("token") {
			d.enter(w, r)
			return
		}
		c, err := r.Cookie(d.cookie())
		if err != nil || !same(c.Value, d.session) {
			http.Error(w, "open the address that rmagent dashboard prints; it works once", http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "..") {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// enter takes the token, which opens the dashboard once, and sends the browser to the
// address without it.
func (d *Dashboard) enter(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	fits := d.token != "" && same(r.URL.Query().Get("token"), d.token)
	if fits {
		d.token = ""
	}
	d.mu.Unlock()
	if !fits {
		http.Error(w, "this address has been used, or is wrong; start rmagent dashboard again", http.StatusUnauthorized)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: d.cookie(), Value: d.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	// A redirect would come from another site, whose cookies a browser that was sent
	// here does not return under SameSite=Strict; a page of its own does.
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, `<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><title>rmagent</title>`)
}

func (d *Dashboard) page(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, assets, "assets/page.html")
}

// Check tells whether there is an agent that answers.
func Check(ctx context.Context, dial func(ctx context.Context) (net.Conn, error)) error {
	c, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("no agent answers: %w", err)
	}
	return c.Close()
}
