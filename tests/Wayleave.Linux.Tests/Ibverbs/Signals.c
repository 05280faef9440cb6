/*
 * What the library does to the signals of the process that loads it: nothing. Loaded late, so that there is a before;
 * one disposition is the program's own, one is ignored. The number of the collector's signal is its one exception.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void handler(int number)
{
	(void)number;
}

static void read_all(struct sigaction *actions)
{
	for (int s = 1; s < _NSIG; s++)
		if (sigaction(s, NULL, &actions[s]) < 0)
			memset(&actions[s], 0, sizeof(actions[s]));
}

static int compare(const struct sigaction *before, const char *when)
{
	struct sigaction after[_NSIG];
	const int restorer = 0x04000000; /* of the C library: how a handler returns, set by any sigaction(2) through it */
	int changed = 0;

	read_all(after);
	for (int s = 1; s < _NSIG; s++) {
		if (s != SIGRTMIN && (before[s].sa_handler != after[s].sa_handler
				      || (before[s].sa_flags ^ after[s].sa_flags) & ~restorer)) {
			fprintf(stderr, "signal %d is changed %s\n", s, when);
			changed = 1;
		}
	}
	return changed;
}

int main(void)
{
	struct ibv_device **(*list)(int *);
	struct ibv_context *(*open)(struct ibv_device *);
	struct ibv_pd *(*alloc)(struct ibv_context *);
	struct ibv_ah *(*create)(struct ibv_pd *, struct ibv_ah_attr *);
	struct ibv_ah_attr attr = { .is_global = 1, .port_num = 1 };
	struct sigaction own = { .sa_handler = handler, .sa_flags = SA_RESTART }, before[_NSIG];
	struct ibv_device **devices;
	struct ibv_pd *pd;
	sigset_t masked, mask;
	void *library;

	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGCHLD, &own, NULL);
	sigaction(SIGSEGV, &own, NULL);
	sigemptyset(&masked);
	sigaddset(&masked, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &masked, NULL);
	read_all(before);
	library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 2;
	}
	if (compare(before, "by loading"))
		return 1;
	*(void **)&list = dlsym(library, "ibv_get_device_list");
	*(void **)&open = dlsym(library, "ibv_open_device");
	*(void **)&alloc = dlsym(library, "ibv_alloc_pd");
	*(void **)&create = dlsym(library, "ibv_create_ah");
	devices = list(NULL);
	if (!devices || !devices[0] || compare(before, "by the runtime"))
		return 1;
	attr.grh.dgid.raw[10] = attr.grh.dgid.raw[11] = 0xff;
	attr.grh.dgid.raw[12] = 127;
	attr.grh.dgid.raw[15] = 1;
	pd = alloc(open(devices[0]));
	if (!pd || !create(pd, &attr)) { /* binds the port, and starts its threads */
		perror("ibv_create_ah");
		return 1;
	}
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (compare(before, "by the port") || memcmp(&mask, &masked, sizeof(int)))
		return 1;
	return 0;
}
