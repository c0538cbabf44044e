// Opens a path by a known chain of functions: open_here, called by middle, called by
// outer, called as the first argument says.
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))
static const char *path;
static volatile int sink;

KEEP int open_here(void) { int fd = open(path, O_RDONLY); sink = fd; return fd + 1; }
KEEP int middle(int a) { char b[64]; memset(b, a, sizeof b); int r = open_here(); sink = b[a & 63]; return r + 1; }
KEEP int outer(int a) { int r = middle(a + 1); sink = r; return r + 1; }

KEEP int recursive(int n) { char b[200]; memset(b, n, sizeof b); int r = n ? recursive(n - 1) : outer(1); sink = b[7]; return r + 1; }
KEEP int with_alloca(int n) { char *p = alloca(n); memset(p, 1, n); int r = outer(p[n / 2]); sink = p[1]; return r + 1; }
KEEP int realigned(int n) { _Alignas(64) char b[128]; memset(b, n, sizeof b); char *p = alloca(n); p[0] = 1; int r = outer(b[n]); sink = b[3] + p[0]; return r + 1; }
KEEP int compare(const void *a, const void *b) { static int once; if (!once++) sink = outer(2); return *(const int *)a - *(const int *)b; }
KEEP void handler(int s) { sink = outer(s); sink++; }
KEEP void *thread(void *a) { sink = outer(3); return a; }
KEEP int raiser(void) { sink = raise(SIGUSR1); return sink + 1; }
KEEP int crasher(volatile int *p) { return *p + 1; }
KEEP void on_segv(int s) { sink = outer(s); _exit(0); }
KEEP void sigframe(int alt) {
	static char other[65536];
	struct sigaction a = {.sa_handler = handler};
	if (alt) {
		stack_t st = {.ss_sp = other, .ss_size = sizeof other};
		sigaltstack(&st, NULL);
		a.sa_flags = SA_ONSTACK;
	}
	sigaction(SIGUSR1, &a, NULL);
	sink = raiser();
	sink++;
}

KEEP int wrapped(const char *p) { return open(p, O_RDONLY); }
KEEP int wrapper(const char *p) { return wrapped(p); }

int main(int argc, char **argv) {
	const char *how = argv[1];
	path = argv[2];
	if (!strcmp(how, "direct")) sink = outer(argc);
	if (!strcmp(how, "deep")) sink = recursive(40);
	if (!strcmp(how, "alloca")) sink = with_alloca(100);
	if (!strcmp(how, "realigned")) sink = realigned(50);
	if (!strcmp(how, "callback")) { int v[] = {3, 1, 2}; qsort(v, 3, sizeof *v, compare); }
	if (!strcmp(how, "signal")) sigframe(0);
	if (!strcmp(how, "altstack")) sigframe(1);
	if (!strcmp(how, "fault")) { signal(SIGSEGV, on_segv); sink = crasher(NULL); }
	if (!strcmp(how, "thread")) { pthread_t t; pthread_create(&t, NULL, thread, NULL); pthread_join(t, NULL); }
	if (!strcmp(how, "tail")) sink = wrapper(path);
	if (!strcmp(how, "stdio")) { FILE *f = fopen(path, "r"); sink = f != NULL; }
#ifdef DLOPEN
	if (!strcmp(how, "dlopen")) {
		void *l = dlopen(argv[3], RTLD_NOW);
		if (!l) { fprintf(stderr, "%s\n", dlerror()); return 1; }
		int (*f)(int (*)(int)) = (int (*)(int (*)(int)))dlsym(l, "library_calls");
		sink = f(outer);
	}
#endif
	return 0;
}
