package main

type lockCommands struct {
	Watch lockWatchCommand `cmd:"" help:"Print who holds a lock and each change of that, until it is interrupted."`
}
