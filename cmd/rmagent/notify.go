package main

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"rmagent/internal/engine"
)

// notifyWhileReading tells systemd that the agent is ready at the first reading, and
// feeds its watchdog while there are readings: an agent that no longer reads is
// started again. Without systemd it does nothing (sd_notify(3)).
func notifyWhileReading(ctx context.Context, views *engine.Views, log *zap.Logger) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog", zap.Error(err))
	}
	select {
	case <-views.Published():
	case <-ctx.Done():
		return
	}
	if !notify(daemon.SdNotifyReady, log) {
		return
	}
	if limit > 0 {
		feed(ctx, views, limit, log)
	}
	<-ctx.Done()
	notify(daemon.SdNotifyStopping, log)
}

// feed feeds the watchdog until ctx ends, while the last reading is recent.
func feed(ctx context.Context, views *engine.Views, limit time.Duration, log *zap.Logger) {
	tick := time.NewTicker(limit / 4) // so that one that comes late does no harm
	defer tick.Stop()
	for {
		v := views.Latest()
		if time.Since(v.Time) < max(limit/2, 5*v.Interval) {
			notify(daemon.SdNotifyWatchdog, log)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// notify tells systemd, if it wants to be told.
func notify(state string, log *zap.Logger) (told bool) {
	told, err := daemon.SdNotify(false, state)
	if err != nil {
		log.Warn("notify_failed", zap.Error(err))
	}
	return told
}
