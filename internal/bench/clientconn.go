package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// clientConn is one client's connection. It is not net/http's client, which would cost
// more than what is measured.
type clientConn struct {
	net.Conn
	in     *bufio.Reader
	buf    []byte
	counts time.Time       // from when on
	took   []time.Duration // by each answer
	bytes  int64

	busyUntil time.Time // with the answer before
}

// ask connects and asks until ctx ends, at the times that phase and the pace give. What is
// late because the answer before was late counts from when it was due: a slow server gets
// no fewer questions for it.
func (c *clientConn) ask(ctx context.Context, socket string, q question, phase time.Duration) (err error) {
	request := []byte("GET " + q.path + " HTTP/1.1\r\nHost: rmagent\r\n\r\n")
	due := time.Now().Add(phase)
	if pause(ctx, phase) != nil {
		return nil
	}
	if c.Conn, err = net.Dial("unix", socket); err != nil {
		return err
	}
	defer c.Close()
	c.in, c.buf = bufio.NewReaderSize(c.Conn, 16<<10), make([]byte, 256<<10)
	for {
		begin := time.Now()
		if q.every > 0 && c.busyUntil.After(due) {
			begin = due
		}
		n, err := c.once(request)
		if err != nil {
			return err
		}
		c.busyUntil = time.Now()
		if begin.After(c.counts) {
			c.took = append(c.took, c.busyUntil.Sub(begin))
			c.bytes += n
		}
		due = due.Add(q.every)
		if pause(ctx, time.Until(due)) != nil {
			return nil
		}
	}
}

// once asks and takes the answer.
func (c *clientConn) once(request []byte) (bytes int64, err error) {
	if err := c.SetDeadline(time.Now().Add(answerDeadline)); err != nil {
		return 0, err
	}
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", resp.Status)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, c.buf) // its own buffer: io.Discard's is small
}
