package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of several mounts, as docs/performance.md states them.
const (
	besideFactorMax = 1.05
	walkFactorMax   = 3.0
	pingRateMin     = 300.0
	handOverMax     = 20 * time.Millisecond
	appendMax       = 3 * time.Second

	besidePairs  = 15 // of rounds alone and beside
	besideSettle = time.Second
	besideSyncs  = 600
	besideFiles  = 1500
	cachedRounds = 100
	walkDirs     = 100
	walkFiles    = 10_000
	pingRounds   = 2000
	appendMounts = 4
	appenders    = 100
	appendEach   = 190
)

// benchBeside compares one mount's figures with and without a second, idle mount. Rounds alternate, and so does which
// of a pair comes first, so that a machine that gets slower or faster meanwhile changes both sides; each pair is compared, and the
// median pair told.
func benchBeside(c config) ([]result, error) {
	return withFarm(c, "beside", 1, func(f *farm) ([]result, error) {
		if _, _, err := besideRound(f.mounts[0].dir); err != nil { // warm up
			return nil, err
		}
		var sync, files [2][]time.Duration // alone and beside
		for pair := range besidePairs {
			for turn := range 2 {
				i := (pair + turn) % 2
				s, n, err := besideMeasure(f, i == 1)
				if err != nil {
					return nil, err
				}
				sync[i], files[i] = append(sync[i], s), append(files[i], n)
			}
		}
		line := func(what string, took [2][]time.Duration) result {
			alone := median(took[0])
			factors := make([]float64, len(took[0]))
			for i := range factors {
				factors[i] = float64(took[1][i]) / float64(took[0][i])
			}
			slices.Sort(factors)
			factor := factors[len(factors)/2]
			return result{"with an idle mount beside: " + what, fmt.Sprintf("%.2f x", factor), fmt.Sprintf("the same mount alone: %v; pairs from %.2f to %.2f x; mounts %s", alone.Round(10*time.Microsecond), factors[0], factors[len(factors)-1], f.where()),
				fmt.Sprintf("at most %.2f x", besideFactorMax), factor <= besideFactorMax}
		}
		return []result{line("4 KiB write + fdatasync", sync), line(fmt.Sprintf("%d files of 4 KiB + fsync", besideFiles), files)}, nil
	})
}

// besideMeasure is besideRound on the first mount, with the second one mounted for as long where asked for.
func besideMeasure(f *farm, beside bool) (sync, files time.Duration, err error) {
	if beside {
		if len(f.mounts) == 1 {
			_, err = f.mount()
		} else {
			err = f.remount(f.mounts[1])
		}
		if err == nil {
			_, err = os.ReadDir(f.mounts[1].dir)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	time.Sleep(besideSettle)
	sync, files, err = besideRound(f.mounts[0].dir)
	if beside {
		err = first(err, f.unmount(f.mounts[1]))
	}
	return sync, files, err
}

// besideRound times synced writes (their median) and the making of small files.
func besideRound(mnt string) (sync, files time.Duration, err error) {
	block := bytes.Repeat([]byte{7}, 4096)
	path := filepath.Join(mnt, "synced")
	file, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	var times []time.Duration
	for i := range besideSyncs {
		start := time.Now()
		if _, err := file.WriteAt(block, int64(i%256)*4096); err != nil {
			return 0, 0, err
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return 0, 0, err
		}
		times = append(times, time.Since(start))
	}
	dir := filepath.Join(mnt, "files")
	start := time.Now()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, 0, err
	}
	for i := range besideFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), block, 0o644); err != nil {
			return 0, 0, err
		}
	}
	if err := fsync(mnt); err != nil {
		return 0, 0, err
	}
	files = time.Since(start)
	return median(times), files, first(os.RemoveAll(dir), fsync(mnt))
}

