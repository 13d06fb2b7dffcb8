// Package machine tells what the machine has.
package machine
