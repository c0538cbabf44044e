// Package cmdline is what rmagent's programs share: flags that every command takes, what
// mistakes read like, exit statuses, and text on a terminal.
package cmdline
