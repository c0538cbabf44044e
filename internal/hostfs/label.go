package hostfs

import "strings"

// containerOf returns the id of the innermost container that a cgroup path lies
// in: 64 hex digits as Docker, containerd, CRI-O and podman give, alone (cgroupfs
// driver) or behind the runtime's name (systemd driver: cri-containerd-ID.scope;
// containerd's older kubepods...:cri-containerd:ID). What watches a container
// (conmon) is not in it.
func containerOf(path string) string {
	for len(path) > 0 {
		i := strings.LastIndexByte(path, '/')
		name := strings.TrimSuffix(path[i+1:], ".scope")
		if id := trailingID(name); id != "" {
			return id
		}
		path = path[:max(i, 0)]
	}
	return ""
}

const idLength = 64

func trailingID(name string) string {
	if len(name) < idLength {
		return ""
	}
	runtime, id := name[:len(name)-idLength], name[len(name)-idLength:]
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	if runtime == "" {
		return id
	}
	last := runtime[len(runtime)-1]
	if last != '-' && last != ':' || strings.HasSuffix(runtime, "conmon-") {
		return ""
	}
	return id
}

// unitOf returns the innermost systemd service or scope of a cgroup path, as
// systemd wrote it.
func unitOf(path string) string {
	for len(path) > 0 {
		i := strings.LastIndexByte(path, '/')
		name := path[i+1:]
		if isUnit(name, ".service") || isUnit(name, ".scope") {
			return name
		}
		path = path[:max(i, 0)]
	}
	return ""
}

func isUnit(name, suffix string) bool {
	return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
}
