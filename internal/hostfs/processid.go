package hostfs

import (
	"fmt"
	"os"
	"strconv"

	"rmagent/internal/sample"
)

// ReadID reads who has a PID now.
func ReadID(pid int) (sample.ID, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	b, err := os.ReadFile(path)
	if err != nil {
		return sample.ID{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	start, ok := parseStart(b)
	if !ok {
		return sample.ID{}, fmt.Errorf("identify process %d: %s makes no sense", pid, path)
	}
	return sample.ID{PID: int32(pid), StartTicks: start}, nil
}
