package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCategory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var many strings.Builder
	for i := range 60 {
		memory := "300"
		if i%5 == 0 {
			memory = "3000"
		}
		many.WriteString(`{"category":"render\u001b[2J","exit_type":"normal","wall_time":[60,"s"],"memory":[` + memory + `,"MB"]}` + "\n")
	}
	jobs := write("jobs", many.String())
	other := write("other", `{"category":"b","exit_type":"limits","wall_time":[1,"s"],"memory":[10,"MB"]}`)

	r := runToEnd(t, agentCommand(t, "category", "--mode", "throughput", jobs, other))
	want := `b: 1 job, 1 ended by a limit
               MOST SEEN  MODE        GIVE AT FIRST RUN AGAIN  UNUSED  THROUGHPUT
  cores          unknown
  memory           10 MB  throughput        unknown         -       -  -
  disk           unknown
  gpus           unknown

render?[2J: 60 jobs
               MOST SEEN  MODE        GIVE AT FIRST RUN AGAIN  UNUSED  THROUGHPUT
  cores          unknown
  memory         3000 MB  throughput         500 MB  12 of 60    24 %  4.2 a minute
  disk           unknown
  gpus           unknown

(all): 61 jobs, 1 ended by a limit
               MOST SEEN  MODE        GIVE AT FIRST RUN AGAIN  UNUSED  THROUGHPUT
  cores          unknown
  memory         3000 MB  throughput         500 MB  12 of 60    24 %  4.2 a minute
  disk           unknown
  gpus           unknown
`
	if r.status != 0 || r.stdout != want {
		t.Errorf("exit status %d, %s\n%s", r.status, r.stderr, r.stdout)
	}

	r = runToEnd(t, agentCommand(t, "category", "--json", jobs))
	var report categoriesJSON
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.status != 0 {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	if len(report.Categories) != 2 || report.Categories[0].Jobs != 60 || len(report.Categories[0].Resources[1].Allocations) != 4 {
		t.Errorf("%+v", report)
	}

	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, 2, "no file of summaries is named"},
		{[]string{"--mode", "best", jobs}, 2, `--mode "best": allowed are fixed, max, throughput and waste`},
		{[]string{filepath.Join(dir, "none")}, 1, "none: no such file or directory"},
		{[]string{write("empty", "# nothing\n")}, 1, "empty: no job is in it"},
		{[]string{write("bad", "{\n\"memory\": [1, \"s\"]}")}, 1, `bad:1: memory: unit "s" makes no sense`},
	} {
		r := runToEnd(t, agentCommand(t, append([]string{"category"}, tt.args...)...))
		if r.status != tt.status || !strings.Contains(r.stderr, tt.says) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
			t.Errorf("%q: exit status %d, %s%s", tt.args, r.status, r.stdout, r.stderr)
		}
	}
}
