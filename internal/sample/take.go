package sample

// Take copies the fields of fs that from knows into p, and marks them known.
func (p *Process) Take(from *Process, fs FieldSet) {
	fs &= from.Known
	for f := range NumFields {
		if !fs.Has(f) {
			continue
		}
		switch f {
		case PPID:
			p.PPID = from.PPID
		case NSPID:
			p.NSPID = from.NSPID
		case UID:
			p.UID = from.UID
		case State:
			p.State = from.State
		default:
			at := f.Info().At
			*at(p) = *at(from)
		}
	}
	p.Known |= fs
	p.Since = 0 // it is no longer as its reader had it
}
