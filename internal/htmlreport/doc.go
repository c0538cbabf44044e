// Package htmlreport draws recorded JSON lines as one HTML page that needs nothing
// else: no network, no other file.
//
// A [Report] reads records once, in a stream, and keeps a bounded summary of them:
// values over time in buckets of their least, mean and greatest ([series]), and of
// processes, control groups, crossings and the rest only those that the page shows.
// What it had to leave out is counted and said on the page. Names in the records are
// from elsewhere and may be hostile: all text goes through [human.Text] and
// html/template.
package htmlreport
