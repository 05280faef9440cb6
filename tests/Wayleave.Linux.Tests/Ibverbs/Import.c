/*
 * A program with GPUDirect RDMA code and no GPU: it takes a descriptor of a host's buffer from the socket that its
 * argument names, registers it, and writes and reads there by two queue pairs of its own. Then it obeys
 * what comes by that socket, a command to a message:
 *
 *   pair RETRY              new queue pairs, which try RETRY times again when they meet an RNR NAK (7: for ever)
 *   write OFFSET BYTE SIZE  "status N": of the completion of an RDMA WRITE
 *   read OFFSET BYTE SIZE   "status N", of a READ; -1 when other bytes were there
 *   count SLOTS ROUNDS      writes 1, 2, 3... into slots of eight bytes, one after the other, SLOTS times ROUNDS of
 *                           them, each after the last has completed; "status N"
 *   quit                    deregisters all and ends
 */
#define _GNU_SOURCE
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#define ALL (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static const uint64_t iova = 0x5500000000;
static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *pair[2]; /* the first asks, the second answers */
static struct ibv_mr *remote, *own;
static unsigned char local[65536];

static void connect_to(struct ibv_qp *qp, uint32_t number, int rnr_retry)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL };

	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_4096;
	attr.dest_qp_num = number;
	attr.max_dest_rd_atomic = attr.max_rd_atomic = 1;
	attr.min_rnr_timer = 1;
	attr.ah_attr.is_global = attr.ah_attr.port_num = 1;
	CHECK(!ibv_query_gid(context, 1, 0, &attr.ah_attr.grh.dgid));
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN
					       | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = 14;
	attr.retry_cnt = 7;
	attr.rnr_retry = rnr_retry;
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY
					       | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC));
}

static void end_pair(void)
{
	for (int i = 0; i < 2; i++)
		CHECK(!pair[i] || !ibv_destroy_qp(pair[i]));
}

static void make_pair(int rnr_retry)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 4, 4, 1, 1, 0 }, .send_cq = cq, .recv_cq = cq };

	end_pair();
	for (int i = 0; i < 2; i++)
		CHECK((pair[i] = ibv_create_qp(pd, &init)));
	for (int i = 0; i < 2; i++)
		connect_to(pair[i], pair[!i]->qp_num, rnr_retry);
}

static int transfer(enum ibv_wr_opcode opcode, uint64_t offset, uint32_t size)
{
	struct ibv_sge piece = { (uintptr_t)local, size, own->lkey };
	struct ibv_send_wr wr = { .sg_list = &piece, .num_sge = 1, .opcode = opcode, .send_flags = IBV_SEND_SIGNALED,
				  .wr.rdma = { iova + offset, remote->rkey } }, *bad;
	struct ibv_wc wc;
	int count;

	CHECK(size <= sizeof(local) && !ibv_post_send(pair[0], &wr, &bad));
	while (!(count = ibv_poll_cq(cq, 1, &wc)))
		;
	CHECK(count == 1);
	return wc.status;
}

static int count_up(unsigned int slots, unsigned int rounds)
{
	for (uint64_t n = 1; n <= (uint64_t)slots * rounds; n++) {
		int status;

		memcpy(local, &n, sizeof(n));
		status = transfer(IBV_WR_RDMA_WRITE, (n - 1) % slots * sizeof(n), sizeof(n));
		if (status)
			return status;
	}
	return 0;
}

static int receive(int s, char *text, size_t size)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { text, size - 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(s, &m, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	int fd = -1;

	CHECK(got > 0);
	text[got] = 0;
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int obey(const char *text)
{
	unsigned int a = 0, b = 0, c = 0;

	if (sscanf(text, "pair %u", &a) == 1) {
		make_pair(a);
		return 0;
	}
	if (sscanf(text, "write %u %u %u", &a, &b, &c) == 3) {
		memset(local, b, c);
		return transfer(IBV_WR_RDMA_WRITE, a, c);
	}
	if (sscanf(text, "count %u %u", &a, &b) == 2)
		return count_up(a, b);
	CHECK(sscanf(text, "read %u %u %u", &a, &b, &c) == 3);
	memset(local, ~b, c);
	int status = transfer(IBV_WR_RDMA_READ, a, c);

	for (unsigned int i = 0; i < c && !status; i++)
		status = local[i] == b ? 0 : -1;
	return status;
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct ibv_device **list = ibv_get_device_list(NULL);
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fd;
	char text[256];

	CHECK(argc == 2 && list && list[0] && (context = ibv_open_device(list[0])));
	CHECK((pd = ibv_alloc_pd(context)) && (cq = ibv_create_cq(context, 16, NULL, NULL, 0)));
	CHECK((own = ibv_reg_mr(pd, local, sizeof(local), IBV_ACCESS_LOCAL_WRITE)));
	strncpy(to.sun_path, argv[1], sizeof(to.sun_path) - 1);
	CHECK(!connect(s, (struct sockaddr *)&to, sizeof(to)));
	fd = receive(s, text, sizeof(text));
	CHECK(fd >= 0);
	remote = ibv_reg_dmabuf_mr(pd, 0, strtoul(text, NULL, 10), iova, fd, ALL);
	dprintf(s, "errno %d", remote ? 0 : errno);
	if (!remote)
		return 0;
	CHECK(ibv_rereg_mr(remote, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, ALL) == IBV_REREG_MR_ERR_CMD
	      && errno == EOPNOTSUPP);
	close(fd); /* the region keeps the buffer */
	for (receive(s, text, sizeof(text)); strcmp(text, "quit"); receive(s, text, sizeof(text)))
		dprintf(s, "status %d", obey(text));
	end_pair();
	CHECK(!ibv_dereg_mr(remote) && !ibv_dereg_mr(own) && !ibv_destroy_cq(cq) && !ibv_dealloc_pd(pd));
	CHECK(!ibv_close_device(context));
	return 0;
}
