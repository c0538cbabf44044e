package held

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"rmagent/internal/sample"
)

// Group is descriptors that belong together: opened at one site, of one kind, with
// targets that are equal or alike.
type Group struct {
	Site   int32 // the caller's number
	Kind   sample.FDKind
	Target string // empty: none, or they differ in everything; ends with * where they begin alike
	FDs    []int32
}

// alike is how many different targets of a site and kind are shown one by one.
const alike = 3

// Groups puts together what a process holds, the largest groups first. site gives
// each descriptor its site.
func Groups(fds []FD, site func(*FD) int32) []Group {
	type key struct {
		site int32
		kind sample.FDKind
	}
	members := map[key][]int32{}
	for i := range fds {
		k := key{site(&fds[i]), fds[i].Kind}
		members[k] = append(members[k], int32(i))
	}
	var groups []Group
	for k, list := range members {
		for _, g := range byTarget(fds, list) {
			g.Site, g.Kind = k.site, k.kind
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.FDs), len(a.FDs)), cmp.Compare(a.Site, b.Site),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Target, b.Target))
	})
	return groups
}

// byTarget splits descriptors of one site and kind where they have few targets, or
// targets that many share; the rest is one group.
func byTarget(fds []FD, list []int32) []Group {
	targets := sockets(fds, list)
	by := map[string][]int32{}
	for j, i := range list {
		by[targets[j]] = append(by[targets[j]], i)
	}
	var groups []Group
	var rest []string
	var others []int32
	for target, members := range by {
		if len(by) <= alike || len(members) > 1 && len(members)*10 >= len(list) {
			groups = append(groups, Group{Target: target, FDs: members})
			continue
		}
		rest = append(rest, target)
		others = append(others, members...)
	}
	if len(others) > 0 {
		slices.Sort(others)
		groups = append(groups, Group{Target: pattern(rest), FDs: others})
	}
	return groups
}

// pattern is what targets have in common at their beginning, with a *; empty where
// that says nothing.
func pattern(targets []string) string {
	if len(targets) == 1 {
		return targets[0]
	}
	least, most := slices.Min(targets), slices.Max(targets)
	n := 0
	for n < len(least) && n < len(most) && least[n] == most[n] {
		n++
	}
	if strings.Trim(least[:n], "/") == "" {
		return ""
	}
	return least[:n] + "*"
}

// sockets gives the targets of descriptors. A connected socket's is its peer; where
// many have one local address, they were accepted there.
func sockets(fds []FD, list []int32) []string {
	local := map[netip.AddrPort]int{}
	for _, i := range list {
		if f := &fds[i]; f.Remote.IsValid() {
			local[f.Local]++
		}
	}
	targets := make([]string, len(list))
	for j, i := range list {
		f := &fds[i]
		switch {
		case f.Target != "":
			targets[j] = f.Target
		case f.Listening:
			targets[j] = "listening on " + f.Local.String()
		case f.Remote.IsValid() && local[f.Local] > 1:
			targets[j] = localText(f.Local) + " from " + f.Remote.Addr().String()
		case f.Remote.IsValid():
			targets[j] = f.Remote.String()
		case f.Local.IsValid():
			targets[j] = f.Local.String()
		}
	}
	return targets
}

// localText is a local address. The kernel takes the port from a connection that has come
// to its end, though somebody still holds it (tcp_done).
func localText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
