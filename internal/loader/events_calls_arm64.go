package loader

// oldFDCalls: this architecture has none.
var oldFDCalls map[int]uint8
