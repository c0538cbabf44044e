package report

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

// Culprit returns which frame of a stack is the program's own code that asked for the
// descriptor: the first that is no function of a C, C++ or language runtime, also one of a
// stripped program, that has no name. Where all are, it is the first with a name that is
// not the C library's; -1 where no frame has a name.
func Culprit(stack []record.Frame) int {
	named, passed := -1, -1
	for i := range stack {
		f := &stack[i]
		if own(f) {
			return i
		}
		if !f.Function.Known() {
			continue
		}
		if named < 0 {
			named = i
		}
		if passed < 0 && !cLibrary(f) {
			passed = i
		}
	}
	if passed >= 0 {
		return passed
	}
	return named
}

// own tells whether a frame is of code that is known, and no runtime's.
func own(f *record.Frame) bool { return (f.Function.Known() || f.Module.Known()) && !Runtime(f) }

// cLibraries are the shared libraries that the C library consists of, and runtimes the
// others that only pass a call on.
var (
	cLibraries = []string{"libc.so", "libc-", "libpthread", "ld-linux", "ld-musl", "[vdso]"}
	runtimes   = []string{
		"libstdc++", "libgcc_s", "libuv", "libjvm", "libnio", "libnet.so", "libjava", "libm.so", "libpython", "python3", "libnode",
	}
)

// cLibrary tells whether a frame is of the C library, which may be a part of the program.
func cLibrary(f *record.Frame) bool {
	name := f.Function.Or("")
	if libc[name] || strings.HasPrefix(name, "__libc_") || strings.HasPrefix(name, "__GI_") || strings.HasPrefix(name, "_IO_") {
		return true
	}
	base := path.Base(f.Module.Or(""))
	return slices.ContainsFunc(cLibraries, func(l string) bool { return strings.HasPrefix(base, l) })
}

// runtimePrograms are the programs that only run what others wrote.
var runtimePrograms = map[string]bool{"node": true, "nodejs": true}

// pythonStandard tells whether a file is of Python's standard library.
func pythonStandard(file string) bool {
	return strings.HasPrefix(file, "<frozen ") || strings.Contains(file, "/lib/python3") &&
		!strings.Contains(file, "/site-packages/") && !strings.Contains(file, "/dist-packages/")
}

// javaStandard tells whether a method is of the JDK.
func javaStandard(method string) bool {
	for _, p := range []string{"java.", "javax.", "jdk.", "sun.", "com.sun."} {
		if strings.HasPrefix(method, p) {
			return true
		}
	}
	return false
}

// Runtime tells whether a frame is a runtime's: it only passes on what others asked
// for. Of Go, everything of its standard library is.
func Runtime(f *record.Frame) bool {
	switch f.Language.Or("") {
	case "":
	case "java":
		return javaStandard(f.Function.Or(""))
	case "javascript":
		return strings.HasPrefix(f.File.Or(""), "node:") || !f.File.Known() // its builtins have none
	case "python":
		return pythonStandard(f.File.Or(""))
	default:
		return false
	}
	module := f.Module.Or("")
	base := path.Base(module)
	if runtimePrograms[base] || strings.Contains(module, "/lib-dynload/") { // CPython's own extensions
		return true
	}
	for _, r := range runtimes {
		if strings.HasPrefix(base, r) {
			return true
		}
	}
	name, file := f.Function.Or(""), f.File.Or("")
	if strings.HasPrefix(name, "std::") || strings.HasPrefix(name, "core::") || strings.HasPrefix(name, "<std::") || cLibrary(f) {
		return true
	}
	return (strings.HasSuffix(file, ".go") || strings.HasSuffix(file, ".s")) && goStandard(name)
}

// libc is what a static program has of its C library right above the system call.
var libc = func() map[string]bool {
	m := map[string]bool{}
	for _, name := range strings.Fields(`open open64 openat openat64 creat fopen fopen64 fdopen freopen opendir socket accept accept4
		pipe pipe2 dup dup2 dup3 eventfd epoll_create epoll_create1 inotify_init inotify_init1 timerfd_create signalfd
		memfd_create socketpair recvmsg syscall mkstemp mkstemp64 mkostemp tmpfile popen shm_open __open __open64 __open_nocancel
		__open64_nocancel __openat64 __fopen_internal __socket __pipe __libc_open64 __clone clone clone3 start_thread _start
		__syscall_cp __syscall_cp_c __syscall_cp_asm __cp_begin __cp_end start sccp`) {
		m[name] = true
	}
	return m
}()

// goStandard tells whether a Go function is of the standard library: the first
// element of its import path has no dot, and it is not package main.
func goStandard(function string) bool {
	first, _, deep := strings.Cut(function, "/")
	if !deep {
		first, _, _ = strings.Cut(function, ".")
		return first != "main" && goPackages[first]
	}
	return goPackages[first]
}

