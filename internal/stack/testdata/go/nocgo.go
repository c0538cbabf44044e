//go:build !cgo

package main

func cgo(string) {}
