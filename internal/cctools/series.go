package cctools

import "strings"

// seriesHead is what a series begins with: cctools' words, as its newer versions
// have them (the older ones say microseconds, and write seconds).
const seriesHead = `# Units:
# wall_clock and cpu_time in seconds
# virtual, resident and swap memory in megabytes.
# disk in megabytes.
# bandwidth in Mbps.
# cpu_time, bytes_read, bytes_written, bytes_sent, and bytes_received show cummulative values.
# wall_clock, max_concurrent_processes, virtual, resident, swap, files, and disk show values at the sample point.
`

// seriesColumns are those after wall_clock.
var seriesColumns = []Measure{CPUTime, Cores, MaxConcurrentProcesses, VirtualMemory, Memory, SwapMemory,
	BytesRead, BytesWritten, BytesReceived, BytesSent, Bandwidth, MachineLoad}

// seriesDisk are the columns that are there unless --without-disk-footprint.
var seriesDisk = []Measure{TotalFiles, Disk}

// AppendSeriesHead appends the lines that a series begins with.
func AppendSeriesHead(dst []byte, disk bool) []byte {
	dst = append(append(dst, seriesHead...), "#wall_clock"...)
	for _, id := range seriesColumns {
		dst = append(append(dst, ' '), id.String()...)
	}
	if disk {
		for _, id := range seriesDisk {
			dst = append(dst, strings.Repeat(" ", 26-len(id.String()))...)
			dst = append(dst, id.String()...)
		}
	}
	return append(dst, '\n')
}

// AppendSeriesRow appends the row of one reading. Its time is now's end; cores are
// the average since the start until the window of cores is full. A value that is
// unknown is nan, which gnuplot and numpy leave out.
func AppendSeriesRow(dst []byte, now *Measures, disk bool) []byte {
	dst = appendValue(dst, now, End)
	wall, _ := now.Get(WallTime)
	for _, id := range seriesColumns {
		if id == Cores && wall <= CoresWindowSeconds {
			id = CoresAvg
		}
		dst = appendValue(append(dst, ' '), now, id)
	}
	if disk {
		for _, id := range seriesDisk {
			dst = appendValue(append(dst, ' '), now, id)
		}
	}
	return append(dst, '\n')
}

func appendValue(dst []byte, m *Measures, id Measure) []byte {
	v, ok := m.Get(id)
	if !ok {
		return append(dst, "nan"...)
	}
	return append(dst, id.Text(v)...)
}
