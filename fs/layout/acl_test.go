package layout

import (
	"fmt"
	"reflect"
	"syscall"
	"testing"

	"dfs/internal/errors"
)

var sampleACL = ACL{
	{ACLUserObj, 7, aclNoID}, {ACLUser, 6, 1000}, {ACLUser, 7, 1001}, {ACLGroupObj, 5, aclNoID},
	{ACLGroup, 4, 2000}, {ACLMask, 5, aclNoID}, {ACLOther, 1, aclNoID},
}

func TestACLCodec(t *testing.T) {
	got, err := ParseACL(sampleACL.Encode())
	if err != nil || !reflect.DeepEqual(got, sampleACL) {
		t.Fatal(got, err)
	}
	// As setfacl -m u:1000:rw writes it on a file of mode 0644.
	raw := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	got, err = ParseACL([]byte(raw))
	if err != nil || string(got.Encode()) != raw || len(got) != 5 {
		t.Fatal(got, err)
	}
	if mode, equiv := got.Mode(syscall.S_IFREG | 0o4644); mode != syscall.S_IFREG|0o4664 || equiv {
		t.Errorf("%o %v", mode, equiv)
	}
	if a, err := ParseACL([]byte{2, 0, 0, 0}); a != nil || err != nil {
		t.Error(a, err)
	}
	without := func(i int) ACL { return append(append(ACL{}, sampleACL[:i]...), sampleACL[i+1:]...) }
	swapped := append(ACL{}, sampleACL...)
	swapped[0], swapped[3] = swapped[3], swapped[0]
	perm := append(ACL{}, sampleACL...)
	perm[2].Perm = 8
	twice := append(ACL{sampleACL[0]}, sampleACL...)
	nobody := append(ACL{}, sampleACL...)
	nobody[1].ID = aclNoID
	tag := append(ACL{}, sampleACL...)
	tag[6].Tag = 0x40
	for i, bad := range []ACL{without(0), without(3), without(5), without(6), swapped, perm, twice, nobody, tag} {
		if _, err := ParseACL(bad.Encode()); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	if _, err := ParseACL([]byte{1, 0, 0, 0}); !errors.Is(err, errors.KindNotSupported) {
		t.Error(err)
	}
	if _, err := ParseACL([]byte{2, 0, 0, 0, 1}); !errors.Is(err, errors.KindInvalid) {
		t.Error(err)
	}
}

func FuzzACL(f *testing.F) {
	f.Add(sampleACL.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseACL(b)
		if err != nil || a == nil {
			return
		}
		mode, _ := a.Mode(syscall.S_IFREG)
		if got, _ := a.Chmod(mode).Mode(syscall.S_IFREG); got != mode || a.Chmod(mode).Validate() != nil {
			t.Fatal(a)
		}
		MayAccess(Cred{UID: 5}, mode, 1, 1, a, MayRead)
		InheritACL(a, mode, 0)
	})
}

func TestACLChmodAndInherit(t *testing.T) {
	c := sampleACL.Chmod(0o750)
	if *c.perm(ACLMask) != 5 || *c.perm(ACLGroupObj) != 5 || *c.perm(ACLOther) != 0 || *sampleACL.perm(ACLOther) != 1 {
		t.Error(c)
	}
	c = sampleACL.Chmod(0o600)
	if *c.perm(ACLMask) != 0 || *c.perm(ACLGroupObj) != 5 {
		t.Error("chmod with a mask changes the mask, not the group's entry", c)
	}
	small := ACL{{ACLUserObj, 7, aclNoID}, {ACLGroupObj, 5, aclNoID}, {ACLOther, 5, aclNoID}}
	if c := small.Chmod(0o640); *c.perm(ACLGroupObj) != 4 {
		t.Error(c)
	}

	if m, a := InheritACL(nil, syscall.S_IFREG|0o4666, 0o022); m != syscall.S_IFREG|0o4644 || a != nil {
		t.Errorf("%o %v", m, a)
	}
	// With a default ACL the umask does not count; without named entries mode bits suffice.
	if m, a := InheritACL(small, syscall.S_IFREG|0o666, 0o077); m != syscall.S_IFREG|0o644 || a != nil {
		t.Errorf("%o %v", m, a)
	}
	m, a := InheritACL(sampleACL, syscall.S_IFREG|0o640, 0o077)
	if m != syscall.S_IFREG|0o640 || *a.perm(ACLMask) != 4 || *a.perm(ACLGroupObj) != 5 || *a.perm(ACLUserObj) != 6 || *a.perm(ACLOther) != 0 {
		t.Errorf("%o %v", m, a)
	}
	if *sampleACL.perm(ACLMask) != 5 {
		t.Error("the default ACL was changed")
	}
}

