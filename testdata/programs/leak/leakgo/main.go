// Command leakgo leaks ten descriptors a second in one function, as leak.c does: files,
// or the bodies of HTTP responses.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"
)

type session struct{ kept []any }

//go:noinline
func (s *session) leakFile() {
	f, err := os.Open("/etc/hostname") // LEAK file
	if err != nil {
		panic(err)
	}
	s.kept = append(s.kept, f)
}

//go:noinline
func (s *session) leakBody(url string) {
	r, err := http.Get(url) // LEAK body
	if err != nil {
		panic(err)
	}
	s.kept = append(s.kept, r)
}

//go:noinline
func honest(int) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		panic(err)
	}
	f.Close()
}

func main() {
	url := ""
	if len(os.Args) > 1 { // the address of a server
		url = os.Args[1]
	}
	if url == "serve" {
		serve()
		return
	}
	s := &session{}
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		close(lines)
	}()
	fmt.Println("ready")
	leaking := false
	tick := time.NewTicker(100 * time.Millisecond)
	for {
		select {
		case <-tick.C:
			for n := range 20 {
				honest(n)
			}
			switch {
			case leaking && url != "":
				s.leakBody(url)
			case leaking:
				s.leakFile()
			}
		case _, ok := <-lines:
			if !ok {
				return
			}
			if leaking {
				fmt.Println(len(s.kept))
			}
			leaking = !leaking
		}
	}
}

// serve answers with bodies that are too long to be read by the way.
func serve() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 1<<20))
	}))
	fmt.Println(srv.URL)
	fmt.Println("ready")
	bufio.NewScanner(os.Stdin).Scan()
}
