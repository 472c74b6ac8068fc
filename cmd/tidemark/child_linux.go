package main

import "syscall"

// endWithParent makes the kernel end a child with this process, however that
// ends: a check that goes on would hold the lock of the store.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
