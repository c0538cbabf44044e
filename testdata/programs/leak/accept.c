/* Serves TCP on loopback and forgets to close a connection on one error path: that
 * of a request which begins with "b". It says its port, and, when its input ends, how
 * many connections it forgot. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int forgotten;

__attribute__((noinline)) int next_connection(int listener)
{
	return accept(listener, NULL, NULL); /* LEAK tcp4 */
}

__attribute__((noinline)) void answer(int connection)
{
	char request[64];
	ssize_t n = read(connection, request, sizeof request);
	if (n > 0 && request[0] == 'b') {
		forgotten++;
		return; /* the error path */
	}
	if (n > 0 && write(connection, "ok\n", 3) != 3)
		perror("write");
	close(connection);
}

int main(void)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof a;
	if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 128) ||
	    getsockname(listener, (struct sockaddr *)&a, &size)) {
		perror("listen");
		return 1;
	}
	printf("%d\nready\n", ntohs(a.sin_port));
	fflush(stdout);
	struct pollfd fds[] = { { .fd = 0, .events = POLLIN }, { .fd = listener, .events = POLLIN } };
	for (;;) {
		poll(fds, 2, -1);
		char line[16];
		if (fds[0].revents) {
			if (read(0, line, sizeof line) <= 0)
				return 0;
			printf("%d\n", forgotten);
			fflush(stdout);
		}
		if (fds[1].revents)
			answer(next_connection(listener));
	}
}
