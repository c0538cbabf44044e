package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"rmagent/internal/elffile"
	"rmagent/internal/stack/cfi"
)

const codeAt = 0x1000

// moduleOf is a file with nothing but code.
func moduleOf(t testing.TB, code []byte) *Module {
	t.Helper()
	var b bytes.Buffer
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: codeAt, Vaddr: codeAt, Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: 4096}
	for _, part := range []any{&h, &p} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, codeAt-b.Len()))
	b.Write(code)
	f, err := elffile.New(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return NewModule(f)
}

// What a way does to registers before it comes to a ret is undone by then, also in the
// function that another one jumps to at its end: nothing of that is on the stack yet.
func TestExits(t *testing.T) {
	other := []byte{
		0x55,                   // push %rbp
		0x53,                   // push %rbx
		0x48, 0x83, 0xec, 0x18, // sub $24, %rsp
		0x89, 0xfd, // mov %edi, %ebp
		0x48, 0x83, 0xc4, 0x18, // add $24, %rsp
		0x5b, // pop %rbx
		0x5d, // pop %rbp
		0xc3, // ret
	}
	same, lost := cfi.Rule{}, cfi.Rule{Kind: cfi.Undefined}
	at := func(offset int64) cfi.Rule { return cfi.Rule{Kind: cfi.AtOffset, Offset: offset} }
	for name, c := range map[string]struct {
		code   []byte
		cfa    int64 // from SP; 0: there is no way out
		bx, bp cfi.Rule
	}{
		"jumps to another": {append([]byte{0x48, 0x83, 0xc4, 0x08, 0xeb, 0x00}, other...), 16, same, same},
		"restores and jumps": {append([]byte{0x48, 0x83, 0xc4, 0x08, 0x5b, 0x5d, 0xeb, 0x00}, other...),
			32, at(-24), at(-16)},
		"pops another's":    {[]byte{0x50, 0x5b, 0x50, 0x48, 0x89, 0xc5, 0x58, 0xc3}, 8, lost, lost}, // push %rax; pop %rbx; mov %rax, %rbp
		"pops what is gone": {[]byte{0x53, 0x59, 0x50, 0x5b, 0xc3}, 8, lost, same},                   // push %rbx; pop %rcx; push %rax; pop %rbx
		"reads what it put": {[]byte{0x50, 0x48, 0x8b, 0x1c, 0x24, 0x59, 0xc3}, 8, lost, same},       // push %rax; mov (%rsp), %rbx; pop %rcx
		"flags":             {[]byte{0x9c, 0x9d, 0xc3}, 8, same, same},
		"other stack":       {[]byte{0x48, 0x87, 0xe1, 0xc3}, 0, same, same},                          // xchg %rsp, %rcx
		"other stack, back": {[]byte{0x48, 0x87, 0xcc, 0xc3}, 0, same, same},                          // xchg %rcx, %rsp
		"pops its stack":    {[]byte{0x5c, 0xc3}, 0, same, same},                                      // pop %rsp
		"half a stack":      {[]byte{0x83, 0xc4, 0x08, 0xc3}, 0, same, same},                          // add $8, %esp
		"where am I":        {[]byte{0xe8, 0, 0, 0, 0, 0x58, 0xc3}, 0, same, same},                    // call .; pop %rax
		"exchanges":         {[]byte{0x48, 0x87, 0xd8, 0xc3}, 8, lost, same},                          // xchg %rbx, %rax
		"leaves":            {[]byte{0x8d, 0x65, 0xf8, 0x5b, 0xc3}, 0, same, same},                    // lea -8(%rbp), %esp
		"parts":             {[]byte{0x66, 0x5b, 0xc3}, 0, same, same},                                // pop %bx
		"returns far":       {[]byte{0x48, 0xcb}, 0, same, same},                                      // lretq
		"returns and drops": {[]byte{0xc2, 8, 0}, 0, same, same},                                      // ret $8
		"nothing":           {[]byte{0x90, 0x90}, 0, same, same},                                      // the file ends
		"for ever":          {[]byte{0xeb, 0xfe}, 0, same, same},                                      // jmp .
		"nested":            {[]byte{0x53, 0x53, 0x5b, 0x5b, 0xc3}, 8, lost, same},                    // push %rbx, twice
		"changed between":   {[]byte{0x53, 0x31, 0xdb, 0x5b, 0xc3}, 8, same, same},                    // push %rbx; xor %ebx, %ebx; pop %rbx
		"pushed too late":   {[]byte{0x31, 0xdb, 0x53, 0x5b, 0xc3}, 8, lost, same},                    // xor %ebx, %ebx; push %rbx; pop %rbx
		"unbalanced":        {[]byte{0x5b, 0x53, 0x5b, 0xc3}, 16, at(-16), same},                      // pop %rbx; push %rbx; pop %rbx
		"swapped":           {[]byte{0x53, 0x55, 0x5b, 0x5d, 0xc3}, 8, lost, lost},                    // push %rbx; push %rbp; pop %rbx; pop %rbp
		"by the frame":      {[]byte{0xc9, 0xc3}, -1, same, at(-16)},                                  // leave
		"by a lost frame":   {[]byte{0x31, 0xed, 0xc9, 0xc3}, 0, same, same},                          // xor %ebp, %ebp; leave
		"from the frame":    {[]byte{0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3}, -1, at(-24), at(-16)}, // lea -8(%rbp), %rsp
	} {
		t.Run(name, func(t *testing.T) {
			rows := moduleOf(t, c.code).exits(codeAt)
			if c.cfa == 0 {
				if len(rows) != 0 {
					t.Fatalf("%+v", rows)
				}
				return
			}
			if len(rows) != 1 {
				t.Fatalf("%d rows", len(rows))
			}
			want := cfi.Rule{Kind: cfi.InRegister, Register: cfi.AMD64.SP, Offset: c.cfa}
			if c.cfa < 0 {
				want.Register, want.Offset = cfi.AMD64.FP, 16
			}
			if r := &rows[0]; r.CFA != want || r.Registers[3] != c.bx || r.Registers[6] != c.bp {
				t.Errorf("CFA %+v, rbx %+v, rbp %+v", r.CFA, r.Registers[3], r.Registers[6])
			}
		})
	}
}

