package layout

import (
	"encoding/binary"

	"dfs/internal/errors"
)

// Names of the extended attributes that hold POSIX ACLs.
const (
	XattrACLAccess  = "system.posix_acl_access"
	XattrACLDefault = "system.posix_acl_default"
)

// Tags of ACL entries, as in Linux.
const (
	ACLUserObj  uint16 = 0x01
	ACLUser     uint16 = 0x02
	ACLGroupObj uint16 = 0x04
	ACLGroup    uint16 = 0x08
	ACLMask     uint16 = 0x10
	ACLOther    uint16 = 0x20
)

// The binary form of Linux, little-endian: version 2 u32, then for each entry
// tag u16, permissions u16, id u32 (0xffffffff where the tag names nobody).
const (
	aclVersion   = 2
	aclEntrySize = 8
	aclNoID      = 1<<32 - 1
)

// ACLEntry is one entry of an ACL. ID is meaningful for ACLUser and ACLGroup.
type ACLEntry struct {
	Tag  uint16
	Perm uint16 // rwx bits
	ID   uint32
}

// ACL is a POSIX access control list: the entries in the order of their tags.
// The nil ACL is none.
type ACL []ACLEntry

// ParseACL decodes and checks the value of an ACL attribute. A value without
// entries is the nil ACL (it removes the ACL). KindInvalid; KindNotSupported for another version.
func ParseACL(value []byte) (ACL, error) {
	if len(value) < 4 || (len(value)-4)%aclEntrySize != 0 {
		return nil, errors.New(errors.KindInvalid, "ACL of %d bytes", len(value))
	}
	if v := binary.LittleEndian.Uint32(value); v != aclVersion {
		return nil, errors.New(errors.KindNotSupported, "ACL of version %d", v)
	}
	if len(value) == 4 {
		return nil, nil
	}
	acl := make(ACL, 0, (len(value)-4)/aclEntrySize)
	for v := value[4:]; len(v) > 0; v = v[aclEntrySize:] {
		e := ACLEntry{binary.LittleEndian.Uint16(v), binary.LittleEndian.Uint16(v[2:]), binary.LittleEndian.Uint32(v[4:])}
		if e.Tag != ACLUser && e.Tag != ACLGroup {
			e.ID = aclNoID
		}
		acl = append(acl, e)
	}
	return acl, acl.Validate()
}

// Encode is the attribute value of the ACL.
func (a ACL) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+aclEntrySize*len(a)), aclVersion)
	for _, e := range a {
		b = binary.LittleEndian.AppendUint16(b, e.Tag)
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		b = binary.LittleEndian.AppendUint32(b, e.ID)
	}
	return b
}

// Validate checks what the kernel's posix_acl_valid checks: one each of
// user-obj, group-obj and other, in the order of the tags, and a mask where users or groups are named. KindInvalid.
func (a ACL) Validate() error {
	prev, seen := uint16(0), uint16(0)
	for _, e := range a {
		named := e.Tag == ACLUser || e.Tag == ACLGroup
		switch {
		case e.Tag == 0 || e.Tag&(e.Tag-1) != 0 || e.Tag > ACLOther, e.Perm > 7, e.Tag < prev,
			e.Tag == prev && !named, named && e.ID == aclNoID:
			return errors.New(errors.KindInvalid, "ACL entry of tag %#x, permissions %o, id %d is not allowed here", e.Tag, e.Perm, e.ID)
		}
		prev, seen = e.Tag, seen|e.Tag
	}
	need := ACLUserObj | ACLGroupObj | ACLOther
	if seen&(ACLUser|ACLGroup) != 0 {
		need |= ACLMask
	}
	if seen&need != need {
		return errors.New(errors.KindInvalid, "ACL lacks entries of tags %#x", need&^seen)
	}
	return nil
}

// perm returns the permissions of the entry with tag, nil if there is none.
func (a ACL) perm(tag uint16) *uint16 {
	for i := range a {
		if a[i].Tag == tag {
			return &a[i].Perm
		}
	}
	return nil
}

// groupClass is what the group bits of the mode stand for: the mask, or else group-obj.
func (a ACL) groupClass() *uint16 {
	if m := a.perm(ACLMask); m != nil {
		return m
	}
	return a.perm(ACLGroupObj)
}

// Mode returns mode with its permission bits taken from a valid ACL, and whether these bits alone
// say all that the ACL says (then it need not be kept).
func (a ACL) Mode(mode uint32) (out uint32, equivalent bool) {
	bits := uint32(*a.perm(ACLUserObj))<<6 | uint32(*a.groupClass())<<3 | uint32(*a.perm(ACLOther))
	return mode&^0o777 | bits, len(a) == 3
}

// Chmod returns the access ACL after a chmod to mode.
func (a ACL) Chmod(mode uint32) ACL {
	out := append(ACL(nil), a...)
	*out.perm(ACLUserObj) = uint16(mode >> 6 & 7)
	*out.groupClass() = uint16(mode >> 3 & 7)
	*out.perm(ACLOther) = uint16(mode & 7)
	return out
}

// InheritACL does for a new inode in a directory with the default ACL def
// (nil: none) what Linux's posix_acl_create does: it returns the inode's mode and its access
// ACL (nil: none needed). umask counts only without a default ACL. A new
// directory also gets def as its own default ACL. Symlinks take no part: do not call it for them.
func InheritACL(def ACL, mode, umask uint32) (outMode uint32, access ACL) {
	if def == nil {
		return mode &^ (umask & 0o777), nil
	}
	access = append(ACL(nil), def...)
	for _, class := range [...]struct {
		perm  *uint16
		shift uint
	}{{access.perm(ACLUserObj), 6}, {access.groupClass(), 3}, {access.perm(ACLOther), 0}} {
		*class.perm &= uint16(mode >> class.shift & 7)
	}
	outMode, equivalent := access.Mode(mode)
	if equivalent {
		access = nil
	}
	return outMode, access
}

// AccessACL is the access ACL of an inode (nil: none). b as in XattrGet.
func (in *Inode) AccessACL(b Blocks) (ACL, error) { return in.acl(b, XattrACLAccess) }

// DefaultACL is the default ACL of a directory (nil: none). b as in XattrGet.
func (in *Inode) DefaultACL(b Blocks) (ACL, error) { return in.acl(b, XattrACLDefault) }

func (in *Inode) acl(b Blocks, name string) (ACL, error) {
	if _, ok := in.XattrSize(name); !ok {
		return nil, nil
	}
	v, err := in.XattrGet(b, name)
	if err != nil {
		return nil, err
	}
	a, err := ParseACL(v)
	if err != nil {
		return nil, corruptInode(in.Ino, "its "+name)
	}
	return a, nil
}
