package main

import "syscall"

// endWithParent makes the kernel end a child with this process, however that
// ends: a check that goes on would hold the lock of the store.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// endWithParentApart is endWithParent for a child that has a process group of
// its own, as yieldToOthers needs it.
func endWithParentApart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// yieldToOthers gives this process group the lowest priority: on Linux a thread
// has a priority, and a group is what names them all.
func yieldToOthers() { _ = syscall.Setpriority(syscall.PRIO_PGRP, 0, 19) } // without it, it is as fast as others
