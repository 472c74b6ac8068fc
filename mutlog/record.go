package mutlog

// RecordKey names a record of a store. Kind says what it is ("token"), Owner
// whose, and Name which one of those; the records of an owner stand together.
// Kind has at least one byte, and neither it nor Owner a NUL; all three
// together have at most 2,000 bytes.
type RecordKey struct{ Kind, Owner, Name string }

// Record is a small value, of at most 1 MiB, that a store keeps beside the logs.
type Record struct {
	RecordKey
	Value []byte
}
