// Command vmexec runs a test binary in a QEMU guest, as go test's -exec program.
// What a guest is and how it ends, package vmtest says; docs/testing.md has
// examples.
package main
