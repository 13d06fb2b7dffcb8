//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package job

import "syscall"

// guarded can do nothing here.
func guarded(a *syscall.SysProcAttr) *syscall.SysProcAttr { return a }

// adopt leaves orphans to init.
func adopt() {}
