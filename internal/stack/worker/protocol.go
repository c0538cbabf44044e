package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/record"
)

// Requests and answers are JSON, each in one message of a SOCK_SEQPACKET socket, with
// at most one file beside it. Every request has one answer.
const (
	maxMessage = 192 << 10 // bytes; below net.core.wmem_default, 212,992
	maxRegions = 500       // of one message
	maxPaths   = 8
	maxSymbols = 32
)

// request is what the parent asks: the one field that is not nil.
type request struct {
	Image   *imageRequest   `json:"image,omitempty"`
	Bind    *bindRequest    `json:"bind,omitempty"`
	Module  *moduleRequest  `json:"module,omitempty"`   // with the file
	Debug   *moduleRequest  `json:"debug,omitempty"`    // with the file of debug information
	Alt     *moduleRequest  `json:"alt,omitempty"`      // with the file that has what several of those share
	PerfMap *perfMapRequest `json:"perf_map,omitempty"` // with the file
	Code    *codeRequest    `json:"code,omitempty"`
	Symbols *symbolsRequest `json:"symbols,omitempty"`
	Walk    *walkRequest    `json:"walk,omitempty"`
	Forget  *forgetRequest  `json:"forget,omitempty"`
}

// imageRequest says what is executable in a process; more regions of the same image
// follow where Append is set.
type imageRequest struct {
	Image     uint64         `json:"image"`
	Append    bool           `json:"append,omitempty"`
	Generates bool           `json:"generates,omitempty"` // its generated code can be asked for
	Regions   []regionOfFile `json:"regions"`
}

type regionOfFile struct {
	stack.Range
	Offset uint64 `json:"o,omitempty"`
	Path   string `json:"p,omitempty"`
	File   bool   `json:"f,omitempty"`
}

// bindRequest says which module a region is of, or why it has none.
type bindRequest struct {
	Image  uint64 `json:"image"`
	Start  uint64 `json:"start"` // of the region
	Module uint64 `json:"module,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type moduleRequest struct {
	Module uint64 `json:"module"`
	Path   string `json:"path,omitempty"` // of the file in its process's root
	VDSO   []byte `json:"vdso,omitempty"` // the bytes, where there is no file
}

type perfMapRequest struct {
	Image uint64 `json:"image"`
}

// codeRequest tells of a piece of generated code; with Fresh, that what was told before
// no longer holds.
type codeRequest struct {
	Image uint64     `json:"image"`
	Fresh bool       `json:"fresh,omitempty"`
	Code  stack.Code `json:"code"`
}

// symbolsRequest asks for the addresses in memory of symbols of a region's module.
type symbolsRequest struct {
	Image uint64   `json:"image"`
	Start uint64   `json:"start"` // of the region
	Names []string `json:"names"`
}

type walkRequest struct {
	Image     uint64           `json:"image"`
	Registers sample.Registers `json:"registers"`
	Window    []byte           `json:"window"`
	Chain     []uint64         `json:"chain,omitempty"`
	G         []byte           `json:"g,omitempty"`           // the goroutine, where there may be one
	NoPerfMap bool             `json:"no_perf_map,omitempty"` // there is none to ask for
}

type forgetRequest struct {
	Image  uint64 `json:"image,omitempty"`
	Module uint64 `json:"module,omitempty"`
}

// answer is what the child says.
type answer struct {
	Error string `json:"error,omitempty"` // the request failed; the child goes on

	Paths     []string `json:"paths,omitempty"`     // of files that belong to the module, best first
	Addresses []uint64 `json:"addresses,omitempty"` // of symbols, 0 where there is none

	// Of a walk.
	NeedsRegion  uint64         `json:"needs_region,omitempty"` // Start of a region whose module is to be bound first
	NeedsPerfMap bool           `json:"needs_perf_map,omitempty"`
	NeedsCode    uint64         `json:"needs_code,omitempty"` // an address in generated code that is to be told of first
	Frames       []record.Frame `json:"frames,omitempty"`
	Generated    []generated    `json:"generated,omitempty"` // which of Frames are to be named, ascending
	Key          []byte         `json:"key,omitempty"`       // equal for equal frames of one image
	End          string         `json:"end,omitempty"`
	Deps         []stack.Dep    `json:"deps,omitempty"`
}

// generated is a frame of generated code that the parent can name.
type generated struct {
	At       int    `json:"at"` // in Frames
	PC       uint64 `json:"pc,omitempty"`
	Method   uint64 `json:"m,omitempty"` // of the interpreter's: what it runs, and where
	Bytecode uint64 `json:"b,omitempty"`
}

// check refuses what no honest child says: its answers are as foreign as the files
// that it read.
func (a *answer) check() error {
	switch {
	case len(a.Frames) > maxAnswerFrames:
		return fmt.Errorf("%d frames", len(a.Frames))
	case len(a.Deps) > stack.MaxDeps:
		return fmt.Errorf("%d dependencies", len(a.Deps))
	case len(a.Paths) > maxPaths:
		return fmt.Errorf("%d paths", len(a.Paths))
	case len(a.Addresses) > maxSymbols:
		return fmt.Errorf("%d addresses", len(a.Addresses))
	}
	last := -1
	for i := range a.Generated {
		at := a.Generated[i].At
		if at <= last || at >= len(a.Frames) {
			return fmt.Errorf("a generated frame %d of %d", at, len(a.Frames))
		}
		last = at
	}
	for _, p := range a.Paths {
		if !path.IsAbs(p) || len(p) >= unix.PathMax || strings.ContainsRune(p, 0) {
			return fmt.Errorf("not a path: %.100q", p)
		}
	}
	return nil
}

// conn is one end of the socket.
type conn struct{ c *net.UnixConn }

func newConn(f *os.File) (*conn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("not a unix socket but %T", c), c.Close())
	}
	return &conn{u}, nil
}

func (c *conn) send(message any, file *os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes; %d are sent", len(b), maxMessage)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	_, _, err = c.c.WriteMsgUnix(b, rights, nil)
	return err
}

// receive reads one message into what into points to. The file is the caller's to close.
func (c *conn) receive(into any, buffer []byte) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(buffer, oob)
	if err != nil {
		return nil, err
	}
	file := fileOf(oob[:oobn])
	switch {
	case n == 0:
		err = errors.New("the other end is closed")
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("a message of more than %d bytes", len(buffer))
	default:
		err = json.Unmarshal(buffer[:n], into)
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close())
		file = nil
	}
	return file, err
}

func fileOf(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var file *os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if file == nil {
				file = os.NewFile(uintptr(fd), "received")
				continue
			}
			_ = unix.Close(fd)
		}
	}
	return file
}
