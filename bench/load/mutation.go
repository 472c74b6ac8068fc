package load

// mutation appends one mutation of the current user.
func (d *syncDevice) mutation(b []byte) []byte {
	p := d.rnd.Float64()
	if d.created == 0 {
		p = 1
	}
	switch {
	case p < d.Updates:
		b = append(b, `{"type":"UPDATE","resource":"NOTE","resourceId":"`...)
		b = d.resource(b, d.rnd.Uint32N(d.created))
		b = append(b, `","data":`...)
		b = append(b, d.texts.Update(d.rnd)...)
	case p < d.Updates+d.Deletes:
		b = append(b, `{"type":"DELETE","resource":"NOTE","resourceId":"`...)
		b = d.resource(b, d.rnd.Uint32N(d.created))
		b = append(b, '"')
	default:
		b = append(b, `{"type":"CREATE","resource":"NOTE","resourceId":"`...)
		b = d.resource(b, d.created)
		b = append(b, `","data":`...)
		b = append(b, d.texts.Create(d.rnd)...)
		d.created++
	}
	return append(b, '}')
}

// resource appends the id of the n-th resource of the current user, which is a
// UUID that looks random. It follows from the seed, the user and n, so that
// millions of them need not be remembered.
func (d *syncDevice) resource(b []byte, n uint32) []byte {
	id := uint64(d.id())
	high := mix(d.Seed ^ mix(id<<32|uint64(n)))
	low := mix(high + id)
	const hex = "0123456789abcdef"
	for i := range 32 {
		nibble := high >> 60
		switch i {
		case 8, 16, 20:
			b = append(b, '-')
		case 12:
			b, nibble = append(b, '-'), 4 // version 4: random
		}
		if i == 16 {
			nibble = 8 | nibble&3 // the variant of RFC 9562
		}
		b = append(b, hex[nibble])
		if high <<= 4; i == 15 {
			high = low
		}
	}
	return b
}

// mix is the finaliser of SplitMix64: it spreads what differs in a few bits
// over all of them.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
