//go:build !linux

package consulproc

import "syscall"

func endWithParent() *syscall.SysProcAttr { return nil }
