// Command serve is the least that a server in Go does: net/http answers on the unix socket
// SOCKET with as many bytes of memory as each request asks for (?bytes=N), and nothing
// else. It prints a line once it answers.
package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
)

const most = 64 << 20

func main() {
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	body := bytes.Repeat([]byte("0123456789abcde\n"), most/16)
	fmt.Fprintln(os.Stderr, "serve:", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("bytes"))
		if err != nil || n < 0 || n > most {
			http.Error(w, "bytes: want a number", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(body[:n]) // a client that is gone is no failure
	})))
	os.Exit(1)
}
