//go:build !linux

package main

import "syscall"

func endWithParent() *syscall.SysProcAttr { return nil }

func endWithParentApart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func yieldToOthers() {}
