package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"rmagent/internal/hostfs"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"
)

// caller is who asks. Its zero value is a stranger, who may read numbers.
type caller struct {
	private bool   // came through a door that is not for everybody
	trusted bool   // UID 0, who the agent runs as, or who has the web configuration's secret
	uid     uint32 // where it is known
	known   bool
}

// mayRead tells whether the caller may see what a process holds and how it was
// called. owner is the process's user, where it is known.
func (c *caller) mayRead(owner uint32, known bool) bool {
	return c.trusted || c.known && known && c.uid == owner
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}

// peerOf asks the kernel who connected.
func peerOf(c net.Conn) *caller {
	nobody := &caller{}
	if b, ok := c.(*boundConn); ok {
		c = b.Conn
	}
	cred, err := hostfs.PeerCredentials(c)
	if err != nil {
		return nobody
	}
	return &caller{
		private: true, uid: cred.Uid, known: true,
		trusted: cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()),
	}
}

// identify says of each request on a TCP door who sends it. The web configuration is
// read anew at each, as the door itself does: one that was changed to ask for nothing
// must not leave everything open.
func identify(next http.Handler, webConfig string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &caller{}
		if webConfig != "" && r.TLS != nil && authenticated(r, webConfig) {
			c.private, c.trusted = true, true
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// authenticated tells whether a request that came through has shown who sends it:
// where there are users, the door let only those pass.
func authenticated(r *http.Request, webConfig string) bool {
	if len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	b, err := os.ReadFile(webConfig)
	if err != nil {
		return false
	}
	var c web.Config
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return false
	}
	_, _, sent := r.BasicAuth()
	return len(c.Users) > 0 && sent
}

// Private tells whether a web configuration opens more than numbers: whether it asks
// for TLS and for who the client is.
func Private(webConfig string) (bool, error) {
	if webConfig == "" {
		return false, nil
	}
	b, err := os.ReadFile(webConfig)
	if err != nil {
		return false, err
	}
	var c web.Config
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return false, err
	}
	c.TLSConfig.SetDirectory(filepath.Dir(webConfig))
	verified := c.TLSConfig.ClientAuth == "RequireAndVerifyClientCert"
	return c.TLSConfig.IsEnabled() && (len(c.Users) > 0 || verified), nil
}

func isLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// checkHost refuses names that are not this machine's own: a web page may have its own
// name point to 127.0.0.1 and have the browser ask here (DNS rebinding).
func checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !LocalHost(r.Host) {
			problemf(http.StatusMisdirectedRequest, "The Host header names another machine; allowed are localhost and loopback addresses.").write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// LocalHost tells whether a Host header names this machine by its loopback address.
func LocalHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(name)
	return err == nil && a.Unmap().IsLoopback()
}