func TestMayAccess(t *testing.T) {
	const reg, dir = syscall.S_IFREG, syscall.S_IFDIR
	owner, member, other, root := Cred{UID: 1, GID: 9}, Cred{UID: 2, GID: 3, Groups: []uint32{7, 5}}, Cred{UID: 3, GID: 3}, Cred{}
	cases := []struct {
		c    Cred
		mode uint32
		acl  ACL
		mask uint32
		want bool
	}{
		{owner, reg | 0o400, nil, MayRead, true},
		{owner, reg | 0o400, nil, MayRead | MayWrite, false},
		{owner, reg | 0o077, nil, MayRead, false}, // the owner's bits, whatever others may
		{member, reg | 0o040, nil, MayRead, true},
		{member, reg | 0o704, nil, MayRead, false}, // the group's bits, though others may
		{other, reg | 0o704, nil, MayRead, true},
		{other, reg | 0o770, nil, MayRead, false},
		{root, reg, nil, MayRead | MayWrite, true},
		{root, reg, nil, MayExec, false},
		{root, reg | 0o001, nil, MayExec, true},
		{root, dir, nil, MayExec | MayWrite, true},
		// ACL: named users and groups under the mask.
		{Cred{UID: 1000, GID: 3}, reg | 0o751, sampleACL, MayRead, true},
		{Cred{UID: 1000, GID: 3}, reg | 0o751, sampleACL, MayWrite, false}, // masked
		{Cred{UID: 1001, GID: 3}, reg | 0o751, sampleACL, MayRead | MayExec, true},
		{Cred{UID: 1000, GID: 5}, reg | 0o751, sampleACL, MayExec, false}, // the user entry decides, the group's does not count
		{member, reg | 0o751, sampleACL, MayRead | MayExec, true},
		{Cred{UID: 4, GID: 2000}, reg | 0o751, sampleACL, MayRead, true},
		{Cred{UID: 4, GID: 2000}, reg | 0o751, sampleACL, MayExec, false}, // a group matched: others do not count
		{Cred{UID: 4, GID: 2000, Groups: []uint32{5}}, reg | 0o751, sampleACL, MayExec, true},
		{other, reg | 0o751, sampleACL, MayExec, true},
		{other, reg | 0o751, sampleACL, MayRead, false},
		{owner, reg | 0o751, sampleACL, MayWrite, true},
		{Cred{UID: 1000}, reg | 0o701, sampleACL, MayExec, true}, // group bits all clear: the ACL is not asked
	}
	for i, c := range cases {
		if got := MayAccess(c.c, c.mode, 1, 5, c.acl, c.mask); got != c.want {
			t.Errorf("case %d: %+v on %o for %o: %v", i, c.c, c.mode, c.mask, got)
		}
	}
	wide := append(ACL{}, sampleACL...)
	wide[4].Perm = 7 // group 2000, under the mask r-x
	if c := (Cred{UID: 4, GID: 2000}); MayAccess(c, reg|0o751, 1, 5, wide, MayWrite) || !MayAccess(c, reg|0o751, 1, 5, wide, MayExec) {
		t.Error("the mask bounds what a group is granted")
	}
	// An ACL that says no more than the mode decides as the mode does.
	for mode := range uint32(0o1000) {
		acl := ACL{{ACLUserObj, uint16(mode >> 6), aclNoID}, {ACLGroupObj, uint16(mode >> 3 & 7), aclNoID}, {ACLOther, uint16(mode & 7), aclNoID}}
		for mask := range uint32(8) {
			for _, c := range []Cred{owner, member, other, root} {
				if MayAccess(c, reg|mode, 1, 5, acl, mask) != MayAccess(c, reg|mode, 1, 5, nil, mask) {
					t.Fatalf("mode %o mask %o %+v", mode, mask, c)
				}
			}
		}
	}
}

func TestMayDelete(t *testing.T) {
	for _, c := range []struct {
		uid, mode, dir, victim uint32
		want                   bool
	}{
		{5, 0o777, 1, 2, true}, {5, 0o1777, 1, 2, false}, {5, 0o1777, 5, 2, true},
		{5, 0o1777, 1, 5, true}, {0, 0o1777, 1, 2, true},
	} {
		if got := MayDelete(Cred{UID: c.uid}, c.mode, c.dir, c.victim); got != c.want {
			t.Errorf("%+v", c)
		}
	}
	for mode, want := range map[uint32]uint32{0o6755: 0o755, 0o6745: 0o2745, 0o755: 0o755} {
		if got := KillPriv(syscall.S_IFREG | mode); got != syscall.S_IFREG|want {
			t.Errorf("%o: %o", mode, got)
		}
	}
	if got := KillPriv(syscall.S_IFIFO | 0o6755); got != syscall.S_IFIFO|0o755 {
		t.Errorf("a fifo: %o", got)
	}
	if got := KillPriv(syscall.S_IFDIR | 0o2775); got != syscall.S_IFDIR|0o2775 {
		t.Errorf("%o", got)
	}
}

func TestInodeACL(t *testing.T) {
	in := newDirInode()
	if a, err := in.AccessACL(nil); a != nil || err != nil {
		t.Fatal(a, err)
	}
	if err := in.XattrSet(nil, XattrACLDefault, sampleACL.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	if a, err := in.DefaultACL(nil); err != nil || fmt.Sprint(a) != fmt.Sprint(sampleACL) {
		t.Fatal(a, err)
	}
	if err := in.XattrSet(nil, XattrACLAccess, []byte("junk"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := in.AccessACL(nil); !errors.Is(err, errors.KindCorrupt) {
		t.Error(err)
	}
}
