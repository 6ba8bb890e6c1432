package raftstore

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more tests run beside each other than there are cores: they mostly wait for elections.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
