/*
 * Memory that is paged on demand: what is not mapped is an error of the request that needs it, at either end, and never
 * the end of the process; what is mapped afterwards is found. While a peer writes, a thread unmaps and maps again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#define SIZE 65536
#define ALL (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *pair[2];
static char local[SIZE];
static volatile int stopped;

static void connect_to(struct ibv_qp *qp, uint32_t number)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL };

	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_4096;
	attr.dest_qp_num = number;
	attr.max_dest_rd_atomic = attr.max_rd_atomic = 1;
	attr.ah_attr.is_global = attr.ah_attr.port_num = 1;
	CHECK(!ibv_query_gid(context, 1, 0, &attr.ah_attr.grh.dgid));
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN
					       | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = 14;
	attr.retry_cnt = attr.rnr_retry = 7;
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY
					       | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC));
}

static void make_pair(void)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 4, 4, 1, 1, 0 }, .send_cq = cq,
					 .recv_cq = cq };

	for (int i = 0; i < 2; i++)
		CHECK((!pair[i] || !ibv_destroy_qp(pair[i])) && (pair[i] = ibv_create_qp(pd, &init)));
	for (int i = 0; i < 2; i++)
		connect_to(pair[i], pair[!i]->qp_num);
}

static int transfer(enum ibv_wr_opcode opcode, void *from, uint32_t lkey, void *to, uint32_t rkey, uint32_t size)
{
	struct ibv_sge piece = { (uintptr_t)from, size, lkey };
	struct ibv_send_wr wr = { .sg_list = &piece, .num_sge = 1, .opcode = opcode, .send_flags = IBV_SEND_SIGNALED,
				  .wr.rdma = { (uintptr_t)to, rkey } }, *bad;
	struct ibv_wc wc;
	int count;

	CHECK(!ibv_post_send(pair[0], &wr, &bad));
	while (!(count = ibv_poll_cq(cq, 1, &wc)))
		;
	CHECK(count == 1);
	if (wc.status)
		make_pair();
	return wc.status;
}

static void *come_and_go(void *at)
{
	while (!stopped)
		CHECK(!munmap(at, SIZE) && mmap(at, SIZE, PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
	return NULL;
}

int main(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_device_attr_ex can;
	int written = 0, refused = 0;
	pthread_t thread;

	CHECK(list && list[0] && (context = ibv_open_device(list[0])));
	CHECK(!ibv_query_device_ex(context, NULL, &can));
	if (!(can.odp_caps.general_caps & IBV_ODP_SUPPORT)) {
		puts("no paging on demand");
		return 77;
	}
	CHECK((pd = ibv_alloc_pd(context)) && (cq = ibv_create_cq(context, 16, NULL, NULL, 0)));
	make_pair();

	/* The second half of a place is mapped later. */
	char *at = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_mr *own = ibv_reg_mr(pd, local, sizeof(local), IBV_ACCESS_LOCAL_WRITE);
	struct ibv_mr *paged = ibv_reg_mr(pd, at, 2 * SIZE, ALL | IBV_ACCESS_ON_DEMAND);
	struct ibv_mr *all = ibv_reg_mr(pd, NULL, SIZE_MAX, ALL | IBV_ACCESS_ON_DEMAND);
	struct ibv_sge range;

	CHECK(at != MAP_FAILED && own && paged && all);
	memset(local, 5, sizeof(local));
	CHECK(transfer(IBV_WR_RDMA_WRITE, local, own->lkey, at, paged->rkey, SIZE) == IBV_WC_REM_ACCESS_ERR);
	CHECK(transfer(IBV_WR_RDMA_WRITE, at, paged->lkey, local, all->rkey, SIZE) == IBV_WC_LOC_PROT_ERR);
	CHECK(!mprotect(at, SIZE, PROT_READ));
	CHECK(transfer(IBV_WR_RDMA_WRITE, local, own->lkey, at, paged->rkey, SIZE) == IBV_WC_REM_ACCESS_ERR);
	CHECK(!mprotect(at, SIZE, PROT_READ | PROT_WRITE));
	CHECK(transfer(IBV_WR_RDMA_WRITE, local, own->lkey, at, paged->rkey, SIZE) == IBV_WC_SUCCESS);
	CHECK(!memcmp(at, local, SIZE));
	CHECK(transfer(IBV_WR_RDMA_WRITE, local, own->lkey, at + SIZE / 2, paged->rkey, SIZE) == IBV_WC_REM_ACCESS_ERR);
	memset(local, 0, sizeof(local));
	CHECK(transfer(IBV_WR_RDMA_READ, local, all->lkey, at, all->rkey, SIZE) == IBV_WC_SUCCESS);
	CHECK(!memcmp(at, local, SIZE) && local[0] == 5);
	CHECK(transfer(IBV_WR_RDMA_READ, local, own->lkey, at + SIZE, paged->rkey, 8) == IBV_WC_REM_ACCESS_ERR);

	/* Advice: of what is there, of what is not, of regions that are not paged, of nothing. */
	range = (struct ibv_sge){ (uintptr_t)at, SIZE, paged->lkey };
	CHECK(!ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, &range, 1));
	range.length = 2 * SIZE;
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, IBV_ADVISE_MR_FLAG_FLUSH, &range, 1) == EFAULT);
	CHECK(!ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &range, 1));
	CHECK(!ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, IBV_ADVISE_MR_FLAG_FLUSH, &range, 1));
	range.length++;
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &range, 1) == EINVAL);
	range = (struct ibv_sge){ (uintptr_t)local, 8, own->lkey };
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &range, 1) == EINVAL);
	range.lkey = ~own->lkey;
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &range, 1) == ENOENT);
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, NULL, 1) == EINVAL);
	CHECK(ibv_advise_mr(pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 8, &range, 1) == EINVAL);
	CHECK(ibv_rereg_mr(paged, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, ALL) == IBV_REREG_MR_ERR_CMD);
	CHECK(!ibv_reg_mr_iova(pd, NULL, SIZE_MAX, 4096, ALL | IBV_ACCESS_ON_DEMAND));

	/* Unmapped under traffic, until both ends of a request were seen. */
	CHECK(!pthread_create(&thread, NULL, come_and_go, at));
	while (written < 20 || refused < 5) {
		int status = transfer(IBV_WR_RDMA_WRITE, local, own->lkey, at, paged->rkey, SIZE);

		CHECK(status == IBV_WC_SUCCESS || status == IBV_WC_REM_ACCESS_ERR);
		written += !status;
		refused += !!status;
		status = transfer(IBV_WR_RDMA_WRITE, at, paged->lkey, local, all->rkey, SIZE);
		CHECK(status == IBV_WC_SUCCESS || status == IBV_WC_LOC_PROT_ERR);
	}
	stopped = 1;
	CHECK(!pthread_join(thread, NULL));
	for (int i = 0; i < 2; i++)
		CHECK(!ibv_destroy_qp(pair[i]));
	CHECK(!ibv_dereg_mr(paged) && !ibv_dereg_mr(all) && !ibv_dereg_mr(own) && !munmap(at, 2 * SIZE));
	CHECK(!ibv_destroy_cq(cq) && !ibv_dealloc_pd(pd) && !ibv_close_device(context));
	return 0;
}
