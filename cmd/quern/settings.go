package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// settings is the YAML file of "quern serve": flat, with the flags' names. It
// is a resolver of the parser, which asks it for flags that stand neither on
// the command line nor, by the check below, in the environment.
type settings struct {
	path   string
	values map[string]string
}

// notInFile are the flags that a file cannot set.
var notInFile = []string{"help", "config"}

// load reads the file that an arranged command line or the environment names.
func (s *settings) load(root *kong.Node, args []string, lookup func(string) (string, bool)) error {
	if len(args) == 0 || args[0] != "serve" {
		return nil
	}
	s.path, _ = lookup("QUERN_CONFIG")
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if path, ok := strings.CutPrefix(arg, "--config="); ok {
			s.path = path
		}
	}
	if s.path == "" {
		return nil
	}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("--config %s: there is no such file", s.path)
	} else if err != nil {
		return fmt.Errorf("--config %s: %w", s.path, err)
	}
	return s.parse(text, child(root, "serve"))
}

func (s *settings) parse(text []byte, serve *kong.Node) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return usagef("--config %s: not YAML: %s", s.path, strings.TrimSpace(err.Error()))
	}
	s.values = make(map[string]string)
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		entries, ok := doc.Body.(*ast.MappingNode)
		if !ok {
			return usagef("--config %s: want lines of the form \"flag: value\"", s.path)
		}
		for _, e := range entries.Values {
			if err := s.entry(e, serve); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *settings) entry(e *ast.MappingValueNode, serve *kong.Node) error {
	name, line := e.Key.GetToken().Value, e.Key.GetToken().Position.Line
	known := slices.ContainsFunc(serve.Flags, func(f *kong.Flag) bool {
		return f.Name == name && !slices.Contains(notInFile, name)
	})
	if !known {
		return usagef("--config %s: line %d: unknown key %q", s.path, line, name)
	}
	if _, twice := s.values[name]; twice {
		return usagef("--config %s: line %d: %q stands there twice", s.path, line, name)
	}
	scalar, ok := e.Value.(ast.ScalarNode)
	if !ok || e.Value.Type() == ast.NullType {
		return usagef("--config %s: line %d: %q needs one value", s.path, line, name)
	}
	s.values[name] = fmt.Sprint(scalar.GetValue())
	return nil
}

// Validate implements kong.Resolver.
func (s *settings) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (s *settings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	value, ok := s.values[flag.Name]
	if !ok || slices.ContainsFunc(flag.Envs, func(name string) bool { _, set := os.LookupEnv(name); return set }) {
		return nil, nil //nolint:nilnil // kong's way to say that it is not set here
	}
	return value, nil
}

// strangers are the variables that begin with QUERN_ and mean nothing here.
func strangers(serve *kong.Node, environ []string) []string {
	known := []string{"QUERN_ADDR", "QUERN_FENCING_TOKEN", "QUERN_REQUIRE_SERVICES"}
	for _, f := range serve.Flags {
		known = append(known, f.Envs...)
	}
	var out []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "QUERN_") && !slices.Contains(known, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