// goPackages are the first elements of the standard library's import paths that open
// descriptors, or lie between.
var goPackages = func() map[string]bool {
	m := map[string]bool{}
	for _, name := range strings.Fields("runtime syscall internal os net io bufio crypto vendor context sync reflect time database log embed archive compress mime html text go plugin testing iter slices maps sort") {
		m[name] = true
	}
	return m
}()

// Generated is how many frames a stack begins with that are of generated code that
// nobody names: they have neither a function nor a file.
func Generated(stack []record.Frame) (n int) {
	nameless := func(f *record.Frame) bool {
		return !f.Function.Known() && !f.Module.Known() && !f.Language.Known()
	}
	for n < len(stack) && nameless(&stack[n]) {
		n++
	}
	return n
}

// GeneratedText says in words that a stack has so many of those, and, where it is
// known, how they get names.
func GeneratedText(n int, stack []record.Frame) string {
	text := fmt.Sprintf("%d frames of generated code", n)
	if n == 1 {
		text = "1 frame of generated code"
	}
	if slices.ContainsFunc(stack, isNode) {
		text += ": node names it if run with --perf-basic-prof --interpreted-frames-native-stack"
	}
	return text
}

// probably follows a place that is a guess.
const probably = " (probably)"

// Place names where a stack asked for a descriptor: "open_log at log.c:57", empty
// where nothing is known, and with "(probably)" where it is a guess. Where that has no name,
// who called it is told, too; and where it is only the C library's part that is known, that
// is said.
func Place(stack []record.Frame) string {
	return marked(locate(stack))
}

func marked(place string, guess bool) string {
	if guess {
		return place + probably
	}
	return place
}

// locate is Place, and whether it is a guess.
func locate(stack []record.Frame) (text string, guess bool) {
	i := Culprit(stack)
	if i < 0 {
		if len(stack) > 0 && stack[0].Module.Known() {
			return FrameName(&stack[0]), stack[0].Guess.Known()
		}
		return "", false
	}
	f := &stack[i]
	guess = f.Guess.Known()
	switch {
	case !f.Function.Known():
		named := func(f record.Frame) bool { return f.Function.Known() && own(&f) }
		if n := slices.IndexFunc(stack[i:], named); n >= 0 {
			return FrameName(f) + ", called by " + place(&stack[i+n]), guess || stack[i+n].Guess.Known()
		}
		return FrameName(f), guess
	case !own(f) && cLibrary(f):
		return "an unknown caller of " + place(f), false
	}
	return place(f), guess
}

func place(f *record.Frame) string {
	where := f.Function.Or("")
	switch {
	case f.File.Known() && f.Line.Known():
		where += fmt.Sprintf(" at %s:%d", path.Base(f.File.Or("")), f.Line.Or(0))
	case f.File.Known():
		where += " in " + path.Base(f.File.Or(""))
	case f.Module.Known():
		where += " in " + path.Base(f.Module.Or(""))
	}
	return where
}

// GuessText is what follows the frame that is to blame, where that is a guess.
func GuessText(f *record.Frame) string { return marked("", f.Guess.Known()) }

// FrameName is a frame's function, or where in which file it is.
func FrameName(f *record.Frame) string {
	if name, ok := f.Function.Get(); ok {
		return name
	}
	return fmt.Sprintf("%s+0x%x", path.Base(f.Module.Or("?")), f.Offset.Or(0))
}

// LeakMessage says in a sentence what a leak record means.
func LeakMessage(r *record.Leak) string {
	who := fmt.Sprintf("%s (pid %d)", r.Comm, r.PID)
	usage := fmt.Sprintf("%d descriptors are open", r.FDOpen.Or(0))
	if limit, ok := r.FDLimit.Get(); ok {
		usage = fmt.Sprintf("%d/%d descriptors are open", r.FDOpen.Or(0), limit)
	}
	if r.Verdict == record.VerdictOver && len(r.Sites) == 0 {
		return fmt.Sprintf("%s ended: %s last", who, strings.Replace(usage, " are ", " were ", 1))
	}
	if r.Verdict == record.VerdictOver {
		return fmt.Sprintf("%s no longer gathers descriptors: %s", who, usage)
	}
	verb := "gathers"
	if r.Verdict == record.VerdictLeaking {
		verb = "leaks"
	}
	m := fmt.Sprintf("%s %s descriptors: %s%s", who, verb, usage, GrowthText(r))
	places := ByPlace(r.Sites)
	if i := slices.IndexFunc(places, func(o Opener) bool { return o.Place != "" }); i >= 0 {
		o := &places[i]
		what := o.Type
		if target, ok := o.Target.Get(); ok {
			what += " " + target
		}
		least := ""
		if o.Ways > 1 && r.Unattributed["not_listed"] > 0 {
			least = "at least "
		}
		m += fmt.Sprintf("; %s%d of these (%s) were opened by %s", least, o.Held, what, o.Place)
		if o.Ways > 1 {
			m += fmt.Sprintf(", reached by %s%d ways", least, o.Ways)
		}
	}
	return m
}

