package record

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// The names that other programs depend on, written by hand: a field that is added,
// lost or renamed must be added, lost or renamed here.
const (
	headNames = "time kind host boot_id seq schema"

	processNames = `pid start_ticks ns_pid ppid start_time comm exe uid cgroup container_id unit source threads
		fd_open fd_open_min fd_open_max fd_limit fd_hard_limit fd_ratio fd_opened_total fd_closed_total fd_growth_per_second fd_seconds_to_limit
		rss_bytes rss_anon_bytes rss_file_bytes rss_shmem_bytes rss_peak_bytes swap_bytes virtual_bytes minor_faults_total major_faults_total
		cpu_seconds_total cpu_user_seconds_total cpu_system_seconds_total cpu_cores run_delay_seconds_total
		disk_read_bytes_total disk_written_bytes_total disk_read_bytes_per_second disk_written_bytes_per_second io_read_bytes_total io_written_bytes_total
		net_received_bytes_total net_sent_bytes_total net_received_bytes_per_second net_sent_bytes_per_second gpu_memory_bytes gpu_utilization_ratio
		state`

	pressureNames = `pressure_cpu_some_ratio pressure_cpu_full_ratio pressure_memory_some_ratio pressure_memory_full_ratio
		pressure_io_some_ratio pressure_io_full_ratio`
)

// fieldNames has every kind that has one set of fields. A process record has
// cmdline too, where it was asked for.
var fieldNames = map[Kind]string{
	KindProcess: processNames,
	KindExit:    processNames + " exit_time exit_code exit_signal core_dumped cpu_final inferred",
	KindHost: `monotonic_seconds cpu_ratio cpu_count load1 memory_total_bytes memory_available_bytes memory_used_bytes swap_total_bytes swap_used_bytes
		files_open files_limit processes threads pid_limit disk_read_bytes_total disk_written_bytes_total net_received_bytes_total net_sent_bytes_total
		disk_read_bytes_per_second disk_written_bytes_per_second net_received_bytes_per_second net_sent_bytes_per_second filesystems gone no_longer_chosen ` + pressureNames,
	KindCgroup: `path container_id unit memory_bytes memory_limit_bytes swap_bytes pids pids_limit cpu_seconds_total cpu_throttled_seconds_total
		cpu_limit_cores oom_kills_total fd_open ` + pressureNames,
	KindGPU: `index uuid name utilization_ratio memory_total_bytes memory_used_bytes temperature_celsius power_watts encoder_ratio decoder_ratio
		age_seconds mig_instances processes`,
	KindState: "resource target state previous value limit ratio unit message advice",
	KindPrune: "should_prune reasons candidates",
	KindAction: `action type cause resource target crossing recovery pid start_ticks comm why what attempt outcome detail
		duration_seconds`,
	KindOOM: `pid start_ticks comm uid cgroup rss_bytes rss_anon_bytes rss_file_bytes rss_shmem_bytes swap_bytes
		oom_score_adj`,
	KindJob: `job pid start_ticks category taskid command executable_type measured_by start_time end_time exit_type exit_status signal last_error
		cause oom_kills wall_time_seconds cpu_time_seconds memory_bytes virtual_memory_bytes swap_memory_bytes disk_bytes read_bytes written_bytes
		received_bytes sent_bytes bandwidth_bits_per_second gpus gpu_memory_bytes cores cores_avg context_switches max_concurrent_processes
		total_processes total_files open_files minor_faults major_faults run_delay_seconds measured limits_exceeded`,
	KindLimit: "job pid start_ticks category resource value limit unit seconds enforced message",
	KindJobReading: `job uid category taskid elapsed_seconds processes processes_total tasks_unmeasured cpu_seconds_total cpu_cores memory_bytes
		memory_at_least virtual_bytes swap_bytes fd_open gpus gpu_memory_bytes disk_read_bytes_per_second disk_written_bytes_per_second net_received_bytes_per_second
		net_sent_bytes_per_second limits members`,
	KindConfig: "hash values agent_pid",
	KindAgent: `version source cpu_seconds_total cpu_cores rss_bytes memory_bytes fd_open interval_seconds
		events_seen events_delivered events_lost events_pending uncounted records_written records_lost tasks_missed ticks_skipped
		map_entries map_capacity scan_seconds program_seconds_estimated`,
}

func TestFieldNames(t *testing.T) {
	for _, r := range []Record{&Process{}, &Exit{}, &Host{}, &Cgroup{}, &GPU{}, &StateChange{}, &Prune{}, &Action{}, &OOM{}, &Job{}, &Limit{}, &JobReading{}, &Config{}, &Agent{}} {
		kind, err := KindOf(r)
		if err != nil {
			t.Fatal(err)
		}
		line, err := Append(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := json.Unmarshal(line, &object); err != nil {
			t.Fatal(err)
		}
		want := strings.Fields(headNames + " " + fieldNames[kind])
		for _, name := range want {
			if _, ok := object[name]; !ok {
				t.Errorf("a %s record has no %s", kind, name)
			}
		}
		for name := range object {
			if !slices.Contains(want, name) {
				t.Errorf("a %s record has %s, which is not in the list", kind, name)
			}
		}
	}
}

// A command line is there only where it was asked for.
func TestCommandLineIsOptional(t *testing.T) {
	line, err := Append(nil, &Process{ProcessFacts: ProcessFacts{Cmdline: &[]string{"x"}}})
	if err != nil || !strings.Contains(string(line), `"cmdline":["x"]`) {
		t.Errorf("%s, %v", line, err)
	}
}
