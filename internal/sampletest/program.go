package sampletest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// ShortProgram writes a program of three instructions that exits with code, and
// returns its path: nothing lives shorter.
func ShortProgram(t testing.TB, name string, code byte) string {
	t.Helper()
	if runtime.GOARCH == "arm64" {
		return writeProgram(t, name, words(0xd2800000|uint32(code)<<5, 0xd2800ba8, 0xd4000001)) // mov x0, code; mov x8, SYS_exit; svc 0
	}
	return writeProgram(t, name, []byte{0xbf, code, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}) // mov edi, code; mov eax, SYS_exit; syscall
}

// StormProgram writes a program that n times forks a process which ends at once,
// and waits for it. They share its memory, as after vfork(2): nothing forks faster.
func StormProgram(t testing.TB, n uint32) string {
	t.Helper()
	if runtime.GOARCH == "arm64" {
		return writeProgram(t, "storm", words(
			0x52800013|(n&0xffff)<<5, // mov w19, n
			0x72a00013|n>>16<<5,
			0xd2800000|0x4111<<5, // mov x0, CLONE_VM|CLONE_VFORK|SIGCHLD
			0xd2800001,           // mov x1, 0
			0xd2800002,
			0xd2800003,
			0xd2800004,
			0xd2801b88, // mov x8, SYS_clone
			0xd4000001, // svc 0
			0xb4000100, // cbz x0, end
			0xd2800001, // mov x1, 0
			0xd2800002,
			0xd2800003,
			0xd2802088, // mov x8, SYS_wait4
			0xd4000001, // svc 0
			0x71000673, // subs w19, w19, 1
			0x54fffe41, // b.ne to mov x0, CLONE_VM|CLONE_VFORK|SIGCHLD
			0xd2800000, // end: mov x0, 0
			0xd2800ba8, // mov x8, SYS_exit
			0xd4000001, // svc 0
		))
	}
	return writeProgram(t, "storm", binary.LittleEndian.AppendUint32([]byte{0xbb}, n), // mov ebx, n
		[]byte{
			0xb8, 58, 0, 0, 0, // mov eax, SYS_vfork
			0x0f, 0x05, // syscall
			0x85, 0xc0, // test eax, eax
			0x74, 20, // jz end
			0x89, 0xc7, // mov edi, eax
			0x31, 0xf6, // xor esi, esi
			0x31, 0xd2, // xor edx, edx
			0x45, 0x31, 0xd2, // xor r10d, r10d
			0xb8, 61, 0, 0, 0, // mov eax, SYS_wait4
			0x0f, 0x05, // syscall
			0xff, 0xcb, // dec ebx
			0x75, 0xe1, // jnz to mov eax, SYS_vfork
			0x31, 0xff, // end: xor edi, edi
			0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
			0x0f, 0x05, // syscall
		})
}

func words(code ...uint32) (b []byte) {
	for _, w := range code {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// writeProgram writes a static program for this architecture, and returns its path.
func writeProgram(t testing.TB, name string, code ...[]byte) string {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	machine, ok := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	if !ok {
		t.Fatalf("no program for %s", runtime.GOARCH)
	}
	var text []byte
	for _, c := range code {
		text = append(text, c...)
	}
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0}
	u16 := func(v ...uint16) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint16(b, x)
		}
	}
	u32 := func(v ...uint32) { b = append(b, words(v...)...) }
	u64 := func(v ...uint64) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	size := uint64(headers + len(text))
	u16(2, machine) // ET_EXEC
	u32(1)
	u64(base+headers, 64, 0) // entry, program headers, no sections
	u32(0)
	u16(64, 56, 1, 0, 0, 0)
	u32(1, 5) // PT_LOAD, readable and executable
	u64(0, base, base, size, size, 0x1000)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, append(b, text...), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