// libc is a large library with call frame information.
func libc(t testing.TB) (path string, m *Module) {
	t.Helper()
	for _, path := range []string{"/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if f, err := openPath(t, path); err == nil {
			return path, NewModule(f)
		}
	}
	t.Fatal("no C library where one is looked for")
	return "", nil
}

// Where the way that code takes to a ret says the same of the stack pointer as the
// compiler's tables do, it says the same of all registers that functions keep, or nothing.
func TestExitsAgreeWithTables(t *testing.T) {
	path, m := libc(t)
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	functions, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	asked, agree := 0, 0
	for i, s := range functions {
		if i%2 != 0 || elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Size == 0 { // half of them are enough
			continue
		}
		for _, returns := range callsIn(m, s.Value, s.Value+s.Size) {
			var row cfi.Row
			if !m.frames.Row(returns-1, &row) || row.CFA.Kind != cfi.InRegister {
				continue
			}
			asked++
			for _, r := range m.exits(returns) {
				if r.CFA != row.CFA {
					continue
				}
				agree++
				for _, place := range places {
					if got, want := r.Registers[place], row.Registers[place]; got.Kind != cfi.Undefined && (got.Kind != want.Kind || got.Offset != want.Offset) {
						t.Errorf("%s: at %#x register %d is %+v, not %+v", s.Name, returns, place, got, want)
					}
				}
			}
		}
	}
	t.Logf("of %d calls, the ways out of %d agree on where SP is", asked, agree)
	if agree < asked/2 {
		t.Errorf("of %d calls, only %d have a way out", asked, agree)
	}
}

// callsIn are the return addresses in a function.
func callsIn(m *Module, begin, end uint64) (list []uint64) {
	for at := begin; at < end; {
		code, ok := m.File.AtVaddr(at)
		if !ok {
			return list
		}
		inst, err := x86asm.Decode(code[:min(len(code), 15)], 64)
		if err != nil {
			return list // beyond that, nobody knows where instructions begin
		}
		at += uint64(inst.Len)
		if inst.Op == x86asm.CALL && at < end {
			list = append(list, at)
		}
	}
	return list
}

// Whatever the code is, it is followed so far and no farther.
func FuzzExits(f *testing.F) {
	_, m := libc(f)
	for _, at := range []uint64{0x30000, 0x60000, 0x90000, 0xc0000} {
		if code, ok := m.File.AtVaddr(at); ok {
			f.Add(code[:min(len(code), 2000)], uint64(codeAt))
		}
	}
	f.Fuzz(func(t *testing.T, code []byte, at uint64) {
		if len(code) == 0 {
			return
		}
		m, steps := moduleOf(t, code), 0
		m.follow(at, func(*course, *x86asm.Inst) bool { steps++; return true })
		rows := m.exits(at)
		if steps > maxFollowed || len(rows) > maxExits {
			t.Errorf("%d instructions, %d ways out", steps, len(rows))
		}
		for i := range rows {
			if k := rows[i].CFA.Kind; k != cfi.InRegister {
				t.Errorf("CFA of kind %v", k)
			}
		}
		m.reaches(approach{codeAt, at, 0})
		m.jumpsAway(at)
	})
}
