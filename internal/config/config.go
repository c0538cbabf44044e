package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"

	"rmagent/internal/policy"
)

// Config is the effective configuration.
type Config struct {
	Source   string        `koanf:"source"` // auto, ebpf or procfs
	Interval time.Duration `koanf:"interval"`

	LogLevel     string `koanf:"log_level"`     // debug, info, warn or error
	LogFormat    string `koanf:"log_format"`    // auto, json or console
	LogFile      string `koanf:"log_file"`      // empty: stderr
	WarningsFile string `koanf:"warnings_file"` // empty: none

	JSONL       string `koanf:"jsonl"`     // a path, - for stdout, empty: none
	Processes   string `koanf:"processes"` // active, all or none
	WithCmdline bool   `koanf:"with_cmdline"`

	GPU       string        `koanf:"gpu"`        // auto or off
	Hooks     []string      `koanf:"hooks"`      // see [Config.HookNames]
	FDTracing string        `koanf:"fd_tracing"` // auto, always or off
	Duration  time.Duration `koanf:"duration"`   // 0: until a signal
	CPUBudget float64       `koanf:"cpu_budget"` // share of one core; 0: none
	Socket    string        `koanf:"socket"`

	SocketGroup   string `koanf:"socket_group"`    // empty: the socket is its owner's
	Listen        string `koanf:"listen"`          // empty: no TCP
	WebConfigFile string `koanf:"web_config_file"` // empty: none

	Thresholds map[policy.Resource]policy.Threshold `koanf:"thresholds"`
	// NetworkLimitBytesPerSecond is what thresholds of network are shares of; 0: none.
	NetworkLimitBytesPerSecond float64       `koanf:"network_limit_bytes_per_second"`
	PredictionHorizon          time.Duration `koanf:"prediction_horizon"` // 0: nothing is foretold
	Tracked                    []Tracked     `koanf:"tracked"`

	Prune `koanf:",squash"`

	Actions       []Action `koanf:"actions"`
	ActionsDryRun bool     `koanf:"actions_dry_run"`
}

// Prune holds the settings of the prune rule. The first eight also have plain names
// in the environment. Of every maximum, 0 is none.
type Prune struct {
	ObservationPeriod             time.Duration `koanf:"observation_period"`
	CheckInterval                 time.Duration `koanf:"check_interval"`
	RollingWindowSize             int           `koanf:"rolling_window_size"`
	TargetUtilization             float64       `koanf:"target_utilization"`
	MaxMemoryUsageMB              float64       `koanf:"max_memory_usage_mb"`
	MaxCPUUsagePercent            float64       `koanf:"max_cpu_usage_percent"`
	MaxGPUUsagePercent            float64       `koanf:"max_gpu_usage_percent"`
	MaxNetworkUsageBytesPerSecond float64       `koanf:"max_network_usage_bytes_per_second"`

	MaxCgroupMemoryUsagePercent float64 `koanf:"max_cgroup_memory_usage_percent"`
	MaxFDUsagePercent           float64 `koanf:"max_fd_usage_percent"`
	MaxDiskUsagePercent         float64 `koanf:"max_disk_usage_percent"`
	MaxGPUMemoryUsagePercent    float64 `koanf:"max_gpu_memory_usage_percent"`
	MaxPIDsUsagePercent         float64 `koanf:"max_pids_usage_percent"`
	MaxCPUPressurePercent       float64 `koanf:"max_cpu_pressure_percent"`
	MaxMemoryPressurePercent    float64 `koanf:"max_memory_pressure_percent"`
	MaxIOPressurePercent        float64 `koanf:"max_io_pressure_percent"`

	PruneCandidates int      `koanf:"prune_candidates"` // named at most
	Priorities      []string `koanf:"priorities"`       // SELECTOR=N, the lowest goes first
	Protected       []string `koanf:"protected"`        // SELECTOR
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

// typedLayer is a koanf.Provider of validated values, by key.
type typedLayer map[string]any

func (typedLayer) ReadBytes() ([]byte, error) { return nil, fmt.Errorf("a layer has no bytes") }

func (t typedLayer) Read() (map[string]any, error) {
	nested := map[string]any{}
	for name, v := range t {
		putNested(nested, name, v)
	}
	return nested, nil
}

// merge lays the layers over each other, the later ones on top.
func merge(layers []typedLayer) (*Loaded, error) {
	k := koanf.New(".")
	for _, layer := range layers {
		if len(layer) == 0 {
			continue // koanf goes over all that it has for each
		}
		if err := k.Load(layer, nil); err != nil {
			return nil, fmt.Errorf("merge the configuration: %w", err)
		}
	}
	l := &Loaded{values: map[string]any{}, origins: map[string]Origin{}}
	for _, key := range keys {
		l.values[key.name] = k.Get(key.name)
	}
	err := k.UnmarshalWithConf("", &l.Config, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &l.Config, TagName: "koanf", Squash: true, ErrorUnused: true, ErrorUnset: true,
	}})
	if err != nil {
		return nil, fmt.Errorf("fill in the configuration: %w", err)
	}
	return l, nil
}
