package server

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"

	"rmagent/internal/engine"
	"rmagent/internal/human"
	"rmagent/record"
)

//go:embed page.html
var pageText string

// pageTemplate is parsed when somebody asks for the page.
var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Parse(pageText))
})

// pagePolicy lets the page have its own style, and nothing from anywhere.
var pagePolicy = func() string {
	_, rest, _ := strings.Cut(pageText, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// line is one row of the page.
type row struct{ Name, Value, Detail string }

func (s *Server) page(w http.ResponseWriter, _ *http.Request) error {
	data := struct {
		Host, Version string
		Rows          []row
		Time          string
	}{Host: s.System.Hostname, Version: s.System.Version}
	if v := s.Views.Latest(); v != nil {
		data.Rows, data.Time = rowsOf(v), v.Time.UTC().Format("2006-01-02 15:04:05")+" UTC"
	}
	var b bytes.Buffer
	if err := pageTemplate().Execute(&b, data); err != nil {
		return err
	}
	return writeBytes(w, "text/html; charset=utf-8", b.Bytes())
}

func rowsOf(v *engine.View) []row {
	h := &v.Host
	rows := []row{
		{"CPU", share(h.CPURatio), fmt.Sprintf("of %d", h.CPUCount.Or(0))},
		{"Memory", share(usedShare(h.MemoryTotalBytes, h.MemoryAvailableBytes)), amount(record.Float(h.MemoryUsedBytes), "") + " of " + amount(record.Float(h.MemoryTotalBytes), "")},
		{"Network", amount(h.NetReceivedBytesPerSecond, "/s"), "in, " + amount(h.NetSentBytesPerSecond, "/s") + " out"},
		{"Disk", amount(h.DiskReadBytesPerSecond, "/s"), "read, " + amount(h.DiskWrittenBytesPerSecond, "/s") + " written"},
		{"Open files", count(record.Float(h.FilesOpen)), "of " + count(record.Float(h.FilesLimit))},
		{"Processes", count(record.Float(h.Processes)), count(record.Float(h.Threads)) + " threads of " + count(record.Float(h.PIDLimit))},
	}
	for i := range v.GPUs {
		g := &v.GPUs[i]
		rows = append(rows, row{fmt.Sprintf("GPU %d", g.Index), share(g.UtilizationRatio),
			amount(record.Float(g.MemoryUsedBytes), "") + " of " + amount(record.Float(g.MemoryTotalBytes), "") + " memory"})
	}
	return rows
}

func share(n num) string {
	v, ok := n.Get()
	if !ok {
		return "unknown"
	}
	return human.Percent(v)
}

func amount(n num, per string) string {
	v, ok := n.Get()
	if !ok {
		return "unknown"
	}
	return human.Bytes(v) + per
}

func count(n num) string {
	v, ok := n.Get()
	if !ok {
		return "unknown"
	}
	if v > 1e15 { // a limit that nobody reaches
		return "no limit"
	}
	return fmt.Sprintf("%.0f", v)
}
