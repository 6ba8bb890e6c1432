package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds, as docs/performance.md states them.
const (
	untarFactorMax   = 2.0
	syncFactorMax    = 2.0
	bulkShareMin     = 0.5
	idleBytesMax     = 150 << 20
	idleCPUMax       = 0.04
	mountExtraMax    = 100 << 20
	restartMax       = 10 * time.Second
	mountCacheBytes  = 256 << 20
	idleWatch        = 20 * time.Second
	syncWrites       = 1500
	bulkBytes        = 1 << 30
	memoryBytes      = 4 << 30
	mebi             = 1 << 20
	restartLogMiB    = 1024
	restartFileBytes = 4096
	warmBytes        = 512 << 20 // what bench/bareraft writes before it measures, too
)

// sourceTar makes a tar of the Go source tree once; it is read from the page cache.
func sourceTar(c config) (string, error) {
	path := filepath.Join(c.dir, "src.tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("tar", "-C", strings.TrimSpace(string(root)), "-cf", path, "src").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	return path, nil
}

// untar unpacks the tar in a new directory of mnt and fsyncs the root; then it removes it, untimed.
func untar(tar, mnt string) (time.Duration, error) {
	dir := filepath.Join(mnt, "untar")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	start := time.Now()
	if out, err := exec.Command("tar", "-C", dir, "-xf", tar).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("tar: %w\n%s", err, out)
	}
	if err := fsync(mnt); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, os.RemoveAll(dir)
}

