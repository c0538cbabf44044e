package record

// Verdict is what a process's descriptors look like over time.
type Verdict string

// The verdicts. Records of kind "leak" have the first three; listings also say
// steady and unknown.
const (
	VerdictGrowing Verdict = "growing" // more are held than before; it may be a pool that fills
	VerdictLeaking Verdict = "leaking" // and there is evidence, which Rule names
	VerdictOver    Verdict = "over"    // what was growing or leaking no longer does
	VerdictSteady  Verdict = "steady"
	VerdictUnknown Verdict = "unknown"
)

// Leak is a process whose open descriptors grow, at each change of its verdict.
type Leak struct {
	Header
	PID             int32             `json:"pid"`
	StartTicks      uint64            `json:"start_ticks"`
	Comm            string            `json:"comm"`
	Verdict         Verdict           `json:"verdict"`
	Rule            Opt[string]       `json:"rule"` // which evidence made it a leak
	FDOpen          Opt[uint64]       `json:"fd_open"`
	FDLimit         Opt[uint64]       `json:"fd_limit"`
	GrowthPerSecond Opt[float64]      `json:"growth_per_second"`
	SecondsToLimit  Opt[float64]      `json:"seconds_to_limit"`
	ConfidenceRatio Opt[float64]      `json:"confidence_ratio"` // share of the held growth that the evidence covers
	Sites           []Site            `json:"sites"`            // worst first
	Unattributed    map[string]uint64 `json:"unattributed"`     // held descriptors that belong to no site, by reason
}

// Site is where descriptors were opened: those with one stack, type and target.
type Site struct {
	Held          uint64       `json:"held"`
	OpenedTotal   Opt[uint64]  `json:"opened_total"` // since tracing began; null where not every open was seen, another process opened it, or an entry before has it
	ClosedTotal   Opt[uint64]  `json:"closed_total"`
	FailedTotal   Opt[uint64]  `json:"failed_total"` // calls that ended with EMFILE or ENFILE
	Type          string       `json:"type"`
	Target        Opt[string]  `json:"target"` // path or address; null where the site's descriptors differ
	OldestSeconds Opt[float64] `json:"oldest_seconds"`
	Thread        Opt[string]  `json:"thread"`    // its name, as the process gave it
	Stack         []Frame      `json:"stack"`     // innermost first
	StackEnd      Opt[string]  `json:"stack_end"` // why the walk ended before the thread's first function; null where it did not
}

// Frame is one function of a call stack.
type Frame struct {
	Function Opt[string] `json:"function"` // demangled
	File     Opt[string] `json:"file"`
	Line     Opt[uint64] `json:"line"`
	Module   Opt[string] `json:"module"` // path of the file that the code is from
	Offset   Opt[uint64] `json:"offset"` // of the return address (of the call itself in the first frame) in that file
	BuildID  Opt[string] `json:"build_id"`
	Inlined  bool        `json:"inlined"`  // into the frame that follows
	Language Opt[string] `json:"language"` // where it is not machine code's own frame: python, java, javascript; go_creator for who started a goroutine
	Guess    Opt[string] `json:"guess"`    // how a frame, or what led to it, was found that is not certain: frame_pointer, epilogue (by what the code does until it returns), tail_call (it was called, and had left), read_later
}
