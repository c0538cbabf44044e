// Package act does what the configuration asks for when something happens: it logs,
// runs a command, posts to a webhook or sends a signal.
//
// [Runner.Changed], [Runner.Leak] and [Runner.OOM] are told by the tick. They never
// wait: what is to be done goes into a bounded queue that each action has, and a
// goroutine of the action's own does one after another. Each attempt is a record, also
// one that was refused, limited or dropped.
//
// An action acts once for each crossing, decision or verdict; a signal reaches the
// process that was meant, or nobody (see [sendSignal]).
package act
