package fallback

import "rmagent/internal/hostfs/kfile"

// parseSchedstat reads /proc/PID/schedstat: nanoseconds of one thread on a CPU
// and waiting for one, and how often it ran.
func parseSchedstat(b []byte) (ran, waited uint64, ok bool) {
	ran, b, ok = kfile.NextUint(b)
	if !ok {
		return 0, 0, false
	}
	waited, _, ok = kfile.NextUint(b)
	return ran, waited, ok
}
