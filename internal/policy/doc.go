// Package policy judges readings, purely: they are handed in as their records, which
// have the time, and nothing is read, written or logged here. So what is judged is what
// is written, and records that are read again lead to the same decisions.
//
// There are two rules. By the first, a target has a state for each resource: normal,
// info, warning or critical. It rises when its ratio has reached a threshold (for the
// time that the threshold asks for), and falls once the ratio has been below that
// threshold by the hysteresis for the hold time, so a value that trembles at a
// threshold crosses it once. A crossing is reported once, up and down. The limits of
// tracked processes are such thresholds, too.
//
// By the second, there is too much work ("prune") where a value is above its maximum
// and its mean over the observation period is more than the target share of the
// maximum. The decision names every reason, and the processes that relieve them.
//
// What is unknown or has no limit never triggers. What was decided stays while a value is
// unknown, and is over once there is no limit, and when the target ends or its rule is no
// longer in force: each state that rises is told to fall. What is remembered is bounded: of
// a process only where it is near a limit or tracked.
package policy
