// Package gpu is the client of rmagent-nvml, the child that asks NVIDIA's library
// about the GPUs. The library is C, may hang, and may crash whoever called it, so
// nothing here waits for it: the tick takes the latest reading that is complete.
//
// A [Client] has one goroutine. It looks once a minute whether there is a driver,
// which is all that happens on a machine without one. Where there is, it starts the
// child without capabilities, asks it for a reading when the tick wants one, kills
// it when it hangs, and starts it again, after a wait that doubles. Everything that
// the child says is checked against bounds before it becomes a [sample.GPUs].
package gpu
