// Package sink writes what the agent says: records as JSON lines ([JSONL]), and
// log lines ([Log]).
//
// Both stand on one writer: who says something appends whole lines to a bounded
// buffer and goes on; a goroutine that the sink owns writes the buffer out, with
// one write(2) for all that has gathered. So a disk or a reader that is slow
// costs lines, which are counted by cause, and never the tick's time or the
// agent's memory.
//
// In a regular file a line is whole or not there: what a full disk cut off is
// taken back, and what a killed agent left unfinished is ended before the next
// line. Every write appends (O_APPEND), so a file that logrotate truncates in
// place grows from its start again, without a hole.
package sink
