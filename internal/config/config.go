package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/go-viper/mapstructure/v2"

	"rmagent/internal/policy"
)

// Config is the effective configuration.
type Config struct {
	Source   string        `config:"source"` // auto, ebpf or procfs
	Interval time.Duration `config:"interval"`

	LogLevel     string `config:"log_level"`     // debug, info, warn or error
	LogFormat    string `config:"log_format"`    // auto, json or console
	LogFile      string `config:"log_file"`      // empty: stderr
	WarningsFile string `config:"warnings_file"` // empty: none

	JSONL       string `config:"jsonl"`     // a path, - for stdout, empty: none
	Processes   string `config:"processes"` // active, all or none
	WithCmdline bool   `config:"with_cmdline"`

	GPU       string        `config:"gpu"`        // auto or off
	Hooks     []string      `config:"hooks"`      // see [Config.HookNames]
	FDTracing string        `config:"fd_tracing"` // auto, always or off
	Duration  time.Duration `config:"duration"`   // 0: until a signal
	CPUBudget float64       `config:"cpu_budget"` // share of one core; 0: none
	Socket    string        `config:"socket"`

	SocketGroup   string `config:"socket_group"`    // empty: the socket is its owner's
	Listen        string `config:"listen"`          // empty: no TCP
	WebConfigFile string `config:"web_config_file"` // empty: none

	Thresholds map[policy.Resource]policy.Threshold `config:"thresholds"`
	// NetworkLimitBytesPerSecond is what thresholds of network are shares of; 0: none.
	NetworkLimitBytesPerSecond float64       `config:"network_limit_bytes_per_second"`
	PredictionHorizon          time.Duration `config:"prediction_horizon"` // 0: nothing is foretold
	Tracked                    []Tracked     `config:"tracked"`

	Prune `config:",squash"`

	Actions       []Action `config:"actions"`
	ActionsDryRun bool     `config:"actions_dry_run"`
}

// Prune holds the settings of the prune rule. The first eight also have plain names
// in the environment. Of every maximum, 0 is none.
type Prune struct {
	ObservationPeriod             time.Duration `config:"observation_period"`
	CheckInterval                 time.Duration `config:"check_interval"`
	RollingWindowSize             int           `config:"rolling_window_size"`
	TargetUtilization             float64       `config:"target_utilization"`
	MaxMemoryUsageMB              float64       `config:"max_memory_usage_mb"`
	MaxCPUUsagePercent            float64       `config:"max_cpu_usage_percent"`
	MaxGPUUsagePercent            float64       `config:"max_gpu_usage_percent"`
	MaxNetworkUsageBytesPerSecond float64       `config:"max_network_usage_bytes_per_second"`

	MaxCgroupMemoryUsagePercent float64 `config:"max_cgroup_memory_usage_percent"`
	MaxFDUsagePercent           float64 `config:"max_fd_usage_percent"`
	MaxDiskUsagePercent         float64 `config:"max_disk_usage_percent"`
	MaxGPUMemoryUsagePercent    float64 `config:"max_gpu_memory_usage_percent"`
	MaxPIDsUsagePercent         float64 `config:"max_pids_usage_percent"`
	MaxCPUPressurePercent       float64 `config:"max_cpu_pressure_percent"`
	MaxMemoryPressurePercent    float64 `config:"max_memory_pressure_percent"`
	MaxIOPressurePercent        float64 `config:"max_io_pressure_percent"`

	PruneCandidates int      `config:"prune_candidates"` // named at most
	Priorities      []string `config:"priorities"`       // SELECTOR=N, the lowest goes first
	Protected       []string `config:"protected"`        // SELECTOR
}

// The words that stand in hooks for more than one name.
const (
	HooksDefault = "default" // those that are on by default
	HooksNone    = "none"
)

// HookNames returns the names of the hooks to attach; custom is false where those
// that are on by default are meant.
func (c *Config) HookNames() (names []string, custom bool) {
	switch {
	case len(c.Hooks) == 1 && c.Hooks[0] == HooksDefault:
		return nil, false
	case len(c.Hooks) == 1 && c.Hooks[0] == HooksNone:
		return []string{}, true
	}
	return c.Hooks, true
}

// Loaded is a Config and how it came about.
type Loaded struct {
	Config
	// Notes are worth a line in the log: a .env file that was used or refused, a
	// setting that does nothing yet.
	Notes []string

	values  map[string]any    // by key, typed
	origins map[string]Origin // by key
	// file and dotEnv are what it was made of: see With.
	file, dotEnv []byte
}

// Origin returns where the value of a key came from.
func (l *Loaded) Origin(key string) Origin { return l.origins[key] }

// Origins returns where each value came from, by key, and by field of an item:
// actions[0].url.
func (l *Loaded) Origins() map[string]string {
	all := make(map[string]string, len(l.origins))
	for key, o := range l.origins {
		all[key] = o.String()
	}
	return all
}

// Values returns the configuration as it goes into a record: nested by the dots
// in its keys, durations as text.
func (l *Loaded) Values() map[string]any {
	nested := map[string]any{}
	for _, k := range keys {
		putNested(nested, k.name, k.plain(l.values[k.name]))
	}
	return nested
}

// Hash returns the SHA-256 of the canonical JSON of Values, in hexadecimal.
func (l *Loaded) Hash() string {
	b, err := json.Marshal(l.Values()) // maps are written in the order of their keys
	if err != nil {
		panic(fmt.Sprintf("values of the key table are plain: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// typedLayer is validated values, by key.
type typedLayer map[string]any

// merge lays the layers over each other, the later ones on top.
func merge(layers []typedLayer) (*Loaded, error) {
	l := &Loaded{values: map[string]any{}, origins: map[string]Origin{}}
	for _, layer := range layers {
		maps.Copy(l.values, layer)
	}
	nested := map[string]any{}
	for name, v := range l.values {
		putNested(nested, name, v)
	}
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: &l.Config, TagName: "config", Squash: true, ErrorUnused: true, ErrorUnset: true,
	})
	if err == nil {
		err = d.Decode(nested)
	}
	if err != nil {
		return nil, fmt.Errorf("fill in the configuration: %w", err)
	}
	return l, nil
}
