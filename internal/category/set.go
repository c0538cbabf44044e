package category

import (
	"fmt"
	"maps"
	"slices"

	"rmagent/internal/cctools"
)

// Set has categories by name. It is not safe for use by several goroutines.
type Set struct {
	byName map[string]*Category
	all    *Category
}

// NewSet returns a Set without jobs.
func NewSet() *Set { return &Set{byName: map[string]*Category{}, all: newCategory(All)} }

// Add takes the summary of a job into its category, and into that of all.
func (s *Set) Add(summary *cctools.Summary) error {
	name := summary.Category
	switch name {
	case All:
		return fmt.Errorf("category %s is that of all jobs: no job may name it", All)
	case "":
		name = Default
	}
	c := s.byName[name]
	if c == nil {
		c = newCategory(name)
		s.byName[name] = c
	}
	c.add(summary)
	s.all.add(summary)
	return nil
}

// Names returns the categories' names in order, that of all jobs last.
func (s *Set) Names() []string { return append(slices.Sorted(maps.Keys(s.byName)), All) }

// Get returns the category of that name, or nil if it has no job.
func (s *Set) Get(name string) *Category {
	if name == All {
		return s.all
	}
	return s.byName[name]
}
