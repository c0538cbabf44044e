package record

// FDCheck answers whether a process could safely open so many files more: what
// `rmagent check --json` prints and the library returns. It is no [Record].
type FDCheck struct {
	PID        int32  `json:"pid"`
	StartTicks uint64 `json:"start_ticks"`
	Comm       string `json:"comm"`

	Files    uint64 `json:"files"`    // asked about
	Sockets  uint64 `json:"sockets"`  // beside them
	Overhead uint64 `json:"overhead"` // what else a program opens meanwhile
	Required uint64 `json:"required"` // the sum of these three

	// Safe is open + required < (1 - margin) * limit; null where it can't be told.
	Safe Opt[bool] `json:"safe"`
	// Open counts the descriptors that take a place below the limit. Those with
	// numbers above it, from before it was lowered, take none.
	Open        Opt[uint64]  `json:"open"`
	Limit       Opt[uint64]  `json:"limit"`
	HardLimit   Opt[uint64]  `json:"hard_limit"`
	LimitedBy   string       `json:"limited_by"` // RLIMIT_NOFILE, or fs.file-max where that is nearer
	Ratio       Opt[float64] `json:"ratio"`      // (open + required) / limit; may be above 1
	MarginRatio float64      `json:"margin_ratio"`
	State       Opt[State]   `json:"state"` // which threshold the ratio reaches

	Message string      `json:"message"`
	Advice  string      `json:"advice"`
	Batch   Opt[uint64] `json:"batch"` // how many files at once are safe now
	Raise   []string    `json:"raise"` // ways to raise the limit, the fitting one first; empty where it is safe
}

// MarshalJSON writes what encoding/json does, but safe to show on a terminal.
func (c FDCheck) MarshalJSON() ([]byte, error) {
	type plain FDCheck
	return safeJSON(plain(c))
}
