package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// completed asks a shell, with the completion that is printed for it, what a line may
// become.
var completed = map[string]string{
	"bash": `. "$1"; COMP_WORDS=($2); [[ $2 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _rmagent 2>/dev/null; printf '%s\n' "${COMPREPLY[@]}"`,
	"fish": `source $argv[1]; complete -C $argv[2]`,
	// zsh completes in its line editor only: in a terminal of its own, one key lists
	// what there is, unless another is pressed before; so $3, which comes last, is waited for.
	"zsh": `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; unsetopt zle_bracketed_paste; fpath=(${1:h} \$fpath); autoload -U compinit; compinit -u -D; bindkey '^I' list-choices; LISTMAX=1000; stty cols 200 rows 200"
zpty -w z "print REA''DY"
zpty -r -m z line '*READY*'
zpty -w -n z "$2"$'\t'
zpty -r -m z line "*$3*"
print -r -- $line`,
}

// TestCompletions has each shell complete commands and flags.
func TestCompletions(t *testing.T) {
	for shell, script := range completed {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Fatalf("%s is not installed; scripts/setup test installs it", shell)
			}
			printed, err := agentCommand(t, "completion", shell).Output()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "_rmagent")
			if err := os.WriteFile(file, printed, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			for _, c := range []struct {
				line      string
				want, not []string // what is wanted comes in the order of the alphabet
			}{
				{"rmagent ", []string{"exec", "fds", "headroom", "version"}, []string{"--json"}},
				{"rmagent he", []string{"headroom"}, []string{"doctor"}},
				{"rmagent headroom --", []string{"--config", "--json", "--pid"}, []string{"--jsonl"}},
				{"rmagent run --j", []string{"--jsonl"}, []string{"--files"}},
			} {
				last := c.want[len(c.want)-1]
				args := []string{"-c", script, shell, file, c.line, last}
				if shell == "fish" {
					args = []string{"--no-config", "-c", script, file, c.line}
				}
				cmd := exec.CommandContext(ctx, path, args...)
				cmd.Env = append(os.Environ(), "TERM=dumb", "HOME="+t.TempDir())
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%q: %v: %s", c.line, err, out)
				}
				words := strings.Fields(string(out))
				has := func(w string) bool {
					for _, word := range words {
						if word == w {
							return true
						}
					}
					return false
				}
				for _, w := range c.want {
					if !has(w) {
						t.Errorf("%q does not offer %s:\n%s", c.line, w, out)
					}
				}
				for _, w := range c.not {
					if has(w) {
						t.Errorf("%q offers %s", c.line, w)
					}
				}
			}
		})
	}
}
