// Package dashboard shows a running agent in a browser. It listens on an ephemeral
// port of the loopback interface for the one user who was given a token, and passes
// questions on to the agent's socket; the agent answers what that user may know.
package dashboard
