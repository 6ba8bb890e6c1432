package check

// Entries is a directory of files and empty directories, each with a number of its own, and what Linux answers about it. Output.Text is the name of
// the error ("" if none); Output.Value of a Look the number, with DirBit where it is a directory.
func Entries() Model {
	return Model{Name: "entries", kinds: []Kind{MakeFile, MakeDir, RemoveFile, RemoveDir, Move, MoveNew, Exchange, Look}, init: "", step: func(state any, in Input, out Output) (bool, any) {
		dir := state.(string)
		no, after := entriesStep(dir, in)
		if in.Kind == Look {
			return out.Text == no && out.Value == target(dir, in.To), dir
		}
		return in.unknown || out.Text == no, after
	}}
}

// DirBit marks the number of a directory.
const DirBit = 1 << 32

func entriesStep(dir string, in Input) (no, after string) {
	from, to := target(dir, in.Text), target(dir, in.To)
	switch in.Kind {
	case Look:
		if to == 0 {
			return "ENOENT", dir
		}
		return "", dir
	case MakeFile, MakeDir:
		if to != 0 {
			return "EEXIST", dir
		}
		return "", set(dir, in.To, in.Value)
	case RemoveFile, RemoveDir:
		switch {
		case to == 0:
			return "ENOENT", dir
		case in.Kind == RemoveFile && to&DirBit != 0:
			return "EISDIR", dir
		case in.Kind == RemoveDir && to&DirBit == 0:
			return "ENOTDIR", dir
		}
		return "", set(dir, in.To, 0)
	}
	switch {
	case from == 0:
		return "ENOENT", dir
	case in.Kind == Exchange && to == 0:
		return "ENOENT", dir
	case in.Kind == Exchange:
		return "", set(set(dir, in.Text, to), in.To, from)
	case in.Kind == MoveNew && to != 0:
		return "EEXIST", dir
	case to != 0 && from&DirBit != 0 && to&DirBit == 0:
		return "ENOTDIR", dir
	case to != 0 && from&DirBit == 0 && to&DirBit != 0:
		return "EISDIR", dir
	}
	return "", set(set(dir, in.Text, 0), in.To, from)
}
