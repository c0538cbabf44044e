package main

import (
	"time"

	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/history"
	"rmagent/internal/hostfs"
	"rmagent/internal/sink"
)

// openHistory returns what remembers the last hour, filled from the records that the
// agent before has left, and logrotate's last file of them.
func openHistory(l *config.Loaded, log *zap.Logger) *history.Store {
	s := history.New(history.Options{})
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if l.JSONL == "" || l.JSONL == sink.Stdout || err != nil { // who opens the parts says what is wrong
		return s
	}
	begin := time.Now()
	filled, err := s.Fill(history.FillOptions{Paths: []string{l.JSONL, l.JSONL + ".1"}, Host: facts.Host, Now: begin})
	if err != nil {
		log.Warn("history_unreadable", zap.Error(err))
	}
	if filled.Bytes > 0 {
		log.Info("history_filled", zap.Int("records", filled.Taken), zap.Int("skipped", filled.Skipped), zap.Bool("whole", filled.Whole),
			zap.Int64("bytes", filled.Bytes), zap.Duration("took", time.Since(begin)))
	}
	return s
}
