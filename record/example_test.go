package record_test

import (
	"errors"
	"fmt"
	"time"

	"rmagent/record"
)

func ExampleAppend() {
	line, err := record.Append(nil, &record.OOM{
		Header: record.Header{
			Time: time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC),
			Host: "web-1", BootID: "0b5f4d3c-6d0e-4b6e-9a53-3f1d2c1b0a99",
			Seq: 7, Schema: record.Schema,
		},
		PID: 4711, StartTicks: 1234, Comm: record.Text([]byte("java\xff")),
		RSSBytes: record.Some[uint64](3 << 30), // the rest is unknown: null
	})
	if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%s", line)
	// Output:
	// {"time":"2026-11-23T13:00:00.000000000Z","kind":"oom","host":"web-1","boot_id":"0b5f4d3c-6d0e-4b6e-9a53-3f1d2c1b0a99","seq":7,"schema":1,"pid":4711,"start_ticks":1234,"comm":"java\\xff","uid":null,"cgroup":null,"rss_bytes":3221225472,"rss_anon_bytes":null,"rss_file_bytes":null,"rss_shmem_bytes":null,"swap_bytes":null,"oom_score_adj":null}
}

func ExampleDecode() {
	lines := []string{
		`{"kind":"process","schema":1,"seq":41,"pid":4711,"start_ticks":99,"comm":"postgres","fd_open":57,"fd_limit":null}`,
		`{"kind":"of_a_newer_agent","schema":1,"seq":42}`,
	}
	for _, line := range lines {
		r, err := record.Decode([]byte(line))
		if errors.Is(err, record.ErrKind) {
			continue // written by a newer agent
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		switch r := r.(type) {
		case *record.Process:
			open, _ := r.FDOpen.Get()
			_, limited := r.FDLimit.Get()
			fmt.Println(r.PID, r.Comm, open, limited)
		}
	}
	// Output: 4711 postgres 57 false
}
