package posixclient

import (
	"bytes"
	"io"
	"os"
)

// ReadFile returns a file's content.
func (c *Client) ReadFile(path string) ([]byte, error) {
	f, err := c.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
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
