// Package arch holds no code. Its tests fail when a package imports against
// the direction drawn in docs/architecture.md.
package arch
