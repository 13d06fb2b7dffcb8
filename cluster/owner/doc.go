// Package owner joins a node with its cluster.
package owner
