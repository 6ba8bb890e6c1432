package assembly

import (
	"log/slog"
	"path/filepath"

	"dfs/blockstore/device"
	"dfs/blockstore/raftstore"
)

// Survivor is a stopped node's data directory, opened for a recovery.
type Survivor struct {
	*raftstore.Survivor
	device *device.Device
}

// OpenSurvivor opens the data directory of a stopped node; see raftstore.OpenSurvivor.
func OpenSurvivor(data string, log *slog.Logger) (*Survivor, error) {
	node, incarnation, err := raftstore.Identity(data)
	if err != nil {
		return nil, err
	}
	dev, err := device.Open(filepath.Join(data, "blocks"), device.Options{NodeID: string(node), ClusterID: incarnation, Logger: log})
	if err != nil {
		return nil, err
	}
	s, err := raftstore.OpenSurvivor(data, dev, log)
	if err != nil {
		_ = dev.Close()
		return nil, err
	}
	return &Survivor{Survivor: s, device: dev}, nil
}

// Close lets the directory go.
func (s *Survivor) Close() error {
	s.Survivor.Close()
	return s.device.Close()
}
