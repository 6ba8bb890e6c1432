package blockstore

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"dfs/internal/errors"
	"dfs/wal"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sampleCommand() Command {
	return Command{
		Kind: CmdWrite, Writer: 300, Token: Token{1, 2, 3, 15: 9}, Epoch: 7, Seq: 1 << 33, Op: 4, Count: 5, TTLMilli: 10_000, Value: 1 << 60,
		Record: (&wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 5, Block: 6}, Off: 7, Data: []byte("bytes")}}, AllocDelta: 1}).AppendTo(nil),
	}
}

func TestCommandRoundTrip(t *testing.T) {
	named := sampleCommand()
	named.Name, named.Record = strings.Repeat("n", NameBytesMax), nil
	for kind := CommandKind(1); kind <= commandKindLast; kind++ {
		for _, c := range []Command{sampleCommand(), named, {}} {
			c.Kind = kind
			b := c.AppendTo([]byte("before"))
			if string(b[:6]) != "before" || len(b)-6 > c.EncodedSize() {
				t.Fatalf("%v: %d bytes, EncodedSize %d", kind, len(b)-6, c.EncodedSize())
			}
			b = b[6:]
			got, err := DecodeCommand(b)
			if err != nil || !reflect.DeepEqual(got, c) {
				t.Fatalf("%v: got %+v, %v\nwant %+v", kind, got, err, c)
			}
			if len(c.Record) > 0 && &got.Record[0] != &b[len(b)-len(c.Record)] {
				t.Fatal("the record does not alias the input")
			}
		}
	}
}

