package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// arrange puts a command line into the order that the parser wants: commands,
// flags, "--", arguments. With it flags may stand anywhere, and a negative
// number is an argument or a flag's value and never a flag: what begins with a
// hyphen and a digit cannot be one, since no flag is named by a digit.
//
// What follows a "--" of the user's is arguments only.
func arrange(root *kong.Node, args []string) []string {
	var flags, rest []string
	takes := valueFlags(root)
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case !isFlag(arg):
			rest = append(rest, arg)
		case takes[arg] && i+1 < len(args) && !isFlag(args[i+1]) && args[i+1] != "--":
			flags = append(flags, arg+"="+args[i+1])
			i++
		default:
			flags = append(flags, arg)
		}
	}
	words := 0
	for node := root; words < len(rest); words++ {
		if node = child(node, rest[words]); node == nil {
			break
		}
	}
	out := append(rest[:words:words], flags...)
	if words < len(rest) {
		out = append(append(out, "--"), rest[words:]...)
	}
	return out
}

// isFlag says whether an argument is a flag: a hyphen alone and a negative
// number are not.
func isFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	digits := strings.TrimPrefix(arg[1:], ".")
	return digits == "" || digits[0] < '0' || digits[0] > '9'
}

// valueFlags are the flags of all commands that take a value, as they are
// written. A name has one meaning in all commands; a test sees to it.
func valueFlags(node *kong.Node) map[string]bool {
	takes := make(map[string]bool)
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if !f.IsBool() {
				takes["--"+f.Name] = true
			}
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(node)
	return takes
}

func child(node *kong.Node, name string) *kong.Node {
	for _, c := range node.Children {
		if c.Type == kong.CommandNode && c.Name == name {
			return c
		}
	}
	return nil
}

// wantsJSON looks for --json in a command line that perhaps does not parse.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}
