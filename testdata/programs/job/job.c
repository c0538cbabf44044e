// job MODE ARG... does what is known beforehand, to be measured: see main. With the
// compiler's -static it is the same program without libraries.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const size_t MIB = 1 << 20;

static long arg(char **argv, int i) { return argv[i] ? atol(argv[i]) : 0; }

static void sleep_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&t, &t))
		;
}

static char *touch(size_t bytes)
{
	char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return p;
}

// memory MIB MS: holds so much for so long, and gives it back.
static void memory(char **argv)
{
	size_t bytes = arg(argv, 2) * MIB;
	char *p = touch(bytes);

	sleep_ms(arg(argv, 3));
	munmap(p, bytes);
	sleep_ms(arg(argv, 4));
}

// ramp MIB_A_SECOND MIB: grows steadily.
static void ramp(char **argv)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (long have = 0; have < arg(argv, 3);) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		double s = now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9;
		for (; have < s * arg(argv, 2); have++)
			touch(MIB);
		sleep_ms(2);
	}
}

// cow MIB MS: a child changes half of what it shares with its parent.
static void cow(char **argv)
{
	size_t bytes = arg(argv, 2) * MIB;
	char *p = touch(bytes), c;
	int done[2];

	if (pipe(done))
		err(1, "pipe");
	if (fork() == 0) {
		for (size_t i = 0; i < bytes / 2; i += 4096)
			p[i] = 2;
		close(done[1]);
		sleep_ms(arg(argv, 3));
		_exit(0);
	}
	close(done[1]);
	if (read(done[0], &c, 1) == 0)
		sleep_ms(arg(argv, 3));
	wait(0);
}

// shared MIB MS N: N processes use the same shared memory.
static void shared(char **argv)
{
	size_t bytes = arg(argv, 2) * MIB;
	char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (int n = 1; n < arg(argv, 4); n++)
		if (fork() == 0)
			break;
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	sleep_ms(arg(argv, 3));
	while (wait(0) > 0)
		;
}

// write FILE MIB; read FILE MIB
static void file(char **argv, int writes)
{
	static char buffer[1 << 16];
	int fd = open(argv[2], writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0600);

	if (fd < 0)
		err(1, "%s", argv[2]);
	for (size_t left = arg(argv, 3) * MIB; left;) {
		ssize_t n = writes ? write(fd, buffer, sizeof buffer) : read(fd, buffer, sizeof buffer);
		if (n <= 0)
			err(1, "%s", argv[2]);
		left -= n;
	}
}

static struct sockaddr_in peer = { .sin_family = AF_INET };
static size_t share;

static void *talk(void *unused)
{
	static char out[1 << 14];
	char in[1 << 14];
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	size_t sent = 0, got = 0;

	if (connect(fd, (void *)&peer, sizeof peer))
		err(1, "connect");
	while (sent < share) {
		ssize_t n = send(fd, out, sizeof out < share - sent ? sizeof out : share - sent, 0);
		if (n <= 0)
			err(1, "send");
		sent += n;
	}
	shutdown(fd, SHUT_WR);
	while (got < share) {
		ssize_t n = recv(fd, in, sizeof in, 0);
		if (n <= 0)
			err(1, "recv");
		got += n;
	}
	close(fd);
	return unused;
}

// tcp PORT MIB THREADS: so much there and back, by so many threads.
static void tcp(char **argv)
{
	pthread_t t[16];
	int n = arg(argv, 4);

	peer.sin_port = htons(arg(argv, 2));
	peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	share = arg(argv, 3) * MIB / n;
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], 0, talk, 0);
	for (int i = 0; i < n; i++)
		pthread_join(t[i], 0);
}

static double cpu_each;

static void *burn(void *unused)
{
	struct timespec t;

	do
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	while (t.tv_sec + t.tv_nsec / 1e9 < cpu_each);
	return unused;
}

// cpu MS THREADS: so much CPU time, by so many threads.
static void cpu(char **argv)
{
	pthread_t t[16];
	int n = arg(argv, 3);

	cpu_each = arg(argv, 2) / 1000.0 / n;
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], 0, burn, 0);
	for (int i = 0; i < n; i++)
		pthread_join(t[i], 0);
}

// tree ROUNDS CHILDREN MS: in each round so many children live so long, together.
static void tree(char **argv)
{
	int gate[2];

	for (long round = 0; round < arg(argv, 2); round++) {
		if (pipe(gate))
			err(1, "pipe");
		for (long i = 0; i < arg(argv, 3); i++)
			if (fork() == 0) {
				char c;

				close(gate[1]);
				if (read(gate[0], &c, 1) == 0) // until all are there
					sleep_ms(arg(argv, 4));
				_exit(0);
			}
		close(gate[0]);
		close(gate[1]);
		while (wait(0) > 0)
			;
	}
}

// files N MS: so many descriptors at once, in all.
static void files(char **argv)
{
	long n = arg(argv, 2);

	for (long fd = 3; fd < n; fd++)
		if (dup2(0, fd) < 0)
			err(1, "dup2");
	sleep_ms(arg(argv, 3));
}

// stay N: so many processes that end for nothing but SIGKILL, a daemon among them.
static void stay(char **argv)
{
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (long i = 1; i < arg(argv, 2); i++)
		if (fork() == 0) {
			if (i == 1) {
				setsid();
				if (fork())
					_exit(0);
			}
			break;
		}
	for (;;)
		pause();
}

// bomb N: as many processes as that, each of which forks another as soon as it may.
// The limit does not hold for root, so nobody does it.
static void bomb(char **argv)
{
	struct rlimit most = { arg(argv, 2), arg(argv, 2) };

	if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
		err(1, "setuid");
	signal(SIGTERM, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	if (setrlimit(RLIMIT_NPROC, &most))
		err(1, "setrlimit");
	alarm(20); // whatever happens
	for (;;)
		if (fork() == 0)
			alarm(20);
}

// hop: a process that forks its successor and ends, again and again, for a while.
static void hop(void)
{
	time_t end = time(0) + 20;

	signal(SIGTERM, SIG_IGN);
	while (time(0) < end)
		if (fork())
			_exit(0);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (!strcmp(mode, "memory"))
		memory(argv);
	else if (!strcmp(mode, "ramp"))
		ramp(argv);
	else if (!strcmp(mode, "cow"))
		cow(argv);
	else if (!strcmp(mode, "shared"))
		shared(argv);
	else if (!strcmp(mode, "write"))
		file(argv, 1);
	else if (!strcmp(mode, "read"))
		file(argv, 0);
	else if (!strcmp(mode, "tcp"))
		tcp(argv);
	else if (!strcmp(mode, "cpu"))
		cpu(argv);
	else if (!strcmp(mode, "tree"))
		tree(argv);
	else if (!strcmp(mode, "files"))
		files(argv);
	else if (!strcmp(mode, "stay"))
		stay(argv);
	else if (!strcmp(mode, "bomb"))
		bomb(argv);
	else if (!strcmp(mode, "hop"))
		hop();
	else if (*mode)
		errx(2, "no mode is called %s", mode);
	return 0;
}
