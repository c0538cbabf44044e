package gpu

import (
	"log/slog"
	"slices"

	"rmagent/internal/gpu/wire"
	"rmagent/internal/sample"
	"rmagent/record"
)

// tell logs a line for each change from what was published before.
func (c *Client) tell(s *sample.GPUs, now *Status) {
	before := &c.status // written by this goroutine alone
	switch {
	case now.State == Reading && before.State == Reading:
		c.tellCards(s, now)
	case now.State == before.State && now.Why == before.Why:
	case now.State == Absent:
		c.o.Log.Info("gpu_none", slog.String("why", now.Why))
	case now.State == Failing:
		c.o.Log.Warn("gpu_unavailable", slog.String("why", record.Text([]byte(now.Why))), slog.String("helper", now.Helper))
	default:
		c.o.Log.Info("gpu_available", slog.Int("gpus", len(s.Devices)), slog.Any("names", names(s)),
			slog.String("driver", record.Text([]byte(now.Driver))), slog.String("helper", now.Helper))
		c.tellFailures(s, nil, now.Failures)
	}
}

// tellCards logs which cards came, went, or began or ceased to fail.
func (c *Client) tellCards(s *sample.GPUs, now *Status) {
	for i := range c.latest.Devices {
		if d := &c.latest.Devices[i]; !hasCard(s, d) {
			c.o.Log.Warn("gpu_gone", card(d)...)
		}
	}
	for i := range s.Devices {
		if d := &s.Devices[i]; !hasCard(c.latest, d) {
			c.o.Log.Info("gpu_found", card(d)...)
		}
	}
	c.tellFailures(s, c.status.Failures, now.Failures)
}

func (c *Client) tellFailures(s *sample.GPUs, before, now map[int]string) {
	for i := range s.Devices {
		d := &s.Devices[i]
		switch was, is := before[d.Index], now[d.Index]; {
		case was == is:
		case is == "":
			c.o.Log.Info("gpu_recovered", card(d)...)
		default:
			c.o.Log.Warn("gpu_failing", append(card(d), slog.String("why", record.Text([]byte(is))))...)
		}
	}
}

// hasCard tells by the UUID, or by the index where that is unknown.
func hasCard(s *sample.GPUs, d *sample.GPU) bool {
	return slices.ContainsFunc(s.Devices, func(o sample.GPU) bool {
		if o.UUID == "" || d.UUID == "" {
			return o.Index == d.Index
		}
		return o.UUID == d.UUID
	})
}

func card(d *sample.GPU) []any {
	return []any{
		slog.Int("index", d.Index),
		slog.String("uuid", record.Text([]byte(d.UUID))),
		slog.String("name", record.Text([]byte(d.Name))),
	}
}

func names(s *sample.GPUs) []string {
	var list []string
	for i := range s.Devices {
		list = append(list, record.Text([]byte(s.Devices[i].Name)))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func failures(r *wire.Reading) map[int]string {
	var m map[int]string
	for i := range r.GPUs {
		if g := &r.GPUs[i]; g.Failure != "" {
			if m == nil {
				m = map[int]string{}
			}
			m[g.Index] = clip(g.Failure)
		}
	}
	return m
}
