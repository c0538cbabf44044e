/*
 * loop openclose|tcp MILLISECONDS
 * loop fork MILLISECONDS PROGRAM
 * loop burst COUNT MILLISECONDS PROGRAM
 * loop runs COUNT PROGRAM
 * loop opens COUNT
 *
 * The first three repeat one operation on one CPU, in batches, and print the
 * median batch: "cpu_ns WALL_ns N", nanoseconds for each operation. CPU time
 * holds that of the children too. burst starts PROGRAM COUNT times, evenly
 * spread, waits for each, and prints "COUNT USER+SYSTEM_ns" of the children, as
 * wait4 gives it. runs starts PROGRAM COUNT times, one after the other, opens opens
 * and closes a file as often; both print "CPU_ns WALL_ns" of all of it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 100, BATCHES = 100000 };

static const char *program;
static int ends[2];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long long now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long children_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}

static long long cpu_ns(void)
{
	return now_ns(CLOCK_PROCESS_CPUTIME_ID) + children_ns();
}

static void openclose(void)
{
	int fd = open("/dev/null", O_RDONLY);

	if (fd < 0)
		fail("open");
	close(fd);
}

static void tcp_connect(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (bind(listener, (struct sockaddr *)&a, len) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&a, &len))
		fail("listen");
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(ends[0], (struct sockaddr *)&a, len))
		fail("connect");
	ends[1] = accept(listener, NULL, NULL);
	setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void tcp(void)
{
	char message[MESSAGE] = {0};

	if (send(ends[0], message, sizeof message, 0) != MESSAGE ||
	    recv(ends[1], message, sizeof message, MSG_WAITALL) != MESSAGE)
		fail("send and recv");
}

static void run_program(void)
{
	char *argv[] = {(char *)program, NULL}, *envp[] = {NULL};
	int status;
	pid_t pid;

	if (posix_spawn(&pid, program, NULL, NULL, argv, envp))
		fail("spawn");
	if (waitpid(pid, &status, 0) < 0 || status)
		fail("wait");
}

/* pin keeps the loop on the last CPU it may use. */
static void pin(void)
{
	cpu_set_t allowed, one;

	sched_getaffinity(0, sizeof allowed, &allowed);
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--)
		if (CPU_ISSET(cpu, &allowed)) {
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			sched_setaffinity(0, sizeof one, &one);
			return;
		}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int n)
{
	qsort(values, n, sizeof *values, by_value);
	return values[n / 2];
}

static void repeat(void (*operation)(void), int batch, int milliseconds)
{
	static double cpu[BATCHES], wall[BATCHES];
	int n = 0;

	for (int i = 0; i < batch; i++)
		operation();
	for (long long end = now_ns(CLOCK_MONOTONIC) + milliseconds * 1000000LL;
	     n < BATCHES && now_ns(CLOCK_MONOTONIC) < end; n++) {
		long long c = cpu_ns(), w = now_ns(CLOCK_MONOTONIC);

		for (int i = 0; i < batch; i++)
			operation();
		cpu[n] = (double)(cpu_ns() - c) / batch;
		wall[n] = (double)(now_ns(CLOCK_MONOTONIC) - w) / batch;
	}
	printf("%.2f %.2f %d\n", median(cpu, n), median(wall, n), n * batch);
}

static void burst(int count, int milliseconds)
{
	long long before = children_ns(), start = now_ns(CLOCK_MONOTONIC);

	for (int i = 0; i < count; i++) {
		long long at = start + milliseconds * 1000000LL / count * i;
		struct timespec t = {at / 1000000000, at % 1000000000};

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		run_program();
	}
	printf("%d %lld\n", count, children_ns() - before);
}

/* all does an operation count times, on whatever CPU. */
static void all(void (*operation)(void), int count)
{
	long long c = cpu_ns(), w = now_ns(CLOCK_MONOTONIC);

	for (int i = 0; i < count; i++)
		operation();
	printf("%lld %lld\n", cpu_ns() - c, now_ns(CLOCK_MONOTONIC) - w);
}

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 5 && !strcmp(argv[1], "burst")) {
		program = argv[4];
		burst(atoi(argv[2]), atoi(argv[3]));
		return 0;
	}
	if (argc == 4 && !strcmp(argv[1], "runs")) {
		program = argv[3];
		all(run_program, atoi(argv[2]));
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "opens")) {
		all(openclose, atoi(argv[2]));
		return 0;
	}
	pin();
	if (argc == 3 && !strcmp(argv[1], "openclose")) {
		repeat(openclose, 2000, atoi(argv[2]));
	} else if (argc == 3 && !strcmp(argv[1], "tcp")) {
		tcp_connect();
		repeat(tcp, 500, atoi(argv[2]));
	} else if (argc == 4 && !strcmp(argv[1], "fork")) {
		program = argv[3];
		repeat(run_program, 10, atoi(argv[2]));
	} else {
		fprintf(stderr, "usage: loop openclose|tcp MS, loop fork MS PROGRAM, loop burst COUNT MS PROGRAM, loop runs COUNT PROGRAM, loop opens COUNT\n");
		return 2;
	}
	return 0;
}
