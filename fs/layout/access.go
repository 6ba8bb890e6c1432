package layout

import (
	"slices"
	"syscall"
)

// Permission bits asked for, as in access(2).
const (
	MayExec  uint32 = 1
	MayWrite uint32 = 2
	MayRead  uint32 = 4
)

// Cred says who acts. UID 0 has every capability.
type Cred struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups
}

// InGroup reports whether gid is the caller's group or one of the supplementary ones.
func (c Cred) InGroup(gid uint32) bool { return c.GID == gid || slices.Contains(c.Groups, gid) }

// MayAccess reports whether c may do what mask asks (MayRead, MayWrite, MayExec
// or'ed) on an inode, by the kernel's algorithm (generic_permission): the owner by the owner's bits, then the ACL (nil:
// none) if the group bits are not all clear, then group and others; root may do all but execute a
// file without any x bit.
func MayAccess(c Cred, mode, uid, gid uint32, acl ACL, mask uint32) bool {
	mask &= 7
	if c.UID == 0 {
		dir := mode&syscall.S_IFMT == syscall.S_IFDIR
		return dir || mask&MayExec == 0 || mode&0o111 != 0
	}
	switch {
	case c.UID == uid:
		return mask&^(mode>>6) == 0
	case acl != nil && mode&0o070 != 0:
		return acl.permits(c, gid, uint16(mask))
	case c.InGroup(gid):
		return mask&^(mode>>3) == 0
	}
	return mask&^mode == 0
}

// permits is the kernel's posix_acl_permission for a caller who is not the owner.
func (a ACL) permits(c Cred, gid uint32, want uint16) bool {
	limit := uint16(7)
	if m := a.perm(ACLMask); m != nil {
		limit = *m
	}
	inGroup := false
	for _, e := range a {
		grants := e.Perm&want == want
		switch e.Tag {
		case ACLUser:
			if e.ID == c.UID {
				return grants && limit&want == want
			}
		case ACLGroupObj, ACLGroup:
			id := e.ID
			if e.Tag == ACLGroupObj {
				id = gid
			}
			if c.InGroup(id) {
				if grants {
					return limit&want == want
				}
				inGroup = true
			}
		case ACLOther:
			return !inGroup && grants
		}
	}
	return false
}

// MayDelete reports whether the sticky bit of a directory lets c remove or
// rename an entry that leads to an inode of victimUID; write and execute permission on the directory are asked for apart.
func MayDelete(c Cred, dirMode, dirUID, victimUID uint32) bool {
	return dirMode&syscall.S_ISVTX == 0 || c.UID == 0 || c.UID == victimUID || c.UID == dirUID
}

// KillPriv returns mode without set-user-id, and without set-group-id if the
// group may execute: what a write does to a file, and a change of owner to anything but a directory.
func KillPriv(mode uint32) uint32 {
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		return mode
	}
	mode &^= syscall.S_ISUID
	if mode&0o010 != 0 {
		mode &^= syscall.S_ISGID
	}
	return mode
}
