// Package otelcol has an OpenTelemetry Collector read otelcol.yaml. It is a module of
// its own, so that rmagent does not depend on the Collector; `make test-otelcol` runs it.
package otelcol
