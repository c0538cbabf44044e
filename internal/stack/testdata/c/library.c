static volatile int sink;
__attribute__((noinline)) int library_inner(int (*f)(int)) { char b[48]; b[1] = 2; sink = f(b[1]); return sink + 1; }
int library_calls(int (*f)(int)) { int r = library_inner(f); sink = r; return r + 1; }
