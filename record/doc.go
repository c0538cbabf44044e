// Package record holds every JSON type that rmagent writes: one object a line,
// of a kind that Header.Kind names. It imports nothing but the standard
// library, so that a reader of the records needs nothing else.
//
// # Units
//
// Names carry their units: _bytes, _seconds, _ratio (0 to 1), _per_second.
// _total marks a counter that only grows for as long as the thing lives. Times
// are RFC 3339 with nanoseconds, in UTC.
//
// # Known or null
//
// A value that rmagent does not know is null, never zero: [Opt] carries the
// difference in Go. The zero value of an Opt is unknown.
//
// # Identity
//
// A process is {pid, start_ticks, boot_id}: PIDs are reused, and start_ticks
// (field 22 of /proc/PID/stat, USER_HZ since boot) tells the users of one PID
// apart.
//
// # Gaps
//
// Header.Seq counts the records of one run of the agent without gaps, also those
// that could not be delivered: a reader that sees a gap knows how many it missed.
package record
