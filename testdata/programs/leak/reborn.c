/* Leaks from its first line of input on, and becomes another program again and again,
 * whose code is at the same addresses: argv[1] is that program, argv[2] and argv[3] are
 * how many descriptors each leaked. At the next line it says both numbers. Compiled with
 * FILES it leaks files, in leak_file, else eventfds, in leak_eventfd. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#ifdef FILES
#define SELF 0
__attribute__((noinline)) int leak_file(void) { return open("/etc/hostname", O_RDONLY); }
#define LEAK leak_file
#else
#define SELF 1
__attribute__((noinline)) int leak_eventfd(void) { return eventfd(0, 0); }
#define LEAK leak_eventfd
#endif

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char line[16], numbers[2][16];
	int leaked[2] = { argc > 3 ? atoi(argv[2]) : 0, argc > 3 ? atoi(argv[3]) : 0 };
	struct timespec now;
	if (argc <= 3) {
		puts("ready");
		fflush(stdout);
		if (read(0, line, sizeof line) <= 0)
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (int n = 1 + now.tv_nsec / 1000 % 4; n > 0; n--) { /* it lives as long as it likes */
		if (LEAK() < 0)
			return 1;
		leaked[SELF]++;
		if (poll(&input, 1, 40) != 0) {
			printf("%d %d\n", leaked[0], leaked[1]);
			fflush(stdout);
			read(0, line, sizeof line);
			return read(0, line, sizeof line);
		}
	}
	for (int i = 0; i < 2; i++)
		snprintf(numbers[i], sizeof numbers[i], "%d", leaked[i]);
	execl(argv[1], argv[1], argv[0], numbers[0], numbers[1], (char *)0);
	return 1;
}
