// Leaks ten descriptors a second in a member function, as leak.c does.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace store {

template <typename T>
class Cache {
public:
	__attribute__((noinline)) void open_entry(const T &path)
	{
		int fd = ::open(path.c_str(), O_RDONLY); // LEAK file
		if (fd < 0)
			throw std::runtime_error("open");
		entries.push_back(fd);
	}
	size_t size() const { return entries.size(); }

private:
	std::vector<int> entries;
};

struct Honest {
	virtual ~Honest() = default;
	__attribute__((noinline)) virtual void use(int n)
	{
		std::unique_ptr<FILE, int (*)(FILE *)> f(std::fopen("/etc/passwd", "r"), std::fclose);
		if (!f)
			throw std::runtime_error("fopen " + std::to_string(n));
	}
};

} // namespace store

int main()
{
	store::Cache<std::string> cache;
	auto honest = std::make_unique<store::Honest>();
	pollfd input{0, POLLIN, 0};
	bool leaking = false;
	std::puts("ready");
	std::fflush(stdout);
	for (;;) {
		if (poll(&input, 1, 100) == 0) {
			for (int n = 0; n < 20; n++)
				honest->use(n);
			if (leaking)
				cache.open_entry("/etc/hostname");
			continue;
		}
		char line[16];
		if (read(0, line, sizeof line) <= 0)
			return 0;
		if (leaking) {
			std::printf("%zu\n", cache.size());
			std::fflush(stdout);
		}
		leaking = !leaking;
	}
}
