package cctools

import (
	"fmt"
	"strings"

	"rmagent/record"
)

// File is a file that a job's processes opened, as --with-inotify counts.
type File struct {
	Path        string
	Output      bool  // opened to be written
	Device      int64 // st_dev
	SizeInitial int64 // bytes as it was opened first; -1: unknown, or it was not there
	SizeFinal   int64 // bytes as it was closed last, or at the end; -1: unknown, or it is gone
	Opens       int64
	Closes      int64
	Reads       int64
	Writes      int64
}

// AppendFiles appends the table of files, as cctools lays it out: a path in a line of
// its own, its counts in the next.
func AppendFiles(dst []byte, files []File) []byte {
	dst = fmt.Appendf(dst, "%-15s\n%-15s %6s %20s %20s %6s %6s %6s %6s\n", "#path", "#", "device",
		"size_initial(B)", "size_final(B)", "opens", "closes", "reads", "writes")
	for i := range files {
		f := &files[i]
		dst = fmt.Appendf(dst, "%-15s\n%-15s %6d %20d %20d %6d %6d %6d %6d\n", oneLine(f.Path), "", f.Device,
			f.SizeInitial, f.SizeFinal, f.Opens, f.Closes, f.Reads, f.Writes)
	}
	return dst
}

// fileList is the text that a summary has of the files: a table in a string, with
// sizes in MB, rounded up.
func fileList(files []File, output bool) string {
	var b strings.Builder
	b.WriteString("[\n")
	separator := ""
	for i := range files {
		f := &files[i]
		size := max(f.SizeInitial, f.SizeFinal)
		if f.Output != output || size < 0 {
			continue
		}
		fmt.Fprintf(&b, "%s%20s\"%s\", %d ]", separator, "[ ", oneLine(f.Path), (size+BytesPerMB-1)/BytesPerMB)
		separator = ",\n"
	}
	fmt.Fprintf(&b, "\n%16s", "]")
	return b.String()
}

// oneLine keeps a hostile name in its line and off the terminal's controls.
func oneLine(path string) string {
	var b strings.Builder
	for _, r := range record.Text([]byte(path)) {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			fmt.Fprintf(&b, `\x%02x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
