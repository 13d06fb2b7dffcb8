//go:build !linux

package clusterproc

import (
	"errors"
	"syscall"
)

var errNamespaces = errors.New("clusterproc: this system has no network namespaces")

// Entered says whether this process was started by Enter.
func Entered() bool { return false }

// Enter fails.
func Enter(...string) (int, error) { return 0, errNamespaces }

// Begin fails.
func Begin() error { return errNamespaces }

// Namespaces fails.
func Namespaces(int) (Network, error) { return nil, errNamespaces }

func endWithParent() *syscall.SysProcAttr { return nil }