// TestCommandEncodesAroundItsRecord: with room before the record the bytes are the same and the record stays where it is;
// with too little room, or in another buffer, it is copied.
func TestCommandEncodesAroundItsRecord(t *testing.T) {
	c := sampleCommand()
	want, record := c.AppendTo(nil), c.Record
	for _, tc := range []struct {
		room    int
		inPlace bool
	}{{CommandOverheadMax, true}, {CommandOverheadMax + 9, true}, {CommandOverheadMax - 1, false}, {0, false}} {
		c.Room = append(bytes.Repeat([]byte{0xaa}, tc.room), record...)
		c.Record = c.Room[tc.room:]
		got := c.Encode()
		if !bytes.Equal(got, want) || (&got[len(got)-1] == &c.Room[len(c.Room)-1]) != tc.inPlace {
			t.Errorf("room of %d: in place %v; %x, want %x", tc.room, !tc.inPlace, got, want)
		}
	}
	c.Record = record // not in Room any more
	if got := c.Encode(); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestRecordIsCheckedOncePerMemory: what was decoded is taken for the very bytes it was decoded from, and for no others.
func TestRecordIsCheckedOncePerMemory(t *testing.T) {
	c := sampleCommand()
	c.Room = append(make([]byte, CommandOverheadMax), c.Record...)
	c.Record = c.Room[CommandOverheadMax:]
	if _, ok := c.Checked(); ok {
		t.Fatal("checked before CheckRecord")
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	checked, ok := c.Checked()
	encoded := c.Encode()
	same, err := DecodeCommand(encoded)
	if !ok || err != nil || !same.Adopt(checked) {
		t.Fatalf("not taken over: %v %v", ok, err)
	}
	copied, err := DecodeCommand(bytes.Clone(encoded))
	if err != nil || copied.Adopt(checked) {
		t.Fatalf("taken over for other memory (%v)", err)
	}
	shorter := same
	shorter.checked, shorter.Record = nil, same.Record[:len(same.Record)-1]
	if shorter.Adopt(checked) || shorter.Adopt(CheckedRecord{}) {
		t.Fatal("taken over for other bytes")
	}
	encoded[len(encoded)-1] ^= 1 // seen only by who decodes again
	if err := same.CheckRecord(); err != nil {
		t.Fatal(err)
	}
	again, err := DecodeCommand(encoded)
	if err != nil || !errors.Is(again.CheckRecord(), errors.KindCorrupt) {
		t.Fatalf("a damaged record passes: %v", err)
	}
}

func resealCommand(b []byte) []byte {
	if len(b) >= commandHeaderLen {
		if end := commandHeaderLen + int(binary.LittleEndian.Uint16(b[6:])); end <= len(b) {
			binary.LittleEndian.PutUint32(b[8:], commandSum(b, b[commandHeaderLen:end]))
		}
	}
	return b
}

func TestDecodeCommandRefuses(t *testing.T) {
	c := sampleCommand()
	good := c.AppendTo(nil)
	fields := good[:len(good)-len(c.Record)]
	tests := []struct {
		name string
		kind errors.Kind
		make func(b []byte) []byte
	}{
		{"nothing", errors.KindForeign, func([]byte) []byte { return nil }},
		{"magic", errors.KindForeign, func(b []byte) []byte { b[3]++; return b }},
		{"newer", errors.KindTooNew, func(b []byte) []byte { b[4]++; return b }},
		{"version 0", errors.KindCorrupt, func(b []byte) []byte { b[4] = 0; return b }},
		{"unknown kind", errors.KindTooNew, func(b []byte) []byte { b[5] = byte(commandKindLast) + 1; return resealCommand(b) }},
		{"kind 0", errors.KindTooNew, func(b []byte) []byte { b[5] = 0; return resealCommand(b) }},
		{"kind flipped", errors.KindCorrupt, func(b []byte) []byte { b[5] ^= 1; return b }},
		{"only a header", errors.KindCorrupt, func(b []byte) []byte { return b[:9] }},
		{"fields beyond", errors.KindCorrupt, func(b []byte) []byte { b[7] = 0xff; return b }},
		{"fields short", errors.KindCorrupt, func(b []byte) []byte { b[6]--; return resealCommand(b) }},
		{"fields long", errors.KindCorrupt, func(b []byte) []byte { b[6]++; return resealCommand(b) }},
		{"checksum", errors.KindCorrupt, func(b []byte) []byte { b[8]++; return b }},
		{"field", errors.KindCorrupt, func(b []byte) []byte { b[14]++; return b }},
		{"record cut", errors.KindCorrupt, func(b []byte) []byte { return b[:len(b)-1] }},
		{"trailing", errors.KindCorrupt, func(b []byte) []byte { return append(b, 1) }},
	}
	for _, tt := range tests {
		if _, err := DecodeCommand(tt.make(bytes.Clone(good))); !errors.Is(err, tt.kind) {
			t.Errorf("%s: error %v, want kind %d", tt.name, err, tt.kind)
		}
	}
	for i := range len(fields) * 8 {
		good[i/8] ^= 1 << (i % 8)
		if _, err := DecodeCommand(good); err == nil {
			t.Fatalf("bit %d flipped, no error", i)
		}
		good[i/8] ^= 1 << (i % 8)
	}
}

func TestCommandValidate(t *testing.T) {
	ok := sampleCommand()
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(ok.Record)
	damaged[40] ^= 1
	tok := Token{1}
	long := strings.Repeat("x", 256)
	tests := []struct {
		c    Command
		kind errors.Kind
	}{
		{Command{}, errors.KindInvalid},
		{Command{Kind: commandKindLast + 1}, errors.KindInvalid},
		{Command{Kind: CmdOpenWriter}, errors.KindInvalid},
		{Command{Kind: CmdOpenWriter, Token: tok, Name: long}, errors.KindNameTooLong},
		{Command{Kind: CmdOpenWriter, Token: tok, TTLMilli: TTLMilliMax + 1}, errors.KindInvalid},
		{Command{Kind: CmdCloseWriter}, errors.KindInvalid},
		{Command{Kind: CmdCloseWriter, Writer: 1, Name: "x"}, errors.KindNameTooLong},
		{Command{Kind: CmdFenceWriter, Writer: 1, Record: []byte("x")}, errors.KindInvalid},
		{Command{Kind: CmdBeginEpoch}, errors.KindInvalid},
		{Command{Kind: CmdWrite, Writer: 1, Record: ok.Record}, errors.KindInvalid},
		{Command{Kind: CmdWrite, Writer: 1, Seq: 1}, errors.KindForeign},
		{Command{Kind: CmdWrite, Writer: 1, Seq: 1, Record: damaged}, errors.KindCorrupt},
		{Command{Kind: CmdWrite, Writer: 1, Seq: 1, Record: make([]byte, wal.RecordBytesMax+1)}, errors.KindTooBig},
		{Command{Kind: CmdTakeInodes, Writer: 1, Op: 1}, errors.KindInvalid},
		{Command{Kind: CmdTakeInodes, Writer: 1, Count: 1}, errors.KindInvalid},
		{Command{Kind: CmdTakeInodes, Writer: 1, Op: 1, Count: TakeInodesMax + 1}, errors.KindInvalid},
		{Command{Kind: CmdReserve, Writer: 1, Op: 1, Count: ReserveBlocksMax + 1}, errors.KindInvalid},
		{Command{Kind: CmdUnreserve, Writer: 1, Op: 1}, errors.KindInvalid},
		{Command{Kind: CmdForgetRetired, Writer: 1}, errors.KindInvalid},
		{Command{Kind: CmdSetSetting}, errors.KindInvalid},
		{Command{Kind: CmdSetSetting, Name: long[:65]}, errors.KindNameTooLong},
	}
	for i, tt := range tests {
		if err := tt.c.Validate(); !errors.Is(err, tt.kind) {
			t.Errorf("%d %v: error %v, want kind %d", i, tt.c.Kind, err, tt.kind)
		}
	}
}

// golden compares b with the file, as hex, so that a change of format cannot go unseen.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != strings.TrimSpace(hex.Dump(b)) {
		t.Errorf("%s: the format changed; raise its version.\ngot\n%s", name, hex.Dump(b))
	}
}

func TestCommandGolden(t *testing.T) {
	c := sampleCommand()
	golden(t, "command-v1.hex", c.AppendTo(nil))
	open := Command{Kind: CmdOpenWriter, Token: Token{7}, Name: "host:/mnt", TTLMilli: 10_000}
	golden(t, "command-open-v1.hex", open.AppendTo(nil))
}

func FuzzDecodeCommand(f *testing.F) {
	c := sampleCommand()
	f.Add(c.AppendTo(nil))
	open := Command{Kind: CmdOpenWriter, Token: Token{7}, Name: "host:/mnt", TTLMilli: 10_000}
	f.Add(open.AppendTo(nil))
	f.Add([]byte("dfsC\x01\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodeCommand(b)
		b = resealCommand(bytes.Clone(b))
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if again := c.AppendTo(nil); !bytes.Equal(again, b) {
			t.Fatalf("encode(decode(b)) differs\n%x\n%x", again, b)
		}
	})
}
