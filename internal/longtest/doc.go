// Package longtest holds tests that take minutes. They are built with the tag
// long only, and run by `make test-long`; what has a short form runs as that
// with all others.
package longtest