// benchCached counts the requests that stats and reads of what the kernel has cached cause: the daemon logs every one.
func benchCached(c config) ([]result, error) {
	return withFarm(c, "cached", 1, func(f *farm) ([]result, error) {
		const name = "file"
		data := bytes.Repeat([]byte("cached "), 64<<10/7)
		if err := os.WriteFile(filepath.Join(f.mounts[0].dir, name), data, 0o644); err != nil {
			return nil, err
		}
		m, err := f.mount("--trace")
		if err != nil {
			return nil, err
		}
		file, err := os.Open(filepath.Join(m.dir, name))
		if err != nil {
			return nil, err
		}
		defer file.Close()
		look := &cachedLook{m: m, file: file, want: data, buf: make([]byte, len(data))}
		least := -1
		for range c.rounds {
			n, took, err := look.round()
			if err != nil {
				return nil, err
			}
			if took < 500*time.Millisecond && (least < 0 || n < least) {
				least = n
			}
		}
		return []result{{fmt.Sprintf("requests to the daemon for %d cached stats and 64 KiB reads", cachedRounds), fmt.Sprint(least), "", "0", least == 0}}, nil
	})
}

// cachedLook looks at one file again and again.
type cachedLook struct {
	m         *farmMount
	file      *os.File
	want, buf []byte
}

func (l *cachedLook) look() error {
	if err := syscall.Stat(l.file.Name(), new(syscall.Stat_t)); err != nil {
		return err
	}
	if _, err := l.file.ReadAt(l.buf, 0); err != nil {
		return err
	}
	if !bytes.Equal(l.buf, l.want) {
		return fmt.Errorf("%s: the bytes are wrong", l.file.Name())
	}
	return nil
}

// round counts the requests of cachedRounds looks. A name's timeout is a second: they begin when it was just made anew.
func (l *cachedLook) round() (requests int, took time.Duration, err error) {
	time.Sleep(1100 * time.Millisecond)
	for range 3 {
		if err := l.look(); err != nil {
			return 0, 0, err
		}
	}
	before, err := l.requests()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for range cachedRounds {
		if err := l.look(); err != nil {
			return 0, 0, err
		}
	}
	took = time.Since(start)
	after, err := l.requests()
	if err == nil && before == 0 {
		err = fmt.Errorf("the mount's log %s shows no requests at all", l.m.log)
	}
	return after - before, took, err
}

func (l *cachedLook) requests() (int, error) {
	time.Sleep(200 * time.Millisecond) // the log is written by then
	b, err := os.ReadFile(l.m.log)
	return bytes.Count(b, []byte("rx ")), err
}

// benchWalk times a first ls -lR from a mount that has seen nothing of a tree that another mount has just made, and holds, and
// the walk of that other mount after it was mounted anew.
func benchWalk(c config) ([]result, error) {
	return withFarm(c, "walk", 2, func(f *farm) ([]result, error) {
		a, b := f.mounts[0], f.mounts[1]
		for d := range walkDirs {
			dir := filepath.Join(a.dir, "tree", fmt.Sprintf("d%03d", d))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, err
			}
			for i := range walkFiles / walkDirs {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%03d", i)), []byte("some text\n"), 0o644); err != nil {
					return nil, err
				}
			}
		}
		if err := fsync(a.dir); err != nil {
			return nil, err
		}
		second, err := walk(b.dir)
		if err != nil {
			return nil, err
		}
		again, err := walk(b.dir)
		if err != nil {
			return nil, err
		}
		if err := f.unmount(a); err != nil {
			return nil, err
		}
		if err := f.remount(a); err != nil {
			return nil, err
		}
		cold, err := walk(a.dir)
		if err != nil {
			return nil, err
		}
		factor := float64(second) / float64(cold)
		return []result{{fmt.Sprintf("first ls -lR of %d files from a second mount", walkFiles), fmt.Sprintf("%v = %.2f x (again: %v)", second.Round(time.Millisecond), factor, again.Round(time.Millisecond)),
			"the first mount, mounted anew: " + cold.Round(time.Millisecond).String(), fmt.Sprintf("at most %.0f x", walkFactorMax), factor <= walkFactorMax}}, nil
	})
}

func walk(mnt string) (time.Duration, error) {
	start := time.Now()
	out, err := exec.Command("ls", "-lR", filepath.Join(mnt, "tree")).Output()
	took := time.Since(start)
	if n := bytes.Count(out, []byte("file-")); err == nil && n != walkFiles {
		err = fmt.Errorf("ls -lR of %s shows %d files, want %d", mnt, n, walkFiles)
	}
	return took, err
}

