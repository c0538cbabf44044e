/* Leaks ten descriptors a second in one function, among twenty that open and close
 * properly: from the first line of its input on, until the next, when it says how
 * many it leaked. It ends with its input. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

static int leaked;

__attribute__((noinline)) int leak_descriptor(const char *kind)
{
	int fd;
	switch (kind[0]) {
	case 'i':
		fd = inotify_init1(0); /* LEAK inotify */
		inotify_add_watch(fd, "/tmp", IN_CREATE);
		break;
	default:
		fd = open("/etc/hostname", O_RDONLY); /* LEAK file */
	}
	if (fd < 0) {
		perror("leak");
		exit(1);
	}
	leaked++;
	return fd;
}

#define HONEST(n)                                                                        \
	__attribute__((noinline)) void honest_##n(void)                                  \
	{                                                                                \
		int fd = n % 3 == 0 ? open("/etc/passwd", O_RDONLY)                      \
		       : n % 3 == 1 ? eventfd(0, 0) : epoll_create1(0);                  \
		if (fd < 0 || close(fd)) {                                               \
			perror("honest");                                                \
			exit(1);                                                         \
		}                                                                        \
	}
HONEST(0) HONEST(1) HONEST(2) HONEST(3) HONEST(4) HONEST(5) HONEST(6) HONEST(7) HONEST(8) HONEST(9)
HONEST(10) HONEST(11) HONEST(12) HONEST(13) HONEST(14) HONEST(15) HONEST(16) HONEST(17) HONEST(18) HONEST(19)

__attribute__((noinline)) void work(const char *kind, int leaking)
{
	honest_0(), honest_1(), honest_2(), honest_3(), honest_4(), honest_5(), honest_6();
	honest_7(), honest_8(), honest_9(), honest_10(), honest_11(), honest_12(), honest_13();
	if (leaking)
		leak_descriptor(kind);
	honest_14(), honest_15(), honest_16(), honest_17(), honest_18(), honest_19();
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "file";
	struct pollfd input = { .fd = 0, .events = POLLIN };
	int leaking = 0;
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (poll(&input, 1, 100) == 0) {
			work(kind, leaking);
			continue;
		}
		char line[16];
		if (read(0, line, sizeof line) <= 0)
			return 0;
		if (leaking) {
			printf("%d\n", leaked);
			fflush(stdout);
		}
		leaking = !leaking;
	}
}
