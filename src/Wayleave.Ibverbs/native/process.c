/*
 * What a library does to the process that it is loaded into: nothing that can be seen.
 *
 * The runtime starts with the first control call. It changes the dispositions of signals, which are put back, but for
 * the one that its collector stops threads with; its threads are started with all other signals blocked.
 *
 * A forked child has the memory of its parent and none of its threads: control calls fail there with EIO, and so do
 * the operations of its contexts. The parent goes on.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

struct wl_context *all_contexts;
pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;

extern int wlv_devices(void);
extern void wlv_use_fold(void *fold);
extern void *fold_of_processor(void);

static pthread_once_t start_once = PTHREAD_ONCE_INIT;
static volatile bool forked;

/* The signal that the collector stops threads with (SIGRTMIN of the C library's own point of view). */
static int collector_signal(void)
{
	return SIGRTMIN;
}

static int lost(void)
{
	return EIO;
}

static int lost_poll(struct ibv_cq *cq, int count, struct ibv_wc *wc)
{
	(void)cq;
	(void)count;
	(void)wc;
	return -1;
}

static void in_child(void)
{
	forked = true;
	for (struct wl_context *c = all_contexts; c; c = c->next) {
		struct ibv_context_ops *ops = &c->verbs.context.ops;

		ops->post_send = (void *)lost;
		ops->post_recv = (void *)lost;
		ops->post_srq_recv = (void *)lost;
		ops->req_notify_cq = (void *)lost;
		ops->bind_mw = (void *)lost;
		ops->poll_cq = lost_poll;
	}
}

static void start(void)
{
	struct sigaction before[_NSIG];
	bool known[_NSIG];

	for (int s = 1; s < _NSIG; s++)
		known[s] = sigaction(s, NULL, &before[s]) == 0;
	wlv_devices();
	wlv_use_fold(fold_of_processor());
	for (int s = 1; s < _NSIG; s++) {
		struct sigaction after;

		/* What was not touched is left alone: putting it back would add a flag of the C library's. */
		if (known[s] && s != collector_signal() && !sigaction(s, NULL, &after)
		    && (after.sa_handler != before[s].sa_handler || after.sa_flags != before[s].sa_flags))
			sigaction(s, &before[s], NULL);
	}
	pthread_atfork(NULL, NULL, in_child);
}

bool wl_control_enter(struct control *control)
{
	sigset_t all;

	if (forked)
		return false;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &control->cancel_state);
	sigfillset(&all);
	sigdelset(&all, collector_signal());
	pthread_sigmask(SIG_SETMASK, &all, &control->signals);
	pthread_once(&start_once, start);
	return true;
}

void wl_control_exit(struct control *control)
{
	int saved = errno;

	pthread_sigmask(SIG_SETMASK, &control->signals, NULL);
	pthread_setcancelstate(control->cancel_state, NULL);
	errno = saved;
}

/*
 * System calls that the linker puts in the place of the C library's (--wrap): those are points of cancellation, and a
 * program may cancel a thread that polls while it holds the port.
 */
static long result_of(long value)
{
	if (value < 0 && value >= -4095) {
		errno = (int)-value;
		return -1;
	}
	return value;
}

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result_of(result);
}

ssize_t __wrap_sendmsg(int fd, const void *message, int flags)
{
	return raw(SYS_sendmsg, fd, (long)message, flags, 0, 0, 0);
}

int __wrap_sendmmsg(int fd, void *messages, unsigned int count, int flags)
{
	return (int)raw(SYS_sendmmsg, fd, (long)messages, count, flags, 0, 0);
}

ssize_t __wrap_recvmsg(int fd, void *message, int flags)
{
	return raw(SYS_recvmsg, fd, (long)message, flags, 0, 0, 0);
}

ssize_t __wrap_read(int fd, void *buffer, size_t count)
{
	return raw(SYS_read, fd, (long)buffer, (long)count, 0, 0, 0);
}

ssize_t __wrap_write(int fd, const void *buffer, size_t count)
{
	return raw(SYS_write, fd, (long)buffer, (long)count, 0, 0, 0);
}

int __wrap_ppoll(void *fds, unsigned long count, const struct timespec *timeout, const sigset_t *mask)
{
	struct timespec copy = timeout ? *timeout : (struct timespec){ 0 };

	return (int)raw(SYS_ppoll, (long)fds, (long)count, timeout ? (long)&copy : 0, (long)mask, _NSIG / 8, 0);
}
