// Package vmtest runs a test binary in a QEMU guest with a kernel of choice, so
// that what depends on the kernel is tested on more kernels than the machine's.
//
// A guest is a kernel image and an initramfs made for this one run: the running
// executable as /init, the test binary, the testdata of its package and what else
// was asked for. QEMU emulates (TCG), so neither KVM nor root is needed. The
// guest's first serial port is the kernel's console, the second carries the
// output of the tests and, last, the marker with their exit status: QEMU's own
// status says nothing. A guest that ends without its marker has failed, whatever
// it printed. Time runs unevenly in a guest: assert no timings there.
//
// The guest's half is [Init]; a program that calls [Guest.Run] calls it first,
// where [IsInit] says so. Command vmexec is such a program, made for go test:
//
//	go test -exec "$PWD/bin/vmexec -kernel 6.1" -run TestGuest ./internal/vmtest
//
// Command matrixcheck holds test results against testdata/matrix.txt, which says
// where a test must run and where it may be skipped.
package vmtest
