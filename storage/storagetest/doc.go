// Package storagetest is the conformance suite of actors.Store. A store's own
// tests call Run with a Target; what the suite asks is what the runtime relies
// on. What a store does when its disk or its server fails is for the store's own
// tests.
package storagetest
