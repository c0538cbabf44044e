package cfi

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"rmagent/internal/elffile"
)

func open(t testing.TB, path string) (*elffile.File, *Table) {
	t.Helper()
	osFile, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer osFile.Close()
	f, err := elffile.Open(osFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	table, ok := Open(f)
	if !ok {
		t.Fatalf("%s has no call frame information", path)
	}
	return f, table
}

func compile(t testing.TB, compiler string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	source := "../testdata/c/chain.c"
	if compiler == "g++" {
		source = "../testdata/c/chain.cc"
	}
	if b, err := exec.Command(compiler, append(flags, "-pthread", "-o", out, source)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", compiler, err, b)
	}
	return out
}

func libc(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("gcc", "-print-file-name=libc.so.6").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// binutils is the truth: every row that it interprets, at its first instruction and at
// its last.
func TestAgreesWithReadelf(t *testing.T) {
	for name, path := range map[string]string{
		"libc": libc(t), "static": compile(t, "gcc", "-O2", "-static"), "pie": compile(t, "gcc", "-O2"),
		"c++": compile(t, "g++", "-O2", "-static"), "O0": compile(t, "gcc", "-O0", "-no-pie"),
	} {
		t.Run(name, func(t *testing.T) {
			_, table := open(t, path)
			rows := interpreted(t, path)
			if len(rows) < 20 {
				t.Fatalf("readelf gives %d rows", len(rows))
			}
			bad := 0
			for _, want := range rows {
				for _, pc := range []uint64{want.from, want.to - 1} {
					var row Row
					if !table.Row(pc, &row) {
						t.Errorf("%#x: no row", pc)
						bad++
					} else if got := table.describe(&row, want.columns); got != want.text {
						t.Errorf("%#x: %s, readelf says %s", pc, got, want.text)
						bad++
					}
				}
				if bad > 10 {
					t.FailNow()
				}
			}
			t.Logf("%d rows", len(rows))
		})
	}
}

type interpretedRow struct {
	from, to uint64
	columns  []string
	text     string
}

// inRegister is how readelf writes that a register is in another one.
var inRegister = regexp.MustCompile(`r\d+ \((\w+)\)`)

// interpreted reads what readelf --debug-dump=frames-interp prints of .eh_frame.
func interpreted(t *testing.T, path string) (rows []interpretedRow) {
	t.Helper()
	// It fails where it has warnings, too.
	out, _ := exec.Command("readelf", "--wide", "--debug-dump=frames-interp", path).Output()
	out = inRegister.ReplaceAll(out, []byte("$1"))
	var columns []string
	var end uint64
	inFDE, section := false, ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case strings.HasPrefix(lines.Text(), "Contents of the "):
			section = fields[3]
		case section != ".eh_frame" || len(fields) == 0:
			columns = nil
		case strings.Contains(lines.Text(), " FDE ") || strings.Contains(lines.Text(), " CIE "):
			columns, inFDE = nil, strings.Contains(lines.Text(), " FDE ")
			if _, to, ok := strings.Cut(fields[len(fields)-1], ".."); ok {
				end, _ = strconv.ParseUint(to, 16, 64)
			}
		case fields[0] == "LOC":
			columns = fields[1:]
		case columns != nil && inFDE:
			from, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil || len(fields) != len(columns)+1 {
				t.Fatalf("not a row: %q under %v", lines.Text(), columns)
			}
			if n := len(rows); n > 0 && rows[n-1].to > from { // the row before ends here
				rows[n-1].to = from
			}
			if n := len(rows); n > 0 && rows[n-1].from >= rows[n-1].to { // two rows of one place: the later
				rows = rows[:n-1]
			}
			rows = append(rows, interpretedRow{from, end, columns, strings.Join(fields[1:], " ")})
		}
	}
	return rows
}

var names = []string{"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "ra"}

// describe writes a row as readelf does.
func (t *Table) describe(row *Row, columns []string) string {
	var b strings.Builder
	for i, column := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		if column == "CFA" {
			if row.CFA.Kind == IsExpression {
				b.WriteString("exp")
			} else {
				fmt.Fprintf(&b, "%s%+d", names[row.CFA.Register], row.CFA.Offset)
			}
			continue
		}
		for n, name := range names {
			if name == column {
				b.WriteString(describeRule(&row.Registers[n]))
			}
		}
	}
	return b.String()
}

