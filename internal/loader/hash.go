package loader

import (
	"crypto/sha256"
	"encoding/hex"
)

// ObjectHash is the SHA-256 over the BPF objects that this program carries, in
// hexadecimal.
func ObjectHash() string {
	h := sha256.New()
	for _, object := range [][]byte{_ScanBytes, _ScanIterBytes, _EventsBytes} {
		h.Write(object)
	}
	return hex.EncodeToString(h.Sum(nil))
}