func benchUntar(c config) (r []result, err error) {
	tar, err := sourceTar(c)
	if err != nil {
		return nil, err
	}
	d, err := startDev(c, "untar")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	var ours, theirs []time.Duration
	err = withLoopback(c.dir, func(mnt string) error {
		for range c.rounds {
			took, err := untar(tar, d.mnt)
			if err != nil {
				return err
			}
			ours = append(ours, took)
			if took, err = untar(tar, mnt); err != nil {
				return err
			}
			theirs = append(theirs, took)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	factor := float64(median(ours)) / float64(median(theirs))
	return []result{{"unpack the Go source tree", fmt.Sprintf("%.2f x (%s)", factor, timesText(ours)),
		"go-fuse loopback mount of a local directory: " + timesText(theirs), fmt.Sprintf("at most %.0f x", untarFactorMax), factor <= untarFactorMax}}, nil
}

// syncedWrites is the median of some 4 KiB writes to the file at path, each with its fdatasync.
func syncedWrites(path string) (time.Duration, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	block := bytes.Repeat([]byte{7}, 4096)
	var times []time.Duration
	for i := range syncWrites {
		start := time.Now()
		if _, err := f.WriteAt(block, int64(i%256)*4096); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	return median(times), nil
}

func benchSync(c config) (r []result, err error) {
	b, err := bare(c)
	if err != nil {
		return nil, err
	}
	d, err := startDev(c, "sync")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	if err := warm(d.mnt); err != nil {
		return nil, err
	}
	var millis []float64
	for range c.rounds {
		took, err := syncedWrites(filepath.Join(d.mnt, "file"))
		if err != nil {
			return nil, err
		}
		millis = append(millis, float64(took)/1e6)
	}
	factor := median(millis) / b.oneMillis
	return []result{{"4 KiB write + fdatasync, median", fmt.Sprintf("%.2f ms = %.2f x (%.2f)", median(millis), factor, millis),
		fmt.Sprintf("bare raft on the same log, the median of as many rounds: %.2f ms", b.oneMillis), fmt.Sprintf("at most %.0f x", syncFactorMax), factor <= syncFactorMax}}, nil
}

// warm writes and removes what the yardstick writes before it measures: the log has segments to use again then.
func warm(mnt string) error {
	if _, err := writeFile(mnt, "warm", warmBytes); err != nil {
		return err
	}
	return removeSynced(mnt, "warm")
}

// removeSynced removes a file and fsyncs the root.
func removeSynced(mnt, name string) error {
	if err := os.Remove(filepath.Join(mnt, name)); err != nil {
		return err
	}
	return fsync(mnt)
}

// writeFile writes n bytes in 1 MiB pieces and fsyncs the file and the root.
func writeFile(mnt, name string, n int64) (time.Duration, error) {
	piece := bytes.Repeat([]byte("dfs bench "), mebi/10+1)[:mebi]
	start := time.Now()
	f, err := os.Create(filepath.Join(mnt, name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for done := int64(0); done < n; done += mebi {
		if _, err := f.Write(piece); err != nil {
			return 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := fsync(mnt); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func benchBulk(c config) (r []result, err error) {
	b, err := bare(c)
	if err != nil {
		return nil, err
	}
	d, err := startDev(c, "bulk")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	if err := warm(d.mnt); err != nil {
		return nil, err
	}
	var rates []float64
	for i := range c.rounds {
		name := fmt.Sprintf("big%d", i)
		took, err := writeFile(d.mnt, name, bulkBytes)
		if err != nil {
			return nil, err
		}
		rates = append(rates, float64(bulkBytes)/1e6/took.Seconds())
		if err := removeSynced(d.mnt, name); err != nil {
			return nil, err
		}
	}
	share := median(rates) / b.bulkMBPerSecond
	return []result{{"write 1 GiB in order + fsync", fmt.Sprintf("%.0f MB/s = %.2f (%.0f)", median(rates), share, rates),
		fmt.Sprintf("bare raft, 512 KiB entries: %.0f MB/s", b.bulkMBPerSecond), fmt.Sprintf("at least %.1f", bulkShareMin), share >= bulkShareMin}}, nil
}

func benchIdle(c config) (r []result, err error) {
	d, err := startDev(c, "idle")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	time.Sleep(10 * time.Second) // elections and first checkpoints are over
	before := map[int]time.Duration{}
	for _, pid := range d.pids() {
		if before[pid], err = cpu(pid); err != nil {
			return nil, err
		}
	}
	time.Sleep(idleWatch)
	var used time.Duration
	var memory int64
	for _, pid := range d.pids() {
		now, err := cpu(pid)
		if err != nil {
			return nil, err
		}
		used += now - before[pid]
		bytes, err := pss(pid)
		if err != nil {
			return nil, err
		}
		memory += bytes
	}
	share := float64(used) / float64(idleWatch)
	return []result{
		{"dfs dev idle: memory (PSS) of all processes", fmt.Sprintf("%d MiB", memory/mebi), "", "under 150 MB", memory < idleBytesMax},
		{"dfs dev idle: processor", fmt.Sprintf("%.1f%% of a core", 100*share), "", "under 4%", share < idleCPUMax},
	}, nil
}

func benchMemory(c config) (r []result, err error) {
	d, err := startDev(c, "memory", "--mount-option=--cache=256M")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	stop, most := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		for {
			select {
			case <-stop:
				most <- peak
				return
			case <-time.After(100 * time.Millisecond):
				if now, err := pss(d.state.MountPID); err == nil {
					peak = max(peak, now)
				}
			}
		}
	}()
	_, err = writeFile(d.mnt, "copy", memoryBytes)
	close(stop)
	peak := <-most
	if err != nil {
		return nil, err
	}
	extra := peak - mountCacheBytes
	return []result{{"memory of a mount (cache 256 MiB) while it copies 4 GiB", fmt.Sprintf("%d MiB", peak/mebi), "", "cache + 100 MB", extra <= mountExtraMax}}, nil
}

// benchRestart fills the log with 1 GiB, kills everything at once, and times the way back to the first read.
func benchRestart(c config) (r []result, err error) {
	d, err := startDev(c, "restart")
	if err != nil {
		return nil, err
	}
	defer func() { err = first(err, d.stop()) }()
	if err := os.WriteFile(filepath.Join(d.mnt, "first"), bytes.Repeat([]byte{1}, restartFileBytes), 0o644); err != nil {
		return nil, err
	}
	if _, err := writeFile(d.mnt, "fill", restartLogMiB*mebi); err != nil {
		return nil, err
	}
	d.kill()
	start := time.Now()
	if err := d.start(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(d.mnt, "first"))
	took := time.Since(start)
	if err != nil || len(b) != restartFileBytes {
		return nil, fmt.Errorf("the first read after the restart: %d bytes, %w", len(b), err)
	}
	return []result{{"start after kill -9 of all with 1 GiB just written, to the first read", took.Round(10 * time.Millisecond).String(), "", "under 10 s", took < restartMax}}, nil
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
