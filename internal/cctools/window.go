package cctools

// CoresWindowSeconds is the window over which cctools takes the peak of cores.
const CoresWindowSeconds = 180

// point is a counter at an instant.
type point struct{ seconds, value float64 }

// slide adds a point and drops those that are older than the window, but for two.
func slide(points []point, p point, window float64) []point {
	points = append(points, p)
	drop := 0
	for drop < len(points)-2 && points[drop].seconds+window < p.seconds {
		drop++
	}
	if drop > 0 {
		points = append(points[:0], points[drop:]...)
	}
	return points
}

// CoresWindow tells the peak of cores as cctools does: CPU seconds over the last
// three minutes, per second. In the first three minutes it divides by three minutes
// all the same, so that a short burst breaks no limit, but one of many cores does.
// The zero value is ready; times must not go back.
type CoresWindow struct{ points []point }

// Add takes the job's CPU seconds at a time in seconds since its start, and returns
// the cores of the window that ends there.
func (w *CoresWindow) Add(seconds, cpuSeconds float64) float64 {
	if len(w.points) == 0 {
		w.points = append(w.points, point{})
	}
	w.points = slide(w.points, point{seconds, cpuSeconds}, CoresWindowSeconds)
	wall := max(seconds-w.points[0].seconds, CoresWindowSeconds)
	return max(0, cpuSeconds-w.points[0].value) / wall
}

// The window of bandwidth, and the least time that it is divided by.
const (
	bandwidthWindowSeconds = 60
	bandwidthMinSeconds    = 10
)

// BandwidthWindow tells the job's bandwidth as cctools does: what it sent and
// received in the last minute in Mbps (10^6 bits a second), divided by no less than
// ten seconds. The zero value is ready; times must not go back.
type BandwidthWindow struct{ points []point }

// Add takes the bytes that the job has sent and received in all at a time in seconds
// since its start, and returns the bandwidth of the window that ends there.
func (w *BandwidthWindow) Add(seconds float64, bytes uint64) float64 {
	if len(w.points) == 0 {
		w.points = append(w.points, point{})
	}
	w.points = slide(w.points, point{seconds, float64(bytes)}, bandwidthWindowSeconds)
	first := w.points[0]
	return max(0, float64(bytes)-first.value) * 8 / 1e6 / max(seconds-first.seconds, bandwidthMinSeconds)
}
