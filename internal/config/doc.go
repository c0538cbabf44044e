// Package config turns a YAML file, the environment and flags into one validated
// [Config], each later one winning, and remembers where every value came from.
//
// The file is walked node by node, so that a mistake is named by file, line and
// key; all mistakes are reported at once. Anchors, aliases and merge keys are
// refused: a file of settings needs none, and they are how a small file becomes
// a large one.
//
// [Load] is pure: bytes and lists in, a Config out. [Read] is Load over the files
// of this machine.
package config
