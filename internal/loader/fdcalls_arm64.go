package loader

// oldTracedCalls: this architecture has none.
var oldTracedCalls map[int]uint8

// compatCalls: what 32-bit callers open has no stamp here.
func compatCalls() (c [fdCalls]uint8) { return c }
