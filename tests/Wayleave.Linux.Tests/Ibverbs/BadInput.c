/*
 * Every verb with what it must refuse, and the errno that its manual page or the kernel gives; then random structures.
 * Prints the line of each expectation that does not hold, and ends with their number. Built and run by DropInTests.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong;

#define IS(condition) ((condition) ? (void)0 : (void)(wrong++, printf("line %d: %s, errno %d\n", __LINE__, #condition, errno)))
#define NOTHING(call, error) IS((errno = 0, (call) == NULL && errno == (error)))

static uint64_t seed = 0x9E3779B97F4A7C15;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)at)[i] = next() & 3 ? (next() & 7) : next();
}

int main(void)
{
	static uint8_t memory[8192] __attribute__((aligned(4096)));
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = ibv_open_device(list[0]);
	struct ibv_pd *pd = ibv_alloc_pd(context);
	struct ibv_cq *cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	struct ibv_mr *mr = ibv_reg_mr(pd, memory, sizeof(memory), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	struct ibv_port_attr port;
	struct ibv_device_attr_ex device;
	union ibv_gid gid;
	uint16_t pkey;

	IS(list && context && pd && cq && mr);
	IS(ibv_query_port(context, 0, &port) == EINVAL);
	IS(ibv_query_port(context, 2, &port) == EINVAL);
	IS(ibv_query_gid(context, 1, 99, &gid) == -1);
	IS(ibv_query_gid(context, 1, -1, &gid) == -1);
	IS(ibv_query_gid(context, 2, 0, &gid) == -1);
	IS(ibv_query_pkey(context, 1, 1, &pkey) == -1);
	IS(ibv_query_device_ex(context, &(struct ibv_query_device_ex_input){ .comp_mask = 1 }, &device) == EINVAL);

	NOTHING(ibv_create_cq(context, 0, NULL, NULL, 0), EINVAL);
	NOTHING(ibv_create_cq(context, -1, NULL, NULL, 0), EINVAL);
	NOTHING(ibv_create_cq(context, 1 << 30, NULL, NULL, 0), EINVAL);
	NOTHING(ibv_create_cq(context, 1, NULL, NULL, 7), EINVAL);
	IS(ibv_resize_cq(cq, 0) == EINVAL && cq->cqe == 16);
	IS(ibv_resize_cq(cq, 32) == 0 && cq->cqe == 32);

	NOTHING(ibv_reg_mr(pd, NULL, 4096, 0), EFAULT);
	NOTHING(ibv_reg_mr(pd, memory, 0, 0), EINVAL);
	NOTHING(ibv_reg_mr(pd, memory, 16, IBV_ACCESS_REMOTE_WRITE), EINVAL);
	NOTHING(ibv_reg_mr(pd, memory, 0, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_ON_DEMAND), EINVAL);
	NOTHING(ibv_reg_mr(pd, (void *)main, 16, IBV_ACCESS_LOCAL_WRITE), EFAULT);
	NOTHING(ibv_reg_dmabuf_mr(pd, 0, 4096, 0, 999, 0), EBADF);
	IS(ibv_rereg_mr(mr, 0, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	IS(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	IS(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	IS(ibv_dealloc_pd(pd) == EBUSY);

	struct ibv_srq_init_attr shared = { .attr = { .max_wr = 0, .max_sge = 1 } };

	NOTHING(ibv_create_srq(pd, &shared), EINVAL);
	shared.attr.max_wr = 8;
	struct ibv_srq *srq = ibv_create_srq(pd, &shared);
	IS(srq != NULL);
	IS(ibv_modify_srq(srq, &(struct ibv_srq_attr){ .srq_limit = 9 }, IBV_SRQ_LIMIT) == EINVAL);
	IS(ibv_modify_srq(srq, &(struct ibv_srq_attr){ .max_wr = 0 }, IBV_SRQ_MAX_WR) == EINVAL);
	IS(ibv_modify_srq(srq, &shared.attr, 1 << 5) == EINVAL);
	IS(ibv_modify_srq(srq, &(struct ibv_srq_attr){ .max_wr = 64 }, IBV_SRQ_MAX_WR) == 0);

	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 8, 8, 2, 2, 64 } };

	NOTHING(ibv_create_qp(pd, &init), EINVAL);
	init.send_cq = init.recv_cq = cq;
	init.qp_type = IBV_QPT_RAW_PACKET;
	NOTHING(ibv_create_qp(pd, &init), EOPNOTSUPP);
	init.qp_type = IBV_QPT_RC;
	init.cap.max_send_wr = UINT32_MAX;
	NOTHING(ibv_create_qp(pd, &init), EINVAL);
	init.cap.max_send_wr = 8;
	struct ibv_qp_init_attr_ex extended = {
		.qp_type = IBV_QPT_RC, .send_cq = cq, .recv_cq = cq, .cap = init.cap, .pd = pd,
		.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS, .send_ops_flags = IBV_QP_EX_WITH_TSO,
	};
	NOTHING(ibv_create_qp_ex(context, &extended), EOPNOTSUPP);
	extended.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_SEND;
	struct ibv_qp *qp = ibv_create_qp_ex(context, &extended);
	IS(qp != NULL);
	IS(ibv_destroy_cq(cq) == EBUSY);

	struct ibv_sge sge = { .addr = (uintptr_t)memory, .length = 8, .lkey = mr->lkey };
	struct ibv_send_wr send = { .opcode = IBV_WR_SEND, .sg_list = &sge, .num_sge = 1 }, *bad_send = NULL;
	struct ibv_recv_wr receive = { .sg_list = &sge, .num_sge = 1 }, *bad_receive = NULL;
	struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(qp);

	IS(ibv_post_send(qp, &send, &bad_send) == EINVAL && bad_send == &send);
	IS(ibv_post_recv(qp, &receive, &bad_receive) == EINVAL && bad_receive == &receive);
	ibv_wr_start(ex);
	ibv_wr_send(ex);
	ibv_wr_set_sge(ex, mr->lkey, (uintptr_t)memory, 8);
	IS(ibv_wr_complete(ex) == EINVAL);

	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTS };

	IS(ibv_modify_qp(qp, &attr, IBV_QP_STATE) == EINVAL);
	attr.qp_state = IBV_QPS_INIT;
	IS(ibv_modify_qp(qp, &attr, IBV_QP_STATE) == EINVAL);
	attr.port_num = 2;
	IS(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == EINVAL);
	attr.port_num = 1;
	IS(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == 0);
	IS(ibv_post_recv(qp, &receive, &bad_receive) == 0);
	attr.qp_state = IBV_QPS_RTR; /* without a GRH there is no way on RoCE */
	attr.path_mtu = IBV_MTU_1024;
	attr.dest_qp_num = 99;
	IS(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN
				    | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == EINVAL);
	NOTHING(ibv_create_ah(pd, &(struct ibv_ah_attr){ .port_num = 1 }), EINVAL);
	NOTHING(ibv_alloc_mw(pd, 7), EINVAL);

	/* NULL where the manual pages allow none. */
	struct ibv_async_event event;
	struct ibv_cq *event_cq;
	void *event_context;
	struct ibv_ah_attr ah;
	struct ibv_qp_init_attr queried;
	int gids = sizeof(struct ibv_gid_entry);
	struct ibv_gid_entry entry;

	NOTHING(ibv_open_device(NULL), EINVAL);
	NOTHING(ibv_alloc_pd(NULL), EINVAL);
	NOTHING(ibv_create_comp_channel(NULL), EINVAL);
	NOTHING(ibv_create_cq(NULL, 1, NULL, NULL, 0), EINVAL);
	NOTHING((ibv_reg_mr)(NULL, memory, 16, 0), EINVAL);
	NOTHING(ibv_reg_mr_iova2(NULL, memory, 16, 0, 0), EINVAL);
	NOTHING(ibv_create_srq(NULL, &shared), EINVAL);
	NOTHING(ibv_create_srq(pd, NULL), EINVAL);
	NOTHING(ibv_create_qp(NULL, &init), EINVAL);
	NOTHING(ibv_create_qp(pd, NULL), EINVAL);
	NOTHING(ibv_create_ah(NULL, &ah), EINVAL);
	NOTHING(ibv_create_ah(pd, NULL), EINVAL);
	NOTHING(ibv_create_ah_from_wc(pd, NULL, NULL, 1), EINVAL);
	NOTHING(ibv_qp_to_qp_ex(NULL), 0);
	IS(ibv_close_device(NULL) == -1 && errno == EINVAL);
	IS(ibv_dealloc_pd(NULL) == EINVAL && ibv_dereg_mr(NULL) == EINVAL && ibv_destroy_ah(NULL) == EINVAL);
	IS(ibv_destroy_cq(NULL) == EINVAL && ibv_destroy_srq(NULL) == EINVAL && ibv_destroy_qp(NULL) == EINVAL);
	IS(ibv_destroy_comp_channel(NULL) == EINVAL);
	IS(ibv_query_device(NULL, &device.orig_attr) == EINVAL && ibv_query_device(context, NULL) == EINVAL);
	IS(ibv_query_gid(context, 1, 0, NULL) == -1 && errno == EINVAL);
	IS(ibv_query_pkey(context, 1, 0, NULL) == -1 && errno == EINVAL);
	IS(_ibv_query_gid_ex(context, 1, 0, NULL, 0, gids) == EINVAL);
	IS(_ibv_query_gid_table(NULL, &entry, 1, 0, gids) == -EINVAL);
	IS(ibv_get_async_event(context, NULL) == -1 && errno == EINVAL);
	IS(ibv_get_async_event(NULL, &event) == -1 && errno == EINVAL);
	IS(ibv_get_cq_event(NULL, &event_cq, &event_context) == -1 && errno == EINVAL);
	IS(ibv_resize_cq(NULL, 4) == EINVAL);
	IS(ibv_modify_srq(srq, NULL, IBV_SRQ_LIMIT) == EINVAL && ibv_modify_srq(NULL, &shared.attr, 0) == EINVAL);
	IS(ibv_query_srq(srq, NULL) == EINVAL);
	IS(ibv_modify_qp(qp, NULL, IBV_QP_STATE) == EINVAL && ibv_modify_qp(NULL, &attr, IBV_QP_STATE) == EINVAL);
	IS(ibv_query_qp(qp, NULL, 0, &queried) == EINVAL && ibv_query_qp(NULL, &attr, 0, &queried) == EINVAL);
	IS(ibv_rereg_mr(NULL, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, 0) == IBV_REREG_MR_ERR_INPUT);
	IS(ibv_poll_cq(cq, 1, NULL) < 0);
	IS(ibv_wr_complete(ex) == EINVAL); /* was not started */
	send.num_sge = 1;
	send.sg_list = NULL;
	IS(ibv_post_send(qp, &send, NULL) == EINVAL);
	ibv_ack_cq_events(NULL, 1);
	ibv_ack_async_event(NULL);

	for (int i = 0; i < 20000; i++) {
		fill(&attr, sizeof(attr));
		ibv_modify_qp(qp, &attr, (int)(next() & 0x3ffffff));
		if (i % 100 == 0) {
			attr.qp_state = IBV_QPS_RESET;
			ibv_modify_qp(qp, &attr, IBV_QP_STATE);
		}
		struct ibv_sge pieces[4];
		struct ibv_send_wr wr;
		struct ibv_wc wc[4];

		fill(&wr, sizeof(wr));
		fill(pieces, sizeof(pieces));
		for (int p = 0; p < 4; p++) { /* what is copied when it is posted must be the program's */
			pieces[p].addr = (uintptr_t)memory;
			pieces[p].length &= 0xfff;
		}
		wr.next = NULL;
		wr.sg_list = next() & 7 ? pieces : NULL;
		wr.num_sge = (int)(next() % 7) - 2;
		wr.bind_mw.mw = NULL;
		ibv_post_send(qp, &wr, &bad_send);
		receive.num_sge = (int)(next() % 7) - 2;
		receive.sg_list = pieces;
		ibv_post_recv(qp, &receive, &bad_receive);
		ibv_poll_cq(cq, (int)(next() % 6) - 1, wc);
	}

	IS(ibv_destroy_qp(qp) == 0);
	IS(ibv_destroy_srq(srq) == 0);
	IS(ibv_destroy_cq(cq) == 0);
	IS(ibv_dereg_mr(mr) == 0);
	IS(ibv_dealloc_pd(pd) == 0);
	IS(ibv_close_device(context) == 0);
	ibv_free_device_list(list);
	return wrong;
}
