// Package sock lets ordinary users have their jobs measured by a running agent: over a
// socket that everybody may open, for their own processes only.
//
// A connection is one job. Both sides send frames: a length of four bytes in the
// machine's order, and that many bytes of JSON. The client asks, the server answers
// each request with one frame; between them it may send a notice, which says that a
// reading is worth it. The job ends with the connection.
//
// The server believes nothing that it is told: who asks, and for which process, it
// takes from the kernel. Whoever misbehaves loses the connection.
package sock

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"rmagent/internal/sample"
)

// Bounds of a frame, in bytes.
const (
	maxRequest  = 16 << 10
	maxResponse = 16 << 20
	maxText     = 1 << 10 // of a command
)

// op is what a request asks for.
type op string

const (
	opNew    op = "new"    // make the job: all fields but Thread and Fresh
	opAwait  op = "await"  // the next process that Thread of the client forks is the job's first
	opCancel op = "cancel" // it will fork none
	opRead   op = "read"   // what the job did and has; Fresh: at this instant, not up to readingAge ago
	opDoom   op = "doom"   // let none of these fork any more
)

// request is a frame of the client.
type request struct {
	Op          op     `json:"op"`
	AtOnce      uint64 `json:"at_once,omitempty"`
	Processes   uint64 `json:"processes,omitempty"`
	FatalAtOnce uint64 `json:"fatal_at_once,omitempty"`
	Thread      int    `json:"thread,omitempty"`
	Fresh       bool   `json:"fresh,omitempty"`
	// Of the job, for the agent's policy and for who asks. Limits are by the names and in the units of
	// package cctools.
	Command  string             `json:"command,omitempty"`
	Category string             `json:"category,omitempty"`
	TaskID   string             `json:"taskid,omitempty"`
	Limits   map[string]float64 `json:"limits,omitempty"`
}

// response is a frame of the server.
type response struct {
	Notice    bool              `json:"notice,omitempty"` // no answer, but a hint
	Error     string            `json:"error,omitempty"`
	Boottime  time.Duration     `json:"boottime,omitempty"`
	Totals    *sample.JobTotals `json:"totals,omitempty"`
	Processes []process         `json:"processes,omitempty"`
	GPUs      *gpuUse           `json:"gpus,omitempty"`
}

// gpuUse is a job.GPUUse as it travels.
type gpuUse struct {
	Absent bool    `json:"absent,omitempty"`
	Cards  *uint64 `json:"cards"`
	Memory *uint64 `json:"memory"`
	Why    string  `json:"why,omitempty"`
}

// process is a sample.JobProcess as it travels: unknown numbers are null.
type process struct {
	PID         int32   `json:"pid"`
	StartTicks  uint64  `json:"start"`
	UID         uint32  `json:"uid"`
	Comm        []byte  `json:"comm"`
	Space       uint64  `json:"space"`
	Table       uint64  `json:"table"`
	First       bool    `json:"first,omitempty"`
	Memory      bool    `json:"memory,omitempty"`
	Family      bool    `json:"family,omitempty"`
	Forked      bool    `json:"forked,omitempty"`
	File        uint64  `json:"file"`
	Anon        uint64  `json:"anon"`
	Shmem       uint64  `json:"shmem"`
	Swap        uint64  `json:"swap"`
	Peak        uint64  `json:"peak"`
	Virtual     uint64  `json:"virtual"`
	PeakVirtual uint64  `json:"peak_virtual"`
	FDs         *uint64 `json:"fds"`
	FDLimit     *uint64 `json:"fd_limit"`
}

var errFrame = errors.New("a frame is longer than allowed")

// writeFrame sends a value.
func writeFrame(w io.Writer, v any, most int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > most {
		return errFrame
	}
	frame := binary.NativeEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	_, err = w.Write(append(frame, b...))
	return err
}

// readFrame receives a value; io.EOF is the end between two frames.
func readFrame(r io.Reader, v any, most int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.NativeEndian.Uint32(head[:])
	if int64(n) > int64(most) {
		return errFrame
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("read a frame: %w", io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	return nil
}
