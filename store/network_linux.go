package store

import (
	"fmt"
	"path/filepath"
	"syscall"
)

// networkKinds are the kinds of file system, by the number that statfs gives,
// on which the locks or the mapped pages of a file are not those of one machine.
var networkKinds = map[uint32]string{
	0x00006969: "NFS",
	0x0000517b: "SMB",
	0xff534d42: "CIFS",
	0xfe534d42: "SMB",
	0x01021997: "9P",
	0x00c36400: "Ceph",
	0x5346414f: "AFS",
	0x73757245: "Coda",
}

// networkKind returns the kind of the network file system that path is to be on,
// or "" if it is on another.
func networkKind(path string) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &fs); err != nil {
		return "" // what opens it will tell
	}
	return networkKinds[uint32(fs.Type)]
}

// refuseNetwork returns an error if path is on a network file system.
func refuseNetwork(path string) error {
	if kind := networkKind(path); kind != "" {
		return fmt.Errorf("store %s: it is on a network file system (%s), which can lose what is written; --any-file-system accepts it", path, kind)
	}
	return nil
}
