/* noop: ends at once. Linked statically, it lives a few hundred microseconds. */
int main(void)
{
	return 0;
}
