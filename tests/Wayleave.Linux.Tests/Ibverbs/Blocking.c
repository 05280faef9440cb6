/*
 * Reads that block do so in C: a thread that waits for a completion event, an async event or an event of connections
 * can be cancelled there, is interrupted by a signal only if its handler says so, and is woken by what it waits for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

static struct ibv_context *context;
static struct ibv_comp_channel *completions;
static struct rdma_event_channel *connections;
static volatile pid_t waiting;
static volatile int outcome; /* errno of a wait that ended by itself */

static int read_completion(void)
{
	struct ibv_cq *cq;
	void *data;

	return ibv_get_cq_event(completions, &cq, &data);
}

static int read_async(void)
{
	struct ibv_async_event event;

	return ibv_get_async_event(context, &event);
}

static int read_connection(void)
{
	struct rdma_cm_event *event;

	return rdma_get_cm_event(connections, &event);
}

static void *wait_in(void *read)
{
	waiting = gettid();
	outcome = ((int (*)(void))read)() ? errno : 0;
	return NULL;
}

/* Whether the kernel says that the thread sleeps in read(2); where it does not say what threads do, that it sleeps. */
static int is_in_read(pid_t thread)
{
	char path[64], text[512];
	int fd, length;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length > 0) {
		text[length] = 0;
		return !strncmp(text, "0 ", 2);
	}
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	CHECK(length > 0);
	text[length] = 0;
	return strstr(text, ") S ") != NULL;
}

static pthread_t begin(void *read)
{
	pthread_t thread;

	waiting = 0;
	CHECK(!pthread_create(&thread, NULL, wait_in, read));
	while (!waiting || !is_in_read(waiting))
		;
	return thread;
}

static void cancel(void *read)
{
	void *result;
	pthread_t thread = begin(read);

	CHECK(!pthread_cancel(thread) && !pthread_join(thread, &result) && result == PTHREAD_CANCELED);
}

static void nothing(int number)
{
	(void)number;
}

static void interrupt(void *read)
{
	struct sigaction action = { .sa_handler = nothing };
	pthread_t thread;

	CHECK(!sigaction(SIGUSR2, &action, NULL));
	thread = begin(read);
	CHECK(!pthread_kill(thread, SIGUSR2) && !pthread_join(thread, NULL) && outcome == EINTR);
}

/* A descriptor that a program made non-blocking: EAGAIN, and poll(2) tells when there is more. */
static void look(void *read, int fd)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };
	int flags = fcntl(fd, F_GETFL);

	CHECK(!fcntl(fd, F_SETFL, flags | O_NONBLOCK) && ((int (*)(void))read)() == -1 && errno == EAGAIN);
	CHECK(poll(&polled, 1, 0) == 0 && !fcntl(fd, F_SETFL, flags));
}

int main(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1 };
	struct ibv_recv_wr wr = { 0 }, *bad;
	struct ibv_wc wc;
	pthread_t thread;

	CHECK(list && list[0] && (context = ibv_open_device(list[0])) && (completions = ibv_create_comp_channel(context)));
	CHECK((connections = rdma_create_event_channel()));
	void *const reads[] = { read_completion, read_async, read_connection };
	const int descriptors[] = { completions->fd, context->async_fd, connections->fd };

	for (int i = 0; i < 3; i++) {
		cancel(reads[i]);
		interrupt(reads[i]);
		look(reads[i], descriptors[i]);
	}

	/* After all of that the channel still works: a receive that is flushed wakes who waits. */
	CHECK((pd = ibv_alloc_pd(context)) && (cq = ibv_create_cq(context, 4, NULL, completions, 0)));
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 1, 1, 1, 1, 0 }, .send_cq = cq, .recv_cq = cq };

	CHECK((qp = ibv_create_qp(pd, &init)) && !ibv_req_notify_cq(cq, 0));
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	attr.qp_state = IBV_QPS_ERR;
	thread = begin(read_completion);
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE) && !ibv_post_recv(qp, &wr, &bad));
	CHECK(!pthread_join(thread, NULL) && outcome == 0);
	CHECK(ibv_poll_cq(cq, 1, &wc) == 1 && wc.status == IBV_WC_WR_FLUSH_ERR);
	ibv_ack_cq_events(cq, 1);
	CHECK(!ibv_destroy_qp(qp) && !ibv_destroy_cq(cq) && !ibv_destroy_comp_channel(completions) && !ibv_dealloc_pd(pd));
	rdma_destroy_event_channel(connections);
	CHECK(!ibv_close_device(context));
	return 0;
}
