//go:build !cgo

package worker

const canConfine = true
