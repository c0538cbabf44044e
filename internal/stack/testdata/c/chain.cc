// Opens a path by a known chain of functions that C++ has and C has not.
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define KEEP __attribute__((noinline, noclone))
static const char *path;
static volatile int sink;

extern "C" KEEP int open_here() { int fd = open(path, O_RDONLY); sink = fd; return fd + 1; }

template <typename T> struct Opener {
	std::vector<T> kept;
	KEEP int middle(T v) { kept.push_back(v); int r = open_here(); sink = r; return r + 1; }
	virtual KEEP int outer(T v) { std::string s(100, 'x'); int r = middle(v); sink = s.size(); return r + 1; }
	virtual ~Opener() {}
};

KEEP int thrower(int n) { if (n) throw std::runtime_error("thrown"); return 1; }
KEEP int catcher(Opener<long> &o) {
	try { return thrower(1) + 1; }
	catch (const std::exception &e) { int r = o.outer(2); sink = r; return r + 1; }
}
KEEP int called(const std::function<int(int)> &f) { int r = f(1); sink = r; return r + 1; }

struct Guard { Opener<long> &o; KEEP ~Guard() { sink = o.outer(4); } };
KEEP int unwound(Opener<long> &o) { Guard g{o}; return thrower(1) + 1; }

int main(int argc, char **argv) {
	Opener<long> *o = new Opener<long>;
	path = argv[2];
	if (!strcmp(argv[1], "virtual")) sink = o->outer(argc);
	if (!strcmp(argv[1], "function")) sink = called([o](int n) { int r = o->outer(n); sink = r; return r + 1; });
	if (!strcmp(argv[1], "catch")) sink = catcher(*o);
	if (!strcmp(argv[1], "cleanup")) try { sink = unwound(*o); } catch (...) { }
	return 0;
}
