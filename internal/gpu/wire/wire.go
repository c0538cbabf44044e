// Package wire is what rmagent and its child rmagent-nvml say to each other: the
// agent asks with a [Request], the child answers with a [Reading], each as JSON
// behind its length in four bytes, the highest first. Numbers are NVML's own, in
// NVML's units; who reads them checks them.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"rmagent/record"
)

// Version is that of the language: both sides are of one build, and a child that
// was left over from another is refused.
const Version = 2

// The descriptors of the child. Its standard output is not one of them, because
// the driver's library may write there.
const (
	RequestFD = 3
	ReadingFD = 4
)

// MaxFrame bounds what one side takes from the other: a reading of 8 cards with a
// hundred processes each has some 20 kB.
const MaxFrame = 1 << 20

// Bounds of a reading. What is beyond is left out, and the list said to be
// incomplete.
const (
	MaxGPUs      = 64
	MaxInstances = 64
	MaxProcesses = 1024 // of one card
	MaxText      = 256  // bytes of a name or a reason
)

// Request asks for a reading.
type Request struct {
	Version int `json:"version"`
}

// Reading is what NVML said.
type Reading struct {
	Version int `json:"version"`
	// Failure says why NVML can't be used; there are no cards then, and the child
	// ends.
	Failure string `json:"failure,omitempty"`
	Driver  string `json:"driver,omitempty"`  // version
	Library string `json:"library,omitempty"` // NVML's version

	CPUNanos uint64 `json:"cpu_nanos"` // that the child used since it began
	GPUs     []GPU  `json:"gpus"`
}

// GPU is one card. What NVML does not tell is left out.
type GPU struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid,omitempty"`
	Name  string `json:"name,omitempty"`
	// Failure is the first call that failed otherwise than for want of support.
	Failure string `json:"failure,omitempty"`

	UtilizationPercent record.Opt[uint64] `json:"utilization_percent,omitzero"`
	MemoryTotalBytes   record.Opt[uint64] `json:"memory_total_bytes,omitzero"`
	MemoryUsedBytes    record.Opt[uint64] `json:"memory_used_bytes,omitzero"`
	TemperatureCelsius record.Opt[uint64] `json:"temperature_celsius,omitzero"`
	PowerMilliwatts    record.Opt[uint64] `json:"power_milliwatts,omitzero"`
	EncoderPercent     record.Opt[uint64] `json:"encoder_percent,omitzero"`
	DecoderPercent     record.Opt[uint64] `json:"decoder_percent,omitzero"`

	MIG       bool       `json:"mig,omitempty"` // divided, even if into no instance
	Instances []Instance `json:"instances,omitempty"`
	Processes []Process  `json:"processes,omitempty"`
	Complete  bool       `json:"complete,omitempty"` // Processes has everyone with a context here
}

// Instance is a MIG device.
type Instance struct {
	UUID              string             `json:"uuid,omitempty"`
	Name              string             `json:"name,omitempty"`
	GPUInstanceID     record.Opt[uint64] `json:"gpu_instance_id,omitzero"`
	ComputeInstanceID record.Opt[uint64] `json:"compute_instance_id,omitzero"`
	MemoryTotalBytes  record.Opt[uint64] `json:"memory_total_bytes,omitzero"`
	MemoryUsedBytes   record.Opt[uint64] `json:"memory_used_bytes,omitzero"`
}

// Process is a process on one card: its PID, the bytes of memory that it holds, its
// utilization in percent, and the GPU instance of a divided card that it is on, of which
// there may be several; [Unknown] where NVML does not tell. There may be many, so they have
// no keys.
type Process [4]int64

// Unknown is a number of a Process that is not known.
const Unknown = -1

// MakeProcess returns the process of a PID.
func MakeProcess(pid uint32, memory, percent, instance record.Opt[uint64]) Process {
	return Process{int64(pid), number(memory), number(percent), number(instance)}
}

func number(o record.Opt[uint64]) int64 {
	v, ok := o.Get()
	if !ok || v > math.MaxInt64 {
		return Unknown
	}
	return int64(v)
}

// PID returns the PID, which may be any number.
func (p *Process) PID() int64 { return p[0] }

// MemoryBytes returns the memory that it holds.
func (p *Process) MemoryBytes() record.Opt[uint64] { return record.SomeIf(uint64(p[1]), p[1] >= 0) }

// UtilizationPercent returns its share of the card.
func (p *Process) UtilizationPercent() record.Opt[uint64] {
	return record.SomeIf(uint64(p[2]), p[2] >= 0)
}

// GPUInstanceID returns the GPU instance that it is on.
func (p *Process) GPUInstanceID() record.Opt[uint64] { return record.SomeIf(uint64(p[3]), p[3] >= 0) }

// ErrFrame is a frame that is no frame: empty, too long, or without the JSON it
// should have.
var ErrFrame = errors.New("malformed frame")

// Write writes one frame by one call of w.Write.
func Write(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("%w: %d bytes; allowed: %d", ErrFrame, len(body), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// Read reads one frame into v. At the end of r before a frame it returns io.EOF,
// within one io.ErrUnexpectedEOF.
func Read(r io.Reader, v any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > MaxFrame {
		return fmt.Errorf("%w: %d bytes; allowed: 1 to %d", ErrFrame, n, MaxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}
