package htmlreport

import (
	"cmp"
	"slices"
)

// top keeps the greatest of what it is offered, so many and no more. Exact: what is
// not among the greatest now can't be later, because what is offered is final.
type top[T any] struct {
	limit int
	value func(T) float64 // by which they are ordered
	list  []T             // greatest first
}

func newTop[T any](limit int, value func(T) float64) *top[T] {
	return &top[T]{limit: limit, value: value}
}

// offer takes one. Of equals the first stays. What has no positive value is nothing
// to speak of.
func (t *top[T]) offer(x T) {
	v := t.value(x)
	if !(v > 0) || len(t.list) == t.limit && v <= t.value(t.list[len(t.list)-1]) {
		return
	}
	i, _ := slices.BinarySearchFunc(t.list, v, func(have T, v float64) int {
		if t.value(have) >= v {
			return -1
		}
		return cmp.Compare(v, t.value(have))
	})
	t.list = slices.Insert(t.list, i, x)
	if len(t.list) > t.limit {
		clear(t.list[t.limit:])
		t.list = t.list[:t.limit]
	}
}
