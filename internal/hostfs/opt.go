package hostfs

import (
	"rmagent/internal/sample"
	"rmagent/record"
)

func some[T any](v T) sample.Opt[T]            { return record.Some(v) }
func someIf[T any](v T, ok bool) sample.Opt[T] { return record.SomeIf(v, ok) }
