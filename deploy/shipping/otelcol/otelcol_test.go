package otelcol

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/filelogreceiver"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
	"google.golang.org/grpc"

	"rmagent/internal/shiptest"
)

// TestMain is also the Collector, so that it can be stopped: with the path of its
// configuration in the environment.
func TestMain(m *testing.M) {
	config := os.Getenv("OTELCOL_TEST_CONFIG")
	if config == "" {
		os.Exit(m.Run())
	}
	if err := collect(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// collect runs a Collector until SIGTERM.
func collect(config string) error {
	c, err := otelcol.NewCollector(otelcol.CollectorSettings{
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{"file:" + config}, ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()}}},
	})
	if err != nil {
		return err
	}
	return c.Run(context.Background())
}

// backend is what the Collector sends to: it keeps the records as lines.
type backend struct {
	plogotlp.UnimplementedGRPCServer
	mu    sync.Mutex
	lines []byte
}

// Export takes what the Collector made of the lines: attributes, with the host beside
// them and the time of the record as the log's.
func (b *backend) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, of := range r.Logs().ResourceLogs().All() {
		host, _ := of.Resource().Attributes().Get("host.name")
		for _, scope := range of.ScopeLogs().All() {
			for _, l := range scope.LogRecords().All() {
				fields := l.Attributes().AsRaw()
				delete(fields, "log.file.name") // the Collector's own
				fields["host"] = host.Str()
				fields["time"] = l.Timestamp().AsTime()
				line, err := json.Marshal(fields)
				if err != nil {
					return plogotlp.NewExportResponse(), err
				}
				b.lines = append(append(b.lines, line...), '\n')
			}
		}
	}
	return plogotlp.NewExportResponse(), nil
}

func (b *backend) arrived(*testing.T) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

// ship runs a Collector with our configuration, and a backend for it.
func ship(t *testing.T) *shiptest.Shipper {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{}
	server := grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, b)
	go func() { _ = server.Serve(l) }() // it ends with Stop
	t.Cleanup(server.Stop)

	dir := t.TempDir()
	from := filepath.Join(dir, "records.jsonl")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OTELCOL_TEST_CONFIG="+configure(t, dir, from, l.Addr().String()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	signal := func(sig os.Signal) {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the Collector ended with %v and said: %s", err, said.String())
		}
	})
	return &shiptest.Shipper{From: from, Arrived: b.arrived, Unordered: true, Halt: func(*testing.T) func() {
		signal(syscall.SIGSTOP)
		return func() { signal(syscall.SIGCONT) }
	}}
}

// configure writes our configuration for a Collector with its files in dir.
func configure(t *testing.T, dir, from, endpoint string) (path string) {
	t.Helper()
	b, err := os.ReadFile("../otelcol.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for old, with := range map[string]string{
		"/var/log/rmagent/records.jsonl":  from,
		"/var/lib/otelcol":                dir,
		"endpoint: logs.example.com:4317": "endpoint: " + endpoint + "\n    tls: {insecure: true}",
		"\nservice:\n":                    "\nservice:\n  telemetry: {metrics: {level: none}}\n",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("the configuration has no %q", old)
		}
		text = strings.ReplaceAll(text, old, with)
	}
	path = filepath.Join(dir, "otelcol.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func factories() (f otelcol.Factories, err error) {
	f.Telemetry = otelconftelemetry.NewFactory()
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](filelogreceiver.NewFactory()); err != nil {
		return f, err
	}
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](otlpexporter.NewFactory()); err != nil {
		return f, err
	}
	f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](filestorage.NewFactory())
	return f, err
}

func TestLosesNoLineAtRenames(t *testing.T) { ship(t).LosesNothingAtRenames(t) }

func TestCopytruncate(t *testing.T) { ship(t).ShowsGapsAtCopytruncate(t) }
