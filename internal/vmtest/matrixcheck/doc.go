// Command matrixcheck holds the results of go test against a matrix of tests and
// kernels, so that a test that silently stops running on a kernel fails the build.
//
//	go test -json ./... | matrixcheck -kernel 6.1
//
// It prints a line for each package, the output of what failed, and every breach
// of the matrix; its status is 1 if there is any of the latter two. The matrix is
// a text file of lines
//
//	KERNELS PACKAGE TEST must
//	KERNELS PACKAGE TEST may REASON
//	KERNELS PACKAGE TEST not REASON
//
// with kernels separated by commas, the package as a path below the module, and
// the test as a pattern of [path.Match] (a * does not reach into subtests). Blank
// lines and what follows a # at the start of a line are comments.
//
// Of a package that has a line for the kernel, every line has to match a test
// that ran, a "must" line one that passed, and every test that is skipped has to
// match a "may" line. Packages without a line may do as they like. Tests of a "not"
// line, which takes one name and no pattern, are not even started where the tests
// are run with -skip "$(matrixcheck -kernel KERNEL -skip PACKAGE)".
package main
