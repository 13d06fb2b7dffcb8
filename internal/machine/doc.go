// Package machine tells what the machine has, and what this process uses of it.
package machine
