// Package filewatch sees when a job marks a moment by something that it does to a
// file: it makes or deletes it, cuts it short, or writes a line that matches a pattern.
// Files are looked at ten times a second, by a goroutine of its own, because a
// filesystem may hang: what is made and deleted again in between is not seen.
package filewatch
