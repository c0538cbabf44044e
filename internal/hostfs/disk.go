package hostfs

import (
	"bytes"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// diskReader sums what the machine's disks read and wrote.
type diskReader struct {
	file
	sysBlock string
	sums     deviceSums
}

func openDisks(root string) diskReader {
	return diskReader{
		file:     openFile(root+"/proc/diskstats", kfile.ShortRecords),
		sysBlock: root + "/sys/block/",
		sums:     deviceSums{devices: map[string]*device{}},
	}
}

func (r *diskReader) read(buf *[]byte, dst *sample.Host) {
	b := r.file.read(buf)
	if b == nil {
		return
	}
	if came, _ := r.sums.take(b, parseDisk); came {
		r.sums.decide(r.isDisk)
	}
	dst.DiskReadBytes, dst.DiskWrittenBytes = some(r.sums.sums[0]), some(r.sums.sums[1])
}

// parseDisk reads a line of /proc/diskstats: major minor name, then reads,
// merged, sectors read, ms, writes, merged, sectors written, ... A sector is 512
// bytes there, whatever the disk's own are (Documentation/admin-guide/iostats.rst).
func parseDisk(line []byte) (name []byte, bytes [2]uint64, ok bool) {
	_, line = kfile.Word(line)
	_, line = kfile.Word(line)
	name, line = kfile.Word(line)
	var v [7]uint64
	for i := range v {
		if v[i], line, ok = kfile.NextUint(line); !ok {
			return nil, bytes, false
		}
	}
	const sectorsRead, sectorsWritten, sector = 2, 6, 512
	return name, [2]uint64{v[sectorsRead] * sector, v[sectorsWritten] * sector}, true
}

// isDisk reports whether name's bytes are counted nowhere else: it is a whole
// disk (partitions have no directory of their own in /sys/block) that a device
// stands behind, so no dm, md, loop, zram or zvol, whose bytes reach a disk that
// is counted, or none. Network block devices have no device and no such disk.
func (r *diskReader) isDisk(name string) bool {
	dir := r.sysBlock + strings.ReplaceAll(name, "/", "!") // cciss!c0d0
	if exists(dir + "/device") {
		hidden, _ := os.ReadFile(dir + "/hidden") // paths of a multipath NVMe disk
		return string(bytes.TrimSpace(hidden)) != "1"
	}
	return strings.HasPrefix(name, "nbd") && exists(dir)
}

func exists(path string) bool {
	var st unix.Stat_t
	return kfile.Stat(unix.AT_FDCWD, kfile.MakeName(path), &st) == 0
}
