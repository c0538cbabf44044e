// Package execcmd is the command exec, also under the name resource_monitor: its flags, what
// a job's output is written to, signals, terminals and exit statuses. Package job runs the
// job.
package execcmd
