package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	agentName    = "rmagent"
	agentAllName = "rmagent-all"
)

var peerNames = []string{agentName, agentAllName, "pidstat", "gopsutil", "psutil", "process-exporter"}

//go:embed peers/psutil_watch.py
var psutilWatch string

//go:embed peers/process-exporter.yml
var exporterConfig []byte

// A peer is a watcher of processes and how to run it once a second.
type peer struct {
	name   string
	argv   []string
	mark   string // in one line of each reading that it writes
	scrape string // the URL to ask once a second, if it doesn't read by itself
	// changesOnly: it shows processes that did something, not every one.
	changesOnly bool
	missing     string // why it can't run here
}

// choosePeers gives them in the order of the tables.
func choosePeers(ctx context.Context, o options) []peer {
	all := []peer{
		o.agentPeer(),
		o.agentAllPeer(),
		// Its cheapest form that gives CPU, memory, I/O and FDs.
		found(peer{name: "pidstat", argv: []string{"pidstat", "-urdv", "1"}, mark: "%usr", changesOnly: true}),
		gopsutilPeer(ctx, o.cache),
		psutilPeer(ctx),
		exporterPeer(o.cache),
	}
	var chosen []peer
	for _, p := range all {
		if o.wants(p.name) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// agentPeer is the agent as it is by default: it writes what changed, and every
// process once a minute.
func (o options) agentPeer() peer {
	argv := append([]string{o.agent, "run", "--jsonl", "-", "--socket", o.agentSocket()}, strings.Fields(o.agentFlags)...)
	return found(peer{name: agentName, argv: argv, mark: `"kind":"host"`})
}

// agentSocket is one of its own, so that it doesn't meet an agent that already runs here.
func (o options) agentSocket() string { return filepath.Join(o.sockets, "rmagent.sock") }

// agentAllPeer writes every process each second.
func (o options) agentAllPeer() peer {
	p := o.agentPeer()
	p.name, p.argv = agentAllName, append(p.argv, "--processes", "all")
	return p
}

// found notes where a peer's program can't be found.
func found(p peer) peer {
	if _, err := exec.LookPath(p.argv[0]); err != nil {
		p.missing = err.Error()
	}
	return p
}

func gopsutilPeer(ctx context.Context, cache string) peer {
	program := filepath.Join(cache, "gopsutil")
	p := peer{name: "gopsutil", argv: []string{program}, mark: "tick "}
	// A module of its own: rmagent's doesn't depend on its peers.
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, ".")
	build.Dir = "internal/bench/peers/gopsutil"
	if out, err := build.CombinedOutput(); err != nil {
		p.missing = fmt.Sprintf("go build: %v: %s", err, lastLine(out))
	}
	return p
}

func psutilPeer(ctx context.Context) peer {
	python := "/usr/bin/python3" // Debian's, whose psutil is Debian's too
	p := peer{name: "psutil", argv: []string{python, "-c", psutilWatch}, mark: "tick "}
	if out, err := exec.CommandContext(ctx, python, "-c", "import psutil").CombinedOutput(); err != nil {
		p.missing = fmt.Sprintf("%v: %s", err, lastLine(out))
	}
	return p
}

// exporterPeer runs process-exporter without the smaps files and threads, which
// nobody else here reads either.
func exporterPeer(cache string) peer {
	const program = "prometheus-process-exporter"
	p := peer{name: "process-exporter"}
	path, err := exec.LookPath(program)
	if err != nil {
		// scripts/setup unpacks the package here, so that no service is started.
		path, err = exec.LookPath(filepath.Join(filepath.Dir(cache), "peers/usr/bin", program))
	}
	if err != nil {
		p.missing = program + ": not found"
		return p
	}
	config := filepath.Join(cache, "process-exporter.yml")
	if err := os.WriteFile(config, exporterConfig, 0o644); err != nil {
		p.missing = err.Error()
		return p
	}
	address, err := freeAddress()
	if err != nil {
		p.missing = err.Error()
		return p
	}
	p.scrape = "http://" + address + "/metrics"
	p.argv = []string{path, "-config.path", config, "-web.listen-address", address,
		"-gather-smaps=false", "-threads=false"}
	return p
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
