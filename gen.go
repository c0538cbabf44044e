package rmagent

// How bpf/ becomes Go: bpf2go compiles each program for both byte orders'
// little-endian targets and writes the object, and Go types for the structs that it
// shares with user space, into internal/loader. The result is committed: building
// rmagent needs no clang.

//go:generate go tool bpf2go -go-package loader -output-dir internal/loader -target amd64,arm64 -cc clang -strip llvm-strip -no-global-types -type process_record -type scan_args -type standing scan bpf/scan.bpf.c -- -O2 -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -go-package loader -output-dir internal/loader -target amd64,arm64 -cc clang -strip llvm-strip -no-global-types scanIter bpf/scan_iter.bpf.c -- -O2 -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -go-package loader -output-dir internal/loader -target amd64,arm64 -cc clang -strip llvm-strip -type exit_record -type oom_record -type event_head events bpf/events.bpf.c -- -O2 -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -go-package loader -output-dir internal/loader -target amd64,arm64 -cc clang -strip llvm-strip -no-global-types -type fd_birth -type fd_known -type fd_walk -type python -type python_frame -type python_frames -type fd_deep -type fd_record -type fd_list_args -type fd_suspect -type fd_table -type fd_stamp -type fd_key -type fd_counts -type fd_cpu fdtrace bpf/fdtrace.bpf.c -- -O2 -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -go-package loader -output-dir internal/loader -target amd64,arm64 -cc clang -strip llvm-strip -type job -type job_launcher -type job_notice -type job_task -type tag jobs bpf/jobs.bpf.c -- -O2 -Wall -Werror -mcpu=v3
