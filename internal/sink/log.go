package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"rmagent/record"
)

// logQueueBytes bounds the log lines that wait: some thousand.
const logQueueBytes = 1 << 20

// How often one message may be logged a second before most of it is left out.
const (
	sampleFirst      = 10
	sampleThereafter = 100 // of which one is kept
)

// LogOptions says where the log goes. The words are those of the configuration.
type LogOptions struct {
	Level  string // debug, info, warn or error
	Format string // json, console, or auto: console on a terminal, else json
	File   string // empty: Stderr
	// WarningsFile gets warnings and errors. They stay in File, if there is one,
	// but no longer appear on Stderr.
	WarningsFile string
	Stderr       *os.File
}

// Log is the agent's log.
type Log struct {
	console bool
	logger  *zap.Logger
	level   zap.AtomicLevel
	writers []*writer
	dropped atomic.Uint64
}

// OpenLog opens the log.
func OpenLog(o LogOptions) (*Log, error) {
	level, err := zap.ParseAtomicLevel(o.Level)
	if err != nil {
		return nil, fmt.Errorf("read the log level: %w", err)
	}
	l := &Log{level: level}
	main := zapcore.LevelEnabler(level)
	if o.WarningsFile != "" && o.File == "" {
		main = zap.LevelEnablerFunc(func(v zapcore.Level) bool { return level.Enabled(v) && v < zapcore.WarnLevel })
	}
	core, err := l.core(o, o.File, main)
	if err != nil {
		return nil, err
	}
	if o.WarningsFile != "" {
		warnings, err := l.core(o, o.WarningsFile, zap.LevelEnablerFunc(func(v zapcore.Level) bool {
			return level.Enabled(v) && v >= zapcore.WarnLevel
		}))
		if err != nil {
			return nil, errors.Join(err, l.Close(context.Background()))
		}
		core = zapcore.NewTee(core, warnings)
	}
	sampler := zapcore.NewSamplerWithOptions(core, time.Second, sampleFirst, sampleThereafter,
		zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
			if d&zapcore.LogDropped != 0 {
				l.dropped.Add(1)
			}
		}))
	core = &sparingly{Core: sampler, whole: core}
	l.console = o.console(o.File)
	l.logger = zap.New(core, zap.ErrorOutput(zapcore.AddSync(nowhere{})))
	return l, nil
}

// onceEach are the messages that tell of one thing each, once: twenty processes that
// begin to leak in one second are twenty lines that repeat nothing.
var onceEach = map[string]bool{"leak": true, "state": true, "oom_kill": true, "prune": true, "action": true}

// sparingly thins out messages that repeat, and leaves the others whole.
type sparingly struct {
	zapcore.Core // thins out
	whole        zapcore.Core
}

func (s *sparingly) With(fields []zapcore.Field) zapcore.Core {
	return &sparingly{Core: s.Core.With(fields), whole: s.whole.With(fields)}
}

func (s *sparingly) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if onceEach[e.Message] {
		return s.whole.Check(e, to)
	}
	return s.Core.Check(e, to)
}

// nowhere takes zap's complaints about its own output, which never fails.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// console tells whether the log at path, empty for stderr, is for a person to read.
func (o *LogOptions) console(path string) bool {
	return o.Format == "console" || o.Format != "json" && path == "" && isTerminal(o.Stderr)
}

// core makes a core that writes to a file, or to stderr where path is empty.
func (l *Log) core(o LogOptions, path string, enabled zapcore.LevelEnabler) (zapcore.Core, error) {
	t, err := openLogTarget(path, o.Stderr)
	if err != nil {
		return nil, err
	}
	w := newWriter(t, logQueueBytes)
	l.writers = append(l.writers, w)
	console := o.console(path)
	return zapcore.NewCore(encoderOf(console), &lineSyncer{w: w, console: console}, enabled), nil
}

func openLogTarget(path string, stderr *os.File) (*target, error) {
	if path == "" {
		return inheritTarget(stderr)
	}
	t, err := openTarget(path)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return t, nil
}

func encoderOf(console bool) zapcore.Encoder {
	c := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", NameKey: "logger", MessageKey: "message",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.SecondsDurationEncoder,
		EncodeTime: func(t time.Time, e zapcore.PrimitiveArrayEncoder) {
			e.AppendString(t.UTC().Format("2006-01-02T15:04:05.000000000Z"))
		},
	}
	if !console {
		return zapcore.NewJSONEncoder(c)
	}
	c.EncodeLevel = zapcore.CapitalLevelEncoder
	c.EncodeDuration = zapcore.StringDurationEncoder
	c.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	return zapcore.NewConsoleEncoder(c)
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || st.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	_, err = unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Console reports whether the log is for a person to read.
func (l *Log) Console() bool { return l.console }

// Logger returns zap's logger.
func (l *Log) Logger() *zap.Logger { return l.logger }

// SetLevel changes the level, as a reload of the configuration does.
func (l *Log) SetLevel(level string) error {
	v, err := zapcore.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("read the log level: %w", err)
	}
	l.level.SetLevel(v)
	return nil
}

// Reopen has the files opened anew, as JSONL.Reopen does.
func (l *Log) Reopen() {
	for _, w := range l.writers {
		w.reopen()
	}
}

// Lost returns how many lines were lost, because a target was slow, full or gone.
func (l *Log) Lost() uint64 {
	var sum uint64
	for _, w := range l.writers {
		_, lost := w.counters()
		for _, n := range lost {
			sum += n
		}
	}
	return sum
}

// Close writes the rest, as JSONL.Close does. It says first how many lines were left
// out because they repeated. That nobody reads the log any more is no error.
func (l *Log) Close(ctx context.Context) error {
	if n := l.dropped.Load(); n > 0 {
		l.logger.Info("log lines that repeated were left out", zap.Uint64("lines", n))
	}
	var errs []error
	for _, w := range l.writers {
		if err := w.close(ctx); !errors.Is(err, ErrReaderGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Foreign is a field for bytes from elsewhere: names, paths, arguments. What is
// not UTF-8 appears as in a record.
func Foreign[T string | []byte](key string, text T) zap.Field {
	return zap.String(key, record.Text([]byte(text)))
}

// syncTimeout bounds how long zap's Sync waits.
const syncTimeout = time.Second

// lineSyncer is the zapcore.WriteSyncer over a writer. It never fails: what is
// lost is counted.
type lineSyncer struct {
	w       *writer
	console bool
}

func (s *lineSyncer) Write(p []byte) (int, error) {
	// appendLine has no error.
	_, _ = s.w.add(func(dst []byte) ([]byte, error) { return appendLine(dst, p, s.console), nil })
	_ = s.w.flushNow() // Lost tells
	return len(p), nil
}

func (s *lineSyncer) Sync() error {
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	return s.w.sync(ctx)
}
