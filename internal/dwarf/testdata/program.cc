#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace outer {
namespace {
template <typename T, int N> struct box {
	T items[N];
	T sum() const
	{
		T s{};
		for (const T &t : items)
			s += t;
		return s;
	}
	template <typename F> void each(F f) const
	{
		for (const T &t : items)
			f(t);
	}
};
} // namespace

class shape {
      public:
	virtual ~shape() = default;
	virtual double area() const = 0;
	bool operator<(const shape &o) const { return area() < o.area(); }
};

class square : public shape {
	double side;

      public:
	explicit square(double s) : side(s) {}
	double area() const override { return side * side; }
};

template <typename T> T biggest(const std::vector<T> &v)
{
	return *std::max_element(v.begin(), v.end());
}
} // namespace outer

static int visit(const std::string &name, const std::function<int(int)> &f)
{
	std::map<std::string, int> counts;
	for (int i = 0; i < 10; i++)
		counts[name + std::to_string(i)] += f(i);
	return counts.size();
}

int main(int argc, char **)
{
	outer::box<int, 3> b{{1, 2, argc}};
	int total = b.sum();
	b.each([&total](int i) { total += i; });
	std::vector<std::unique_ptr<outer::shape>> shapes;
	for (int i = 0; i < argc; i++)
		shapes.push_back(std::make_unique<outer::square>(i));
	std::sort(shapes.begin(), shapes.end(), [](const auto &a, const auto &b) { return *a < *b; });
	std::cout << outer::biggest(std::vector<int>{1, 3, 2}) << visit("x", [=](int i) {
		return i * total;
	}) << "\n";
	return 0;
}
