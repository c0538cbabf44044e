// Package sampletest is the one conformance suite of every [sample.Reader]. Its
// truth comes from elsewhere: from /proc read before and after, from wait4, from
// smaps_rollup, and from processes that know what they did themselves.
//
// A package that tests a reader calls [Main] from its TestMain, because the test
// binary itself becomes the processes that are measured, and [TestReader] from a
// test. Nothing else is needed than /proc, so a static test binary runs the suite
// on any kernel.
package sampletest
