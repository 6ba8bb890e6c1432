package posixclient

import (
	"os"
	"slices"
)

// ReadFile returns a file's content.
func (c *Client) ReadFile(path string) ([]byte, error) {
	f, err := c.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var data []byte
	for {
		data = slices.Grow(data, transferMax)
		n, err := f.readSome(data[len(data):cap(data)], uint64(len(data)))
		if err != nil {
			return nil, pathError("read", path, err)
		}
		if n == 0 {
			return data, nil
		}
		data = data[:len(data)+n]
	}
}

// WriteFile makes a file's content, creating it if need be.
func (c *Client) WriteFile(path string, data []byte, perm os.FileMode) error {
	f, err := c.Open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
