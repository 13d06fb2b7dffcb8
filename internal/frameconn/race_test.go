//go:build race

package frameconn_test

const raced = true
