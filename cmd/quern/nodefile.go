package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// nodeFileName stands in a running node's data folder and says how to reach it.
const (
	nodeFileName = "node.json"
	nodeFileTemp = "node.json.new"
)

type nodeFile struct {
	Node string `json:"node"`
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	PID  int    `json:"pid"`
}

// write puts the file into its folder at once, over one that was left there.
func (f nodeFile) write(dir string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("writing %s: %w", nodeFileName, err)
	}
	temp := filepath.Join(dir, nodeFileTemp)
	if err := os.WriteFile(temp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // for others to read
		return fmt.Errorf("writing %s: %w", nodeFileName, err)
	}
	if err := os.Rename(temp, filepath.Join(dir, nodeFileName)); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", nodeFileName, err), os.Remove(temp))
	}
	return nil
}

// remove takes the file away, unless another process has written its own.
func (f nodeFile) remove(dir string) error {
	path := filepath.Join(dir, nodeFileName)
	text, err := os.ReadFile(path) //nolint:gosec // the operator's folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("removing %s: %w", nodeFileName, err)
	}
	var there nodeFile
	if json.Unmarshal(text, &there) == nil && there.PID != f.PID {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing %s: %w", nodeFileName, err)
	}
	return nil
}

// claimFolder makes the folder of a node that keeps nothing but node.json in
// it, and refuses one that holds anything else.
func claimFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("--data %s: cannot be made: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("--data %s: cannot be read: %w", dir, err)
	}
	for _, e := range entries {
		if name := e.Name(); name != nodeFileName && name != nodeFileTemp {
			return fmt.Errorf("--data %s: holds %s, which a node on this store did not make: name an empty folder", dir, name)
		}
	}
	return nil
}
