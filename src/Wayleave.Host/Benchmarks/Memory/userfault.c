// The peer of `wayleave bench fault --uffd`: the same faults, on the same kind of memory, resolved in C. One thread
// loads a byte of each page, another takes the events and puts zero pages there. One line per fault: nanoseconds.
//
// cc -O2 -pthread userfault.c; a.out PAGES ROUNDS. Exit 77: this kernel or user has no userfaultfd.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

static int faults;
static int end[2];

static void fail(const char *what)
{
	int missing = errno == EPERM || errno == ENOSYS || errno == EINVAL;

	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(missing ? 77 : 1);
}

static void *serve(void *unused)
{
	struct pollfd fds[2] = { { faults, POLLIN, 0 }, { end[0], POLLIN, 0 } };

	for (;;) {
		struct uffd_msg message;
		struct uffdio_zeropage zero;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		if (fds[1].revents)
			return unused;
		if (read(faults, &message, sizeof message) < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			fail("read");
		}
		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue; // the rounds throw pages away
		memset(&zero, 0, sizeof zero);
		zero.range.start = message.arg.pagefault.address & ~(PAGE - 1);
		zero.range.len = PAGE;
		if (ioctl(faults, UFFDIO_ZEROPAGE, &zero) < 0 && errno != EEXIST && errno != EAGAIN)
			fail("UFFDIO_ZEROPAGE");
	}
}

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long pages = argc > 1 ? strtoul(argv[1], 0, 10) : 256;
	unsigned long rounds = argc > 2 ? strtoul(argv[2], 0, 10) : 4;
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
	struct uffdio_register reg;
	pthread_t server;
	volatile char *memory;
	int file = memfd_create("userfault", MFD_CLOEXEC);

	faults = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (faults < 0)
		fail("userfaultfd");
	if (ioctl(faults, UFFDIO_API, &api) < 0)
		fail("UFFDIO_API");
	if (file < 0 || ftruncate(file, pages * PAGE) < 0 || pipe(end) < 0)
		fail("memfd");
	memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	memset(&reg, 0, sizeof reg);
	reg.range.start = (unsigned long)memory;
	reg.range.len = pages * PAGE;
	reg.mode = UFFDIO_REGISTER_MODE_MISSING;
	if (ioctl(faults, UFFDIO_REGISTER, &reg) < 0)
		fail("UFFDIO_REGISTER");
	if (pthread_create(&server, 0, serve, 0))
		fail("pthread_create");

	for (unsigned long round = 0; round < rounds; round++) {
		for (unsigned long page = 0; page < pages; page++) {
			long long start = now();

			(void)memory[page * PAGE];
			printf("%lld\n", now() - start);
		}
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, pages * PAGE) < 0)
			fail("fallocate");
	}
	if (write(end[1], "", 1) != 1)
		fail("write");
	pthread_join(server, 0);
	return 0;
}
