// Package metrics shows the engine's views as Prometheus metrics. However many
// processes, cgroups and units there are, the number of series is bounded: those that
// take most have series of their own, and how many others there are is a metric too.
// A series ends with what it is about.
package metrics
