// Package replay runs the policy over recorded JSON lines. It hands the records to the
// same engine as the agent does, in the same order, so it decides the same; what the
// recording lacks it counts and tells, and never fills in.
//
// A [Player] takes lines. A reading begins with a host record and ends where the next
// begins. A process that has no record in a reading had nothing moving in it: it has
// the values of its last record, and rates of 0. It is gone once its exit was told.
package replay
