// Package policy judges aggregates against thresholds, purely: the time is an
// argument, and nothing is read, written or logged here.
//
// A target has a state for each resource: normal, info, warning or critical. It
// rises as soon as its ratio reaches a threshold, and falls once the ratio has
// been below that threshold by the hysteresis for the hold time, so a value that
// trembles at a threshold crosses it once. A crossing is reported once, up and
// down. What is unknown or has no limit never triggers: a state that was reached
// stays until the ratio is known again. A target that ends takes its states with
// it, without a word: its exit says that it is over.
package policy
