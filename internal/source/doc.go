// Package source makes one reader of several: each field comes from the first
// reader that knows it, so that a host without some eBPF feature loses that
// feature and nothing else.
package source
