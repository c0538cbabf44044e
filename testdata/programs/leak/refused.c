/* Opens files and keeps them until its limit of 200 is reached, and then is refused 20
 * sockets at another place. It begins with the first line of its input. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

__attribute__((noinline)) int keep(void)
{
	int fd = open("/etc/hostname", O_RDONLY);
	if (fd < 0 && errno != EMFILE) /* and so this is no tail call */
		perror("open");
	return fd;
}

__attribute__((noinline)) int refused(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0); /* REFUSED */
	if (fd >= 0)
		fprintf(stderr, "it was not refused\n");
	return fd;
}

int main(void)
{
	struct rlimit limit = { 200, 200 };
	char line[16];
	if (setrlimit(RLIMIT_NOFILE, &limit)) {
		perror("setrlimit");
		return 1;
	}
	printf("ready\n");
	fflush(stdout);
	if (read(0, line, sizeof line) <= 0)
		return 1;
	int held = 0, fd;
	while ((fd = keep()) >= 0) {
		held++;
		usleep(50000); /* slowly enough to be seen to grow before it is full */
	}
	for (int i = 0; i < 20; i++)
		refused();
	printf("%d\n", held);
	fflush(stdout);
	return read(0, line, sizeof line) < 0;
}