// benchPingPong has one mount write 4 KiB and another read them, in turn.
func benchPingPong(c config) ([]result, error) {
	return withFarm(c, "pingpong", 2, func(f *farm) ([]result, error) {
		a, err := os.Create(filepath.Join(f.mounts[0].dir, "ball"))
		if err != nil {
			return nil, err
		}
		defer a.Close()
		b, err := os.Open(filepath.Join(f.mounts[1].dir, "ball"))
		if err != nil {
			return nil, err
		}
		defer b.Close()
		block, got := make([]byte, 4096), make([]byte, 4096)
		var hand []time.Duration
		var began time.Time
		for i := range pingRounds + pingRounds/10 {
			if i == pingRounds/10 {
				began, hand = time.Now(), nil
			}
			binary.LittleEndian.PutUint64(block, uint64(i))
			start := time.Now()
			if _, err := a.WriteAt(block, 0); err != nil {
				return nil, err
			}
			wrote := time.Now()
			if _, err := b.ReadAt(got, 0); err != nil {
				return nil, err
			}
			if !bytes.Equal(got, block) {
				return nil, fmt.Errorf("round %d: the other mount reads %d", i, binary.LittleEndian.Uint64(got))
			}
			hand = append(hand, wrote.Sub(start), time.Since(wrote))
		}
		rate := pingRounds / time.Since(began).Seconds()
		slices.Sort(hand)
		p50, p99 := hand[len(hand)/2], hand[len(hand)*99/100]
		return []result{
			{"ping-pong: 4 KiB written on one mount, read on another", fmt.Sprintf("%.0f rounds/s", rate), "mounts " + f.where(), fmt.Sprintf("at least %.0f/s", pingRateMin), rate >= pingRateMin},
			{"hand-over of a file between two mounts, 99th percentile", fmt.Sprintf("%.1f ms (median %.1f)", float64(p99)/1e6, float64(p50)/1e6), "", fmt.Sprintf("under %v", handOverMax), p99 < handOverMax},
		}, nil
	})
}

// benchAppend has many tasks on several mounts append lines to one file and checks every line.
func benchAppend(c config) ([]result, error) {
	return withFarm(c, "append", appendMounts, func(f *farm) ([]result, error) {
		const name = "log"
		if err := os.WriteFile(filepath.Join(f.mounts[0].dir, name), nil, 0o644); err != nil {
			return nil, err
		}
		var files []*os.File
		defer func() {
			for _, file := range files {
				_ = file.Close()
			}
		}()
		for i := range appenders {
			file, err := os.OpenFile(filepath.Join(f.mounts[i%appendMounts].dir, name), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		}
		errs := make([]error, appenders)
		var wg sync.WaitGroup
		start := time.Now()
		for i, file := range files {
			wg.Go(func() {
				for j := 0; j < appendEach && errs[i] == nil; j++ {
					_, errs[i] = file.WriteString(appendLine(i, j))
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		for i, m := range f.mounts {
			data, err := os.ReadFile(filepath.Join(m.dir, name))
			if err == nil {
				err = checkAppends(string(data))
			}
			if err != nil {
				return nil, fmt.Errorf("mount %d: %w", i, err)
			}
		}
		total := appenders * appendEach
		return []result{{fmt.Sprintf("%d appends to one file by %d tasks on %d mounts, all there and whole", total, appenders, appendMounts),
			fmt.Sprintf("%.2f s (%.0f/s)", took.Seconds(), float64(total)/took.Seconds()), "mounts " + f.where(), fmt.Sprintf("under %v", appendMax), took < appendMax}}, nil
	})
}

func appendLine(task, n int) string {
	return fmt.Sprintf("%03d %05d %s\n", task, n, strings.Repeat("x", task%40))
}

// checkAppends looks whether every line is there once, whole, and each task's in order.
func checkAppends(data string) error {
	next := make([]int, appenders)
	lines := 0
	for line := range strings.Lines(data) {
		var task, n int
		if _, err := fmt.Sscanf(line, "%d %d", &task, &n); err != nil || task < 0 || task >= appenders || line != appendLine(task, n) {
			return fmt.Errorf("line %d is torn: %q", lines+1, line)
		}
		if n != next[task] {
			return fmt.Errorf("line %d is number %d of task %d, want %d: one is lost, or there twice", lines+1, n, task, next[task])
		}
		next[task]++
		lines++
	}
	if lines != appenders*appendEach {
		return fmt.Errorf("%d lines, want %d", lines, appenders*appendEach)
	}
	return nil
}
