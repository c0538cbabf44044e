package server

import (
	_ "embed"
	"net/http"
)

// openAPI document: made of the routes and the types by `go generate`, and held
// against both by a test.
//
//go:generate go test -run ^TestOpenAPI$ -update .
//go:embed openapi.json
var openAPIDocument []byte

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) error {
	return writeBytes(w, "application/json", openAPIDocument)
}
