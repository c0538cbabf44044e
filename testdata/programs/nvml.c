/*
 * An NVML for tests: libnvidia-ml.so.1 with the functions that rmagent-nvml calls,
 * played from a script that lies beside the library as "script" and is read anew
 * where it is another when the library is initialized or the cards are counted. A
 * line each:
 *
 *	driver VERSION
 *	gpu UUID UTIL% TOTAL USED CELSIUS MILLIWATTS ENC% DEC%   numbered from 0
 *	mig UUID TOTAL USED                     a part of the last gpu, MIG being on
 *	process KIND PID BYTES UTIL%            on the last gpu or mig; KIND is
 *	                                        compute, graphics or mps
 *	fail FUNCTION CODE [INDEX]              of all cards, or one
 *	hang FUNCTION
 *	crash FUNCTION
 *
 * OLD leaves out what libraries of before MIG lack.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MAX_DEVICES = 64, MAX_PARTS = 8, MAX_PROCESSES = 256, MAX_RULES = 64 };

struct process {
	char kind;
	unsigned pid, util;
	unsigned long long bytes;
};

struct device {
	char uuid[96];
	int index, part; /* part is -1 for a card */
	unsigned util, celsius, milliwatts, enc, dec;
	unsigned long long total, used;
	int nparts, nprocesses;
	struct device *parts;
	struct process processes[MAX_PROCESSES];
};

static struct device devices[MAX_DEVICES], parts[MAX_DEVICES][MAX_PARTS];
static int ndevices;
static char driver[80];

static struct rule {
	char verb[8], function[64];
	int code, index;
} rules[MAX_RULES];
static int nrules;

static void parse(char *line)
{
	struct device *d = ndevices ? &devices[ndevices - 1] : NULL;
	struct device *last = d && d->nparts ? &d->parts[d->nparts - 1] : d;
	struct device n = { .part = -1 };
	struct process p;
	struct rule r = { .code = 999, .index = -1 };
	char kind[16];

	if (sscanf(line, "driver %79s", driver) == 1)
		return;
	if (sscanf(line, "gpu %95s %u %llu %llu %u %u %u %u", n.uuid, &n.util, &n.total, &n.used, &n.celsius, &n.milliwatts, &n.enc, &n.dec) == 8 && ndevices < MAX_DEVICES) {
		n.index = ndevices;
		n.parts = parts[ndevices];
		devices[ndevices++] = n;
	} else if (d && sscanf(line, "mig %95s %llu %llu", n.uuid, &n.total, &n.used) == 3 && d->nparts < MAX_PARTS) {
		n.index = d->index;
		n.part = d->nparts;
		d->parts[d->nparts++] = n;
	} else if (last && sscanf(line, "process %15s %u %llu %u", kind, &p.pid, &p.bytes, &p.util) == 4 && last->nprocesses < MAX_PROCESSES) {
		p.kind = kind[0];
		last->processes[last->nprocesses++] = p;
	} else if (sscanf(line, "%7s %63s %d %d", r.verb, r.function, &r.code, &r.index) >= 2 && nrules < MAX_RULES) {
		rules[nrules++] = r;
	}
}

static void play(void)
{
	Dl_info self;
	static struct stat read;
	struct stat now;
	char path[4096], line[512];
	FILE *f;

	if (!dladdr((void *)play, &self))
		return;
	snprintf(path, sizeof path, "%.*sscript", (int)(strrchr(self.dli_fname, '/') + 1 - self.dli_fname), self.dli_fname);
	if (stat(path, &now) || (now.st_ino == read.st_ino && now.st_mtim.tv_sec == read.st_mtim.tv_sec &&
				 now.st_mtim.tv_nsec == read.st_mtim.tv_nsec))
		return;
	read = now;
	ndevices = nrules = 0;
	if (!(f = fopen(path, "r")))
		return;
	while (fgets(line, sizeof line, f))
		parse(line);
	fclose(f);
}

/* obey does what the script says of a function, and returns what it shall return. */
static int obey(const char *function, int index)
{
	for (int i = 0; i < nrules; i++) {
		struct rule *r = &rules[i];

		if (strcmp(r->function, function) || (r->index >= 0 && r->index != index))
			continue;
		if (!strcmp(r->verb, "hang"))
			for (;;)
				pause();
		if (!strcmp(r->verb, "crash"))
			raise(SIGSEGV);
		return r->code;
	}
	return SUCCESS;
}

#define OBEY(index) do { int obeyed = obey(__func__, index); if (obeyed) return obeyed; } while (0)
#define CARD_ONLY(d) do { if ((d)->part >= 0) return NOT_SUPPORTED; OBEY((d)->index); } while (0)

static int text(char *to, unsigned size, const char *from)
{
	if (strlen(from) >= size)
		return INSUFFICIENT_SIZE;
	strcpy(to, from);
	return SUCCESS;
}

int nvmlInit_v2(void)
{
	printf("chatter of the library\n");
	fflush(stdout);
	play();
	OBEY(-1);
	return SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code)
{
	static char s[32];

	switch (code) {
	case 4: return "Insufficient Permissions";
	case 15: return "GPU is lost";
	case 18: return "Driver/library version mismatch";
	}
	snprintf(s, sizeof s, "Error %d", code);
	return s;
}