// Opener is what one place in the code holds of one type and target, whoever called it.
type Opener struct {
	*record.Site        // the worst of those that it sums up
	Held         uint64 // of all of them
	Place        string // as Place has it; empty where it is not known
	Ways         int    // how many stacks lead there
}

// ByPlace puts together what sites hold that differ only in who called the place that
// opened it. They stay in the order of their first site.
func ByPlace(sites []record.Site) []Opener {
	type key struct {
		place, kind, end string
		target           record.Opt[string]
	}
	var list []Opener
	at := map[key]int{}
	for i := range sites {
		s := &sites[i]
		place, guess := locate(s.Stack)
		k := key{place: place, kind: s.Type, target: s.Target}
		if place == "" {
			k.end = s.StackEnd.Or("")
		}
		n, met := at[k]
		if !met {
			n = len(list)
			at[k] = n
			list = append(list, Opener{Site: s, Place: marked(place, guess)})
		}
		list[n].Held += s.Held
		list[n].Ways++
	}
	return list
}

// Full tells whether all descriptors are open that a process may have.
func Full(r *record.Leak) bool {
	limit, limited := r.FDLimit.Get()
	return limited && r.FDOpen.Or(0) >= limit
}

// GrowthText says in words how fast a process nears its limit, or that it is there;
// empty where it does not grow.
func GrowthText(r *record.Leak) string {
	rate := r.GrowthPerSecond.Or(0)
	switch left, ok := r.SecondsToLimit.Get(); {
	case Full(r):
		return ": it is full, and opens fail (EMFILE)"
	case rate <= 0:
		return ""
	case ok:
		return ", " + human.Rate(rate) + " more, full in " + human.Seconds(left)
	}
	return ", " + human.Rate(rate) + " more"
}

// opened is the first site whose code is known.
func opened(r *record.Leak) *record.Site {
	for i := range r.Sites {
		if Place(r.Sites[i].Stack) != "" {
			return &r.Sites[i]
		}
	}
	return nil
}

// LeakAdvice says what to do about it. A record does not have the hard limit.
func LeakAdvice(r *record.Leak) string {
	if r.Verdict == record.VerdictOver {
		return ""
	}
	advice := ""
	if r.Verdict == record.VerdictGrowing {
		advice = "It may be a pool that fills; it is called a leak when the evidence is there. "
	}
	if s := opened(r); s != nil && unnamed(s.Stack) {
		advice += "Run node with --perf-basic-prof --interpreted-frames-native-stack to see its functions. "
	}
	return advice + fmt.Sprintf("See what it holds and who opened it: rmagent fds --pid %d. "+
		"To gain time: prlimit --pid %d --nofile=N: (a higher soft limit; N:N, as root, where N is above the hard limit), or restart it.", r.PID, r.PID)
}

// unnamed tells whether a stack is Node's, and nobody names what ran in it.
func unnamed(stack []record.Frame) bool {
	return slices.ContainsFunc(stack, isNode) && Runtime(&stack[max(0, Culprit(stack))])
}

func isNode(f record.Frame) bool { return runtimePrograms[path.Base(f.Module.Or(""))] }

// RuleText says in words what evidence a rule asks for.
func RuleText(rule string) string {
	switch rule {
	case "survivors":
		return "far outlive what else is closed"
	case "never_closed":
		return "never closed, while others are"
	case "limit_near":
		return "the limit is near"
	}
	return strings.ReplaceAll(rule, "_", " ")
}

// NoStackText says in words why a site has no stack, by its stack_end.
func NoStackText(reason string) string {
	switch reason {
	case "before_tracing":
		return "opened before it was watched"
	case "untraced_call":
		return "opened by a call that can't be traced"
	case "":
		return "no stack"
	}
	return "no stack: " + strings.ReplaceAll(reason, "_", " ")
}

// Unlisted are the reasons of a record's unattributed descriptors that are in none of
// its sites.
var Unlisted = []string{"not_listed", "not_read", "not_permitted"}

// UnlistedText says what is to be said behind a number of them.
func UnlistedText(reason string) string {
	switch reason {
	case "not_read":
		return "could not be read"
	case "not_permitted":
		return "may not be read: permission denied"
	}
	return strings.ReplaceAll(reason, "_", " ")
}
