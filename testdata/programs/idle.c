/*
 * idle N FDS [HZ]
 *
 * N processes that hold exactly FDS descriptors each. Without HZ they sleep;
 * with it each wakes HZ times a second, at an offset of its own, and does a few
 * system calls so that its CPU, I/O and context switch counters move.
 *
 * Prints the PID of each, one a line, then "ready". Ends and reaps them
 * all at the end of stdin; they also die with their parent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NSEC = 1000000000 };

static void hold(int fds)
{
	close_range(0, ~0U, 0);
	for (int fd = 0; fd < fds; fd++)
		if (open("/dev/null", O_RDWR) != fd)
			_exit(1);
}

/* open is one more descriptor, for as long as work takes. */
static void work(void)
{
	char block[512];
	int fd = open("/dev/zero", O_RDONLY);

	if (fd < 0 || read(fd, block, sizeof block) != sizeof block)
		_exit(1);
	close(fd);
	if (write(0, block, sizeof block) != sizeof block)
		_exit(1);
}

static void wake(int index, int n, int hz)
{
	long period = NSEC / hz;
	struct timespec next;

	clock_gettime(CLOCK_MONOTONIC, &next);
	next.tv_nsec += (long)((double)period * index / n);
	for (;;) {
		while (next.tv_nsec >= NSEC) {
			next.tv_nsec -= NSEC;
			next.tv_sec++;
		}
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
			;
		work();
		next.tv_nsec += period;
	}
}

static void child(int index, int n, int fds, int hz)
{
	char comm[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(comm, sizeof comm, "%s%d", hz ? "busy" : "idle", index % 10);
	prctl(PR_SET_NAME, comm);
	hold(fds);
	if (hz)
		wake(index, n, hz);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: idle N FDS [HZ]\n");
		return 2;
	}
	int n = atoi(argv[1]), fds = atoi(argv[2]), hz = argc > 3 ? atoi(argv[3]) : 0;
	pid_t *pids = calloc(n + 1, sizeof *pids);
	char block[64];

	for (int i = 0; i < n; i++) {
		pids[i] = fork();
		if (pids[i] < 0) {
			perror("idle: fork");
			return 1;
		}
		if (pids[i] == 0)
			child(i, n, fds, hz);
	}
	for (int i = 0; i < n; i++)
		printf("%d\n", pids[i]);
	printf("ready\n");
	fflush(stdout);
	while (read(0, block, sizeof block) > 0)
		;
	for (int i = 0; i < n; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
