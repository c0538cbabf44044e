package report

import (
	"rmagent/internal/aggregate"
	"rmagent/record"
)

// maxMembers bounds the processes that a reading of a job names.
const maxMembers = 1000

// Job makes a record of a reading of a job. Its lists are used again at the next call
// with the same record.
func (b *Builder) Job(r *record.JobReading, j *aggregate.Job) {
	text := func(s string) record.Opt[string] { return record.SomeIf(record.Text([]byte(s)), s != "") }
	limits, members := r.Limits[:0], r.Members[:0]
	for _, l := range j.Limits {
		limits = append(limits, record.JobAllowance(l))
	}
	for i := range j.Processes[:min(len(j.Processes), maxMembers)] {
		id := j.Processes[i].ID
		members = append(members, record.JobMember{PID: id.PID, StartTicks: id.StartTicks})
	}
	*r = record.JobReading{
		Header: r.Header, Job: j.ID.String(), UID: record.Some(j.UID), Category: text(j.Category), TaskID: text(j.TaskID),
		ElapsedSeconds:  record.Some(aggregate.Round(j.ElapsedSeconds)),
		Processes:       record.Some(j.Totals.Now),
		ProcessesTotal:  record.Some(j.Totals.Processes),
		TasksUnmeasured: j.Totals.Lost,
		CPUSecondsTotal: record.Some(aggregate.Round(j.Totals.CPU.Seconds())),
		CPUCores:        j.CPUCores,
		MemoryBytes:     j.Memory, MemoryAtLeast: j.MemoryAtLeast, VirtualBytes: j.Virtual, SwapBytes: j.Swap, FDOpen: j.FDs,
		GPUs: j.GPUs, GPUMemoryBytes: j.GPUMemory,
		DiskReadBytesPerSecond: j.DiskRead, DiskWrittenBytesPerSecond: j.DiskWritten,
		NetReceivedBytesPerSecond: j.NetReceived, NetSentBytesPerSecond: j.NetSent,
		Limits: limits, Members: members,
	}
	if r.Limits == nil {
		r.Limits = []record.JobAllowance{}
	}
	if r.Members == nil {
		r.Members = []record.JobMember{}
	}
}
