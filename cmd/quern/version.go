package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCommand struct {
	JSON bool `name:"json" help:"Print one line of JSON."`
}

// build is what the Go tool noted about this binary.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// Run prints the version. The parser wants an error of every command.
func (k *versionCommand) Run(a *app) error { //nolint:unparam // as above
	b := thisBuild()
	if k.JSON {
		a.printJSON(b)
		return nil
	}
	fmt.Fprintf(a.stdout, "quern %s (%s, %s)\n", b.Version, b.Go, b.Platform)
	return nil
}
