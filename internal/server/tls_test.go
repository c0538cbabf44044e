package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// certificate makes a certificate of its own authority, and writes it and its key.
func certificate(t *testing.T, dir, name string) (certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for path, b := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, pair
}

// webDoor is a TCP door with a web configuration.
func webDoor(t *testing.T, s *testServer, config string) (url, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.ServeTCP(l, path) }()
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String(), path
}

func TestWebConfigOpensEverythingToWhoShowsWhoTheyAre(t *testing.T) {
	s := serve(t, newFake(machine(3)), nil)
	dir := t.TempDir()
	cert, key, _ := certificate(t, dir, "server")
	ca, _, client := certificate(t, dir, "client")
	hash, err := bcrypt.GenerateFromPassword([]byte("pass word"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	tlsOnly := fmt.Sprintf("tls_server_config:\n  cert_file: %s\n  key_file: %s\n", cert, key)
	users := fmt.Sprintf("basic_auth_users:\n  joe: %s\n", hash)
	clients := tlsOnly + fmt.Sprintf("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: %s\n", ca)

	do := func(url, user, password string, pairs ...tls.Certificate) int {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: pairs}, DisableKeepAlives: true}}
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		resp, err := c.Do(r)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		name, config   string
		private        bool
		user, password string
		pairs          []tls.Certificate
		numbers, all   int
	}{
		{"TLS and users", tlsOnly + users, true, "joe", "pass word", nil, 200, 200},
		{"a wrong password", tlsOnly + users, true, "joe", "password", nil, 401, 401},
		{"no password", tlsOnly + users, true, "", "", nil, 401, 401},
		{"TLS alone", tlsOnly, false, "", "", nil, 200, 403},
		{"TLS alone, a password that nobody asked for", tlsOnly, false, "joe", "x", nil, 200, 403},
		{"client certificates", clients, true, "", "", []tls.Certificate{client}, 200, 200},
		{"client certificates, and none", clients, true, "", "", nil, 0, 0},
	} {
		url, path := webDoor(t, s, c.config)
		if private, err := Private(path); err != nil || private != c.private {
			t.Errorf("%s: private %v, %v", c.name, private, err)
		}
		if got := do(url+"/resources/all", c.user, c.password, c.pairs...); got != c.numbers {
			t.Errorf("%s: numbers: status %d, want %d", c.name, got, c.numbers)
		}
		if got := do(url+"/v1/processes", c.user, c.password, c.pairs...); got != c.all {
			t.Errorf("%s: processes: status %d, want %d", c.name, got, c.all)
		}
	}

	// Users without TLS would send their passwords to everybody.
	url, _ := webDoor(t, s, users)
	if got := do("http"+url[len("https"):]+"/v1/processes", "joe", "pass word"); got != 403 {
		t.Errorf("users without TLS: status %d", got)
	}

	// A configuration that stops asking who comes must not leave the door open.
	url, path := webDoor(t, s, tlsOnly+users)
	if got := do(url+"/v1/processes", "joe", "pass word"); got != 200 {
		t.Fatalf("before the change: status %d", got)
	}
	if err := os.WriteFile(path, []byte(tlsOnly), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := do(url+"/v1/processes", "joe", "pass word"); got != 403 {
		t.Errorf("after the users were taken out: status %d", got)
	}
}
