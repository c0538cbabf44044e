package config

import (
	"bytes"
	"strings"
)

const dotEnvName = ".env"

// dotEnv takes the plain names, and nothing else, from lines NAME=VALUE.
func (ld *loader) dotEnv(content []byte) {
	ld.newLayer()
	line := 0
	content = bytes.TrimPrefix(content, []byte("\ufeff")) // which some editors begin a file with
	for text := range strings.Lines(string(content)) {
		line++
		name, value, ok := dotEnvLine(text)
		if !ok {
			continue
		}
		if k := plainKey(name); k != nil {
			ld.set(k, Origin{LayerDotEnv, dotEnvName, line}, value)
		}
	}
}

// dotEnvLine splits a line. The value may be quoted; a comment begins with # at
// the start of a line or after a space.
func dotEnvLine(text string) (name, value string, ok bool) {
	text = strings.TrimSpace(text)
	text = strings.TrimSpace(strings.TrimPrefix(text, "export "))
	if strings.HasPrefix(text, "#") {
		return "", "", false
	}
	name, value, ok = strings.Cut(text, "=")
	return strings.TrimSpace(name), unquote(strings.TrimSpace(value)), ok
}

func unquote(value string) string {
	if value != "" && (value[0] == '"' || value[0] == '\'') {
		if end := strings.IndexByte(value[1:], value[0]); end >= 0 {
			return value[1 : 1+end]
		}
	}
	if i := strings.Index(value, " #"); i >= 0 {
		value = value[:i]
	}
	if strings.HasPrefix(value, "#") {
		value = ""
	}
	return strings.TrimSpace(value)
}
