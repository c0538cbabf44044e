package config

import (
	"encoding/json"
	"strings"
)

// Schema returns a JSON schema (draft 2020-12) of the YAML file, made of the same
// table of keys as everything else, so that an editor completes and checks the file.
// What depends on two keys (thresholds in their order) only Load checks.
func Schema() []byte {
	root := object()
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "rmagent configuration"
	for i := range keys {
		k := &keys[i]
		into := root
		parts := strings.Split(k.name, ".")
		for _, group := range parts[:len(parts)-1] {
			properties := into["properties"].(map[string]any)
			inner, ok := properties[group].(map[string]any)
			if !ok {
				inner = object()
				properties[group] = inner
			}
			into = inner
		}
		into["properties"].(map[string]any)[parts[len(parts)-1]] = k.schema()
	}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("a schema of plain values: " + err.Error())
	}
	return append(b, '\n')
}

func object() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
}

// schema describes one key.
func (k *key) schema() map[string]any {
	s := k.shape()
	var about []string
	if k.about != "" {
		about = append(about, k.about)
	}
	about = append(about, "Allowed: "+k.allowed+".")
	if k.restart {
		about = append(about, "A change takes effect at the next start.")
	}
	s["description"] = strings.Join(about, ". ")
	if k.def != nil {
		s["default"] = k.plain(k.def)
	}
	return s
}

func (k *key) shape() map[string]any {
	switch k.form {
	case formNumber:
		s := map[string]any{"type": "number", "minimum": k.low, "maximum": k.high}
		if _, whole := k.def.(int); whole {
			s["type"] = "integer"
		}
		return s
	case formSpan:
		number := map[string]any{"type": "number", "minimum": k.low, "maximum": k.high}
		return map[string]any{"anyOf": []any{number, map[string]any{"type": "string", "pattern": "^[0-9]"}}}
	case formBool:
		return map[string]any{"type": "boolean"}
	case formList:
		element := map[string]any{"type": "string"}
		if k.words != nil {
			element["enum"] = k.words
		}
		array := map[string]any{"type": "array", "items": element}
		if !k.empty {
			array["minItems"] = 1
		}
		if !k.commas {
			return array
		}
		return map[string]any{"anyOf": []any{array, map[string]any{"type": "string"}}}
	case formItems:
		return map[string]any{"type": "array", "maxItems": maxItems, "items": k.itemSchema()}
	}
	s := map[string]any{"type": "string"}
	if k.words != nil {
		s["enum"] = k.words
	}
	return s
}

func (k *key) itemSchema() map[string]any {
	item := object()
	var required []string
	for i := range k.fields {
		f := &k.fields[i]
		item["properties"].(map[string]any)[f.name] = f.schema()
		if f.def == nil {
			required = append(required, f.name)
		}
	}
	if required != nil {
		item["required"] = required
	}
	return item
}
