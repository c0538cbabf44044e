package human

import "testing"

func TestBytes(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 150 << 20: "150 MiB", 5 << 30: "5.0 GiB", 1 << 62: "4096 PiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%v bytes: %q, want %q", n, got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0 s", 52: "52 s", 119: "119 s", 120: "2 min", 7300: "2 h", 3 * 86400: "3 days", 1e12: "over a year",
	} {
		if got := Seconds(n); got != want {
			t.Errorf("%v seconds: %q, want %q", n, got, want)
		}
	}
}

func TestPercent(t *testing.T) {
	for ratio, want := range map[float64]string{0: "0%", 0.0001: "<1%", 0.5: "50%", 0.9999: "99%", 1: "100%"} {
		if got := Percent(ratio); got != want {
			t.Errorf("%v: %s", ratio, got)
		}
	}
}
