"""Watch every process once a second the way programs on top of psutil do:
process_iter with the name, CPU times, memory, number of FDs and I/O."""

import sys
import time

import psutil

FIELDS = ["pid", "name", "cpu_times", "memory_info", "num_fds", "io_counters"]


def read(out):
    n = 0
    for process in psutil.process_iter(FIELDS):
        i = process.info
        cpu, memory, io = i["cpu_times"], i["memory_info"], i["io_counters"]
        if cpu is None or memory is None:
            continue
        n += 1
        out.write(
            f"{i['pid']} {i['name']} cpu={cpu.user + cpu.system:.2f} rss={memory.rss}"
            f" fds={i['num_fds']} read={io.read_bytes if io else 0}"
            f" written={io.write_bytes if io else 0}\n"
        )
    out.write(f"tick {n}\n")
    out.flush()


def main():
    due = time.monotonic()
    while True:
        read(sys.stdout)
        due += 1
        time.sleep(max(0, due - time.monotonic()))


try:
    main()
except BrokenPipeError:
    pass  # nobody reads any more
