package fsck

import (
	"context"
	"log/slog"
	"reflect"
	"testing"

	"dfs/blockstore/device"
	"dfs/fs/layout"
	"dfs/wal"
)

// TestDevice checks the image on a real device: the same report, damage included.
func TestDevice(t *testing.T) {
	m := newImage(t)
	for _, damage := range []func(){
		func() {},
		func() { m.change(inoFile, func(in *layout.Inode) { in.Nlink = 2 }) },
	} {
		damage()
		dev, err := device.Open(t.TempDir(), device.Options{
			NodeID: "a", ClusterID: "c", Create: true, NoDirect: true, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		index := uint64(0)
		for a, b := range m.blocks {
			index++
			rec := &wal.Record{Ranges: []wal.Range{{Addr: a, Data: b}}, AllocDelta: 1}
			if err := dev.Apply(index, rec); err != nil {
				t.Fatal(err)
			}
		}
		used := uint64(len(m.blocks))
		got, err := Check(context.Background(), FromDevice(dev), Options{UsedBlocks: &used})
		if err != nil {
			t.Fatal(err)
		}
		if want := m.check(); !reflect.DeepEqual(got, want) {
			t.Errorf("on the device: %+v\nin memory: %+v", got, want)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
