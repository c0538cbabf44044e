// Package server answers questions over HTTP from the views that the engine
// publishes. It opens two doors: one on TCP, with numbers for whoever reaches it, and
// one on a unix socket, where the kernel says who asks. A request never causes a
// reading of the machine; it is answered from memory, or of one process at most.
//
// Everything about a request is bounded: its size, its time, and how many there are at
// once. A client that is slow, stuck or hostile costs one connection of its own door,
// and the oldest idle one goes when another needs its place.
package server
