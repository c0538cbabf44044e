// Package cctools has what rmagent shares with cctools' resource_monitor: the names
// and units of what a job uses, its limits, its summary, the files that both write,
// and the options that both take. It is pure: it reads no clock and no file, and
// whoever measures a job fills its types in.
//
// A value is in the unit of the table of measures, whole or not: bytes are counted
// in MB of 2^20, and 1 byte is exactly 2^-20 MB. What a file shows of it is rounded
// only as it is written.
package cctools
