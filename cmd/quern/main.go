// Command quern runs a node, talks to one and measures it. See "quern --help".
package main

import (
	"context"
	"os"
)

func main() {
	tuneGC()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
