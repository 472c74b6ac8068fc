// Package backup makes backups of a bbolt store, in service or not, and puts
// them back.
//
// A backup is one file: the pages of a store, compacted, and a manifest behind
// them. It is itself a store that `tidemark check` reads. It appears under its
// name complete, verified and on disk, or not at all.
//
// A restored store is fenced: the time from the newest mutation that is still
// there to the restore is a gap of each log, and a device whose cursor lies in
// it is told (rule 17 of package mutlog).
package backup
