#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define REPEAT(x) x x x x

static inline int add(int a, int b) { return a + b; }

static inline __attribute__((always_inline)) int innermost(const char *path)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		perror(path);
	return fd;
}

static inline __attribute__((always_inline)) int middle(const char *path)
{
	int sum = 0;
	for (int i = 0; i < 3; i++)
		sum = add(sum, innermost(path));
	return sum;
}

__attribute__((noinline)) int outer(int n, char **list)
{
	int sum = 0;
	for (int i = 0; i < n; i++)
		sum += middle(list[i]) + middle("/dev/null");
	REPEAT(sum += innermost("/");)
	return sum;
}

static int order(const void *a, const void *b)
{
	return add(*(const int *)a, -*(const int *)b);
}

__attribute__((cold, noinline)) static void fail(void)
{
	fprintf(stderr, "no arguments\n");
	exit(1);
}

int main(int argc, char **argv)
{
	int list[] = {3, 1, 2};
	if (argc < 1)
		fail();
	qsort(list, 3, sizeof *list, order);
	return outer(argc - 1, argv + 1) != list[0];
}
