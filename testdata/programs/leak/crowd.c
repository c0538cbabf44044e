/* At the first line of its input it opens as many descriptors as its second argument
 * says, and, if its first is "close", closes them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noinline)) int duplicate(void)
{
	int fd = dup(0);
	if (fd < 0) {
		perror("duplicate");
		exit(1);
	}
	return fd;
}

static int at_next_line(const char *say)
{
	char line[16];
	puts(say);
	fflush(stdout);
	return read(0, line, sizeof line) > 0;
}

int main(int argc, char **argv)
{
	if (argc != 3 || !at_next_line("ready"))
		return 1;
	for (int n = atoi(argv[2]); n > 0; n--)
		duplicate();
	if (argv[1][0] == 'c')
		closefrom(3);
	return !at_next_line("done");
}
