/*
 * Regions over descriptors: a sealed memfd, and a dma-buf of udmabuf where there is one. A WRITE of a queue pair to
 * itself lands there, and what cannot be registered is refused by its errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#define SIZE 65536
#define ALL (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static char local[8192];

static void make_pair(struct ibv_context *context)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 4, 4, 1, 1, 0 } };
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL };

	CHECK((pd = ibv_alloc_pd(context)) && (cq = ibv_create_cq(context, 16, NULL, NULL, 0)));
	init.send_cq = init.recv_cq = cq;
	CHECK((qp = ibv_create_qp(pd, &init)));
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_4096;
	attr.dest_qp_num = qp->qp_num;
	attr.max_dest_rd_atomic = attr.max_rd_atomic = 1;
	attr.ah_attr.is_global = attr.ah_attr.port_num = 1;
	CHECK(!ibv_query_gid(context, 1, 0, &attr.ah_attr.grh.dgid));
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN
					       | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = 14;
	attr.retry_cnt = 7;
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY
					       | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC));
}

static void write_through(int fd)
{
	const uint64_t offset = 4096 + 100, iova = 0x700000064;
	struct ibv_mr *to = ibv_reg_dmabuf_mr(pd, offset, 20000, iova, fd, ALL);
	struct ibv_mr *from = ibv_reg_mr(pd, local, sizeof(local), IBV_ACCESS_LOCAL_WRITE);
	struct ibv_sge piece = { (uintptr_t)local, sizeof(local), 0 };
	struct ibv_send_wr wr = { .sg_list = &piece, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE,
				  .send_flags = IBV_SEND_SIGNALED }, *bad;
	struct ibv_wc wc;
	char *seen = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	int count;

	CHECK(to && from && seen != MAP_FAILED);
	for (size_t i = 0; i < sizeof(local); i++)
		local[i] = (char)(i * 31 + 7);
	piece.lkey = from->lkey;
	wr.wr.rdma.remote_addr = iova + 5000;
	wr.wr.rdma.rkey = to->rkey;
	CHECK(!ibv_post_send(qp, &wr, &bad));
	while (!(count = ibv_poll_cq(cq, 1, &wc)))
		;
	CHECK(count == 1 && wc.status == IBV_WC_SUCCESS);
	CHECK(!memcmp(seen + offset + 5000, local, sizeof(local)) && seen[offset + 4999] == 0);
	CHECK(ibv_rereg_mr(to, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, ALL) == IBV_REREG_MR_ERR_INPUT
	      && errno == EOPNOTSUPP);
	CHECK(!ibv_dereg_mr(to) && !ibv_dereg_mr(from) && !munmap(seen, SIZE));
}

static int memory(unsigned int seals)
{
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && !ftruncate(fd, SIZE) && !fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

static void refuse(int fd, uint64_t offset, size_t length, uint64_t iova, int access, int error)
{
	errno = 0;
	CHECK(!ibv_reg_dmabuf_mr(pd, offset, length, iova, fd, access));
	if (errno != error)
		fprintf(stderr, "%s is not %s\n", strerror(errno), strerror(error));
	CHECK(errno == error);
}

int main(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	int sealed = memory(F_SEAL_SHRINK), open_ended = memory(0), pipes[2], device;

	CHECK(list && list[0] && !pipe(pipes));
	make_pair(ibv_open_device(list[0]));
	write_through(sealed);
	refuse(-1, 0, 4096, 0, ALL, EBADF);
	refuse(pipes[0], 0, 4096, 0, ALL, EINVAL);
	refuse(open_ended, 0, 4096, 0, ALL, EINVAL);
	refuse(sealed, 0, 0, 0, ALL, EINVAL);
	refuse(sealed, SIZE - 4096, 8192, 0, ALL, EINVAL);
	refuse(sealed, UINT64_MAX - 4095, 8192, 0, ALL, EINVAL);
	refuse(sealed, 1, 4096, 2, ALL, EINVAL);
	refuse(sealed, 0, 4096, 0, ALL | IBV_ACCESS_ON_DEMAND, EINVAL);
	refuse(sealed, 0, 4096, 0, ALL | IBV_ACCESS_MW_BIND, EINVAL);
	device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (device >= 0) {
		struct udmabuf_create create = { .memfd = sealed, .flags = UDMABUF_FLAGS_CLOEXEC, .size = SIZE };
		int dma_buf;

		memset(local, 0, sizeof(local));
		dma_buf = ioctl(device, UDMABUF_CREATE, &create);
		CHECK(dma_buf >= 0);
		close(sealed);
		create.memfd = memory(F_SEAL_SHRINK);
		close(dma_buf);
		dma_buf = ioctl(device, UDMABUF_CREATE, &create);
		CHECK(dma_buf >= 0);
		write_through(dma_buf);
		refuse(dma_buf, SIZE, 4096, 0, ALL, EINVAL);
		puts("udmabuf");
	}
	puts("memory of descriptors is written, and what is none is refused");
	return 0;
}
