package main

// result is everything that one run measured.
type result struct {
	Machine machine       `json:"machine"`
	Steady  []*steadyRow  `json:"steady,omitempty"`
	Loops   []*loopRow    `json:"loops,omitempty"`
	Burst   *burstResult  `json:"burst,omitempty"`
	Jobs    []*jobRow     `json:"jobs,omitempty"`
	Clients []*clientRow  `json:"clients,omitempty"`
	Failed  []failedSuite `json:"failed,omitempty"`
}

type machine struct {
	CPUs          int     `json:"cpus"`
	Kernel        string  `json:"kernel"`
	Agent         string  `json:"agent"`
	MemoryCgroup  string  `json:"memory_cgroup"`          // or why there is none
	OtherAgents   []int   `json:"other_agents,omitempty"` // PIDs
	Rounds        int     `json:"rounds"`
	WindowSeconds float64 `json:"window_seconds"`
}

type failedSuite struct {
	Suite string `json:"suite"`
	Why   string `json:"why"`
}

// What the agent may cost, kernel time included.
const (
	goalChargedBytes    = 40 << 20 // beside goalChargedN idle processes
	goalChargedN        = 1000
	goalBurstCPUSeconds = 0.055 // for 2,000 processes
)

// goalCPUSecondsPerMinute by the number of idle processes.
var goalCPUSecondsPerMinute = map[int]float64{100: 0.05, 1000: 0.1, 5000: 0.4}