func describeRule(r *Rule) string {
	switch r.Kind {
	case AtOffset:
		return fmt.Sprintf("c%+d", r.Offset)
	case IsOffset:
		return fmt.Sprintf("v%+d", r.Offset)
	case AtExpression:
		return "exp"
	case IsExpression:
		return "vexp"
	case InRegister:
		return names[r.Register]
	}
	return "u"
}

// Files without the sorted table are read once, and say the same.
func TestWithoutHeader(t *testing.T) {
	path := compile(t, "gcc", "-O2")
	f, with := open(t, path)
	without := &Table{file: f, arch: with.arch}
	s, ok := f.Section(".eh_frame")
	if !ok {
		t.Fatal("no .eh_frame")
	}
	without.collect(s.Vaddr, s.Data)
	text, _ := f.Section(".text")
	found := 0
	for pc := text.Vaddr; pc < text.Vaddr+uint64(len(text.Data)); pc++ {
		var a, b Row
		ok, ok2 := with.Row(pc, &a), without.Row(pc, &b)
		if ok != ok2 || (ok && fmt.Sprint(a) != fmt.Sprint(b)) {
			t.Fatalf("%#x: %v %v, without a header %v %v", pc, ok, a, ok2, b)
		}
		if ok {
			found++
		}
	}
	if found < 500 {
		t.Errorf("only %d instructions are covered", found)
	}
}

func BenchmarkRow(b *testing.B) {
	f, table := open(b, libc(b))
	text, _ := f.Section(".text")
	var row Row
	pc, size := uint64(0), uint64(len(text.Data))
	b.ReportAllocs()
	for b.Loop() {
		pc = (pc + 7919) % size
		table.Row(text.Vaddr+pc, &row)
	}
}

// FuzzRow changes a program's call frame information.
func FuzzRow(f *testing.F) {
	original, err := os.ReadFile(compile(f, "gcc", "-O2"))
	if err != nil {
		f.Fatal(err)
	}
	file, err := elffile.New(original)
	if err != nil {
		f.Fatal(err)
	}
	section, _ := file.Section(".eh_frame")
	header, _ := file.Section(".eh_frame_hdr")
	text, _ := file.Section(".text")
	f.Add(section.Data, header.Data, uint64(100))
	f.Add(section.Data, []byte{}, uint64(1000))
	f.Fuzz(func(t *testing.T, frames, sorted []byte, offset uint64) {
		data := bytes.Clone(original)
		copy(data[section.Offset:section.Offset+uint64(len(section.Data))], frames)
		copy(data[header.Offset:header.Offset+uint64(len(header.Data))], sorted)
		file, err := elffile.New(data)
		if err != nil {
			t.Fatal(err)
		}
		table, ok := Open(file)
		if !ok {
			return
		}
		var row Row
		if table.Row(text.Vaddr+offset%uint64(len(text.Data)), &row) && row.CFA.Kind == InRegister && int(row.CFA.Register) >= NumRegisters {
			t.Errorf("register %d", row.CFA.Register)
		}
	})
}

func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		arch     Arch
		register uint64
		place    uint8
		ok       bool
	}{
		{AMD64, 7, AMD64.SP, true}, {AMD64, 6, AMD64.FP, true}, {AMD64, 16, AMD64.RA, true}, {AMD64, 17, 0, false},
		{ARM64, 31, ARM64.SP, true}, {ARM64, 29, ARM64.FP, true}, {ARM64, 30, ARM64.RA, true}, {ARM64, 15, 0, false}, {ARM64, 32, 0, false},
	} {
		if place, ok := c.arch.Place(c.register); place != c.place || ok != c.ok {
			t.Errorf("place of %d = %d %v", c.register, place, ok)
		}
	}
	if archOf(elf.EM_AARCH64) != ARM64 || archOf(elf.EM_X86_64) != AMD64 {
		t.Error("architectures are mixed up")
	}
}
