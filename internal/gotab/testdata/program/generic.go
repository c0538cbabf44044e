//go:build go1.18
// +build go1.18

package main

func apply[T any](list []T, f func(T) int) (sum int) {
	for _, v := range list {
		sum += f(v)
	}
	return sum
}

type stack[T any] struct{ items []T }

func (s *stack[T]) each(f func(T)) {
	for _, v := range s.items {
		f(v)
	}
}

func generics() {
	apply([]string{"a"}, func(string) int { return leaf(0) })
	(&stack[int]{[]int{1}}).each(func(int) { leaf(0) })
}
