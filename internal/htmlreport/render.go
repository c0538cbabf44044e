package htmlreport

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
	"sync"
)

//go:embed web/page.html
var pageHTML string

//go:embed web/page.css
var pageCSS string

//go:embed web/page.js
var pageJS string

// pageTemplate is parsed when it is needed: most commands, and short ones, write no report.
var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Parse(pageHTML))
})

// policy lets the page do nothing but run its own script: should a name from the
// records ever get through the escaping, it would still not run or load anything.
func policy() string {
	sum := sha256.Sum256([]byte(pageJS))
	return "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; script-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func render(w io.Writer, p *page) error {
	return pageTemplate().Execute(w, struct {
		Page   *page
		Policy string
		Style  template.CSS
		Script template.JS
	}{p, policy(), template.CSS(pageCSS), template.JS(pageJS)})
}

// Data is what the page's script shows of the section's charts, by their IDs.
func (s section) Data() map[string]chartData {
	data := map[string]chartData{}
	for _, c := range s.Charts {
		data[c.ID] = c.Data
	}
	for _, l := range s.Leaks {
		if l.Chart != nil {
			data[l.Chart.ID] = l.Chart.Data
		}
	}
	return data
}