int nvmlSystemGetDriverVersion(char *v, unsigned n) { return text(v, n, driver); }
int nvmlSystemGetNVMLVersion(char *v, unsigned n) { return text(v, n, "12.0"); }

int nvmlDeviceGetCount_v2(unsigned *n)
{
	play();
	OBEY(-1);
	*n = ndevices;
	return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, struct device **d)
{
	OBEY(i);
	if (i >= (unsigned)ndevices)
		return INVALID_ARGUMENT;
	*d = &devices[i];
	return SUCCESS;
}

int nvmlDeviceGetUUID(struct device *d, char *v, unsigned n) { return text(v, n, d->uuid); }
int nvmlDeviceGetName(struct device *d, char *v, unsigned n) { return text(v, n, d->part < 0 ? "Fake A100" : "Fake A100 MIG 1g.5gb"); }

int nvmlDeviceGetUtilizationRates(struct device *d, unsigned v[2])
{
	CARD_ONLY(d);
	if (d->nparts)
		return NOT_SUPPORTED;
	v[0] = d->util;
	v[1] = 1;
	return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(struct device *d, unsigned long long v[3])
{
	OBEY(d->index);
	v[0] = d->total;
	v[1] = d->total - d->used;
	v[2] = d->used;
	return SUCCESS;
}

int nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *v)
{
	CARD_ONLY(d);
	*v = d->celsius;
	return sensor == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetPowerUsage(struct device *d, unsigned *v)
{
	CARD_ONLY(d);
	*v = d->milliwatts;
	return SUCCESS;
}

int nvmlDeviceGetEncoderUtilization(struct device *d, unsigned *v, unsigned *period)
{
	CARD_ONLY(d);
	*v = d->enc;
	*period = 167000;
	return SUCCESS;
}

int nvmlDeviceGetDecoderUtilization(struct device *d, unsigned *v, unsigned *period)
{
	CARD_ONLY(d);
	*v = d->dec;
	*period = 167000;
	return SUCCESS;
}

#ifdef OLD
struct info {
	unsigned pid;
	unsigned long long bytes;
};
#define VERSIONED(f) f
#else
struct info {
	unsigned pid;
	unsigned long long bytes;
	unsigned gpu, compute;
};
#define VERSIONED(f) f##_v3
#endif

static int list(struct device *d, unsigned *n, struct info *v, char kind)
{
	unsigned room = *n;

	*n = 0;
	for (int i = 0; i < d->nprocesses; i++) {
		struct process *p = &d->processes[i];

		if (p->kind != kind)
			continue;
		if (*n < room) {
			v[*n].pid = p->pid;
			v[*n].bytes = p->bytes;
#ifndef OLD
			v[*n].gpu = v[*n].compute = d->part;
#endif
		}
		++*n;
	}
	return *n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int VERSIONED(nvmlDeviceGetComputeRunningProcesses)(struct device *d, unsigned *n, struct info *v)
{
	OBEY(d->index);
	return list(d, n, v, 'c');
}

int VERSIONED(nvmlDeviceGetGraphicsRunningProcesses)(struct device *d, unsigned *n, struct info *v)
{
	OBEY(d->index);
	return d->part < 0 ? list(d, n, v, 'g') : NOT_SUPPORTED;
}

#ifndef OLD
/* The unversioned names are there in new libraries too. */
int nvmlDeviceGetComputeRunningProcesses(void) { abort(); }
int nvmlDeviceGetGraphicsRunningProcesses(void) { abort(); }
int nvmlDeviceGetMPSComputeRunningProcesses(void) { abort(); }

int nvmlDeviceGetMPSComputeRunningProcesses_v3(struct device *d, unsigned *n, struct info *v)
{
	OBEY(d->index);
	return list(d, n, v, 'm');
}

int nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending)
{
	CARD_ONLY(d);
	*current = *pending = d->nparts > 0;
	return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *n)
{
	CARD_ONLY(d);
	*n = MAX_PARTS - 1;
	return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned i, struct device **part)
{
	CARD_ONLY(d);
	if (i >= (unsigned)d->nparts)
		return NOT_FOUND;
	*part = &d->parts[i];
	return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *id) { *id = d->part; return d->part < 0 ? NOT_SUPPORTED : SUCCESS; }
int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *id) { *id = 0; return d->part < 0 ? NOT_SUPPORTED : SUCCESS; }

struct sample {
	unsigned pid;
	unsigned long long time;
	unsigned sm, memory, enc, dec;
};

int nvmlDeviceGetProcessUtilization(struct device *d, struct sample *v, unsigned *n, unsigned long long last)
{
	struct timespec t;
	unsigned long long now;

	CARD_ONLY(d);
	if (d->nparts)
		return NOT_SUPPORTED;
	clock_gettime(CLOCK_REALTIME, &t);
	now = t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
	if (now <= last || !d->nprocesses)
		return NOT_FOUND;
	if (!v || *n < (unsigned)d->nprocesses) {
		*n = d->nprocesses;
		return INSUFFICIENT_SIZE;
	}
	*n = 0;
	for (int i = 0; i < d->nprocesses; i++)
		v[(*n)++] = (struct sample){ .pid = d->processes[i].pid, .time = now, .sm = d->processes[i].util };
	return SUCCESS;
}
#endif
