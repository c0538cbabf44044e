package record

import (
	"encoding/json"
	"testing"
	"time"
)

// typical is a process as most are: named, contained, mostly idle.
func typical() *Process {
	now := time.Date(2026, 11, 23, 13, 0, 0, 123456789, time.UTC)
	return &Process{
		Header: Header{Time: now, Host: "db-17.example.org", BootID: "0b5f4d3c-6d0e-4b6e-9a53-3f1d2c1b0a99", Seq: 123456, Schema: Schema},
		ProcessFacts: ProcessFacts{
			PID: 31337, StartTicks: 123456789, NSPID: Some[int32](17), PPID: Some[int32](1),
			StartTime: Some(now.Add(-time.Hour)), Comm: "postgres", Exe: Some("/usr/lib/postgresql/17/bin/postgres"),
			UID: Some[uint32](105), Cgroup: Some("/system.slice/system-postgresql.slice/postgresql@17-main.service"),
			Unit: Some("postgresql@17-main.service"), State: Some("S"), Source: SourceEBPF, Threads: Some[uint64](1),
			FDOpen: Some[uint64](57), FDOpenMin: Some[uint64](57), FDOpenMax: Some[uint64](57),
			FDLimit: Some[uint64](1024), FDHardLimit: Some[uint64](524288), FDRatio: Some(57.0 / 1024),
			FDGrowthPerSecond: Some(0.0),
			RSSBytes:          Some[uint64](29 << 20), RSSAnonBytes: Some[uint64](5 << 20), RSSFileBytes: Some[uint64](20 << 20),
			RSSShmemBytes: Some[uint64](4 << 20), RSSPeakBytes: Some[uint64](31 << 20), SwapBytes: Some[uint64](0), VirtualBytes: Some[uint64](230 << 20),
			MinorFaultsTotal: Some[uint64](123456), MajorFaultsTotal: Some[uint64](12),
			CPUSecondsTotal: Some(1234.567890123), CPUUserSecondsTotal: Some(1000.12), CPUSystemSecondsTotal: Some(234.45),
			CPUCores: Some(0.012345678), RunDelaySecondsTotal: Some(1.234567891),
			DiskReadBytesTotal: Some[uint64](1 << 30), DiskWrittenBytesTotal: Some[uint64](1 << 29),
			DiskReadBytesPerSecond: Some(0.0), DiskWrittenBytesPerSecond: Some(8192.123),
			IOReadBytesTotal: Some[uint64](1 << 33), IOWrittenBytesTotal: Some[uint64](1 << 32),
			NetReceivedBytesTotal: Some[uint64](123456789), NetSentBytesTotal: Some[uint64](987654321),
			NetReceivedBytesPerSecond: Some(0.0), NetSentBytesPerSecond: Some(0.0),
		},
	}
}

func BenchmarkAppendProcess(b *testing.B) {
	r, dst := typical(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		line, err := Append(dst, r)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(line)))
	}
}

// BenchmarkMarshalProcess is encoding/json, for the ratio.
func BenchmarkMarshalProcess(b *testing.B) {
	r := typical()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeProcess(b *testing.B) {
	line, err := Append(nil, typical())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(line); err != nil {
			b.Fatal(err)
		}
	}
}
