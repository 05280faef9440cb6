/*
 * FuzzVerbs SEED SECONDS: calls every verb in random order with random arguments, on pools of objects that are made,
 * connected, used and destroyed meanwhile. Nothing may crash, hang or fail with an error that the verb does not have.
 * What a program must not do with any library is left out: stale pointers, and data that is copied when it is posted
 * from where there is none. Prints what it did; ends with the number of results that were not allowed.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POOL 8
#define PAGES 16
#define MEMORY (PAGES * 4096)

static struct ibv_context *contexts[2];
static int context_count;
static struct ibv_pd *pds[POOL];
static struct ibv_mr *mrs[POOL];
static struct ibv_mw *mws[POOL];
static struct ibv_cq *cqs[POOL];
static struct ibv_comp_channel *channels[POOL];
static struct ibv_srq *srqs[POOL];
static struct ibv_qp *qps[POOL];
static struct ibv_ah *ahs[POOL];
static uint8_t memory[MEMORY] __attribute__((aligned(4096)));
static uint64_t state;
static unsigned long calls, completions, connected, wrong;
static const char *volatile doing = "nothing";

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static unsigned int below(unsigned int bound)
{
	return next() % bound;
}

static bool rarely(void)
{
	return below(16) == 0;
}

static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)at)[i] = next() & 3 ? (next() & 7) : next();
}

/* Which errors any verb may give. */
static void check(int error, const char *verb)
{
	switch (error) {
	case 0:
	case EINVAL:
	case ENOMEM:
	case EBUSY:
	case EOPNOTSUPP:
	case EFAULT:
	case EPERM:
	case EACCES:
	case ENODATA:
	case ENOENT:
	case EAGAIN:
		return;
	}
	wrong++;
	printf("%s: %s (%d)\n", verb, strerror(error), error);
}

#define ANY(pool) (rarely() ? NULL : (pool)[below(POOL)])
#define CALL(verb, expression) (doing = verb, calls++, check((expression), verb))
#define MAKE(verb, pool, expression)                                                                                   \
	do {                                                                                                           \
		int i_ = below(POOL);                                                                                  \
		if (!(pool)[i_]) {                                                                                     \
			doing = verb, calls++, errno = 0;                                                              \
			(pool)[i_] = (expression);                                                                     \
			check((pool)[i_] ? 0 : errno ? errno : -1, verb);                                              \
		}                                                                                                      \
	} while (0)
#define END(verb, pool, function)                                                                                      \
	do {                                                                                                           \
		int i_ = below(POOL);                                                                                  \
		int e_ = (doing = verb, calls++, function((pool)[i_]));                                                \
		check(e_, verb);                                                                                       \
		if (!e_)                                                                                               \
			(pool)[i_] = NULL;                                                                             \
	} while (0)

static struct ibv_context *context(void)
{
	return rarely() ? NULL : contexts[below(context_count)];
}

static uint32_t key(void)
{
	struct ibv_mr *mr = mrs[below(POOL)];
	struct ibv_mw *mw = mws[below(POOL)];

	return mr && !rarely() ? mr->lkey : mw && !rarely() ? mw->rkey : (uint32_t)next();
}

static uint64_t address(void)
{
	return rarely() ? next() : (uintptr_t)memory + below(MEMORY);
}

static void register_memory(void)
{
	static const int usual = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ
				 | IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND;
	unsigned int start = below(MEMORY);
	int access = rarely() ? (int)next() : usual & (rarely() ? (int)next() : -1);
	void *at = rarely() ? (void *)(uintptr_t)next() : memory + start;
	size_t length = rarely() ? next() : below(MEMORY - start) + 1;

	if (below(3))
		MAKE("reg_mr", mrs, (ibv_reg_mr)(ANY(pds), at, length, access));
	else
		MAKE("reg_mr_iova2", mrs, ibv_reg_mr_iova2(ANY(pds), at, length, rarely() ? next() : start, access));
}

static void make_cq(void)
{
	int cqe = rarely() ? (int)next() : (int)below(300);

	if (below(2)) {
		MAKE("create_cq", cqs, ibv_create_cq(context(), cqe, NULL, ANY(channels), rarely() ? (int)next() : 0));
	} else {
		struct ibv_cq_init_attr_ex init = { .cqe = cqe, .wc_flags = IBV_WC_STANDARD_FLAGS };

		if (rarely())
			fill(&init, sizeof(init));
		init.channel = ANY(channels);
		struct ibv_context *c = contexts[below(context_count)]; /* its inline function looks into it */
		MAKE("create_cq_ex", cqs, (struct ibv_cq *)ibv_create_cq_ex(c, &init));
	}
}

static void make_srq(void)
{
	struct ibv_srq_init_attr init = { .attr = { below(64), below(6), 0 } };

	if (rarely())
		fill(&init.attr, sizeof(init.attr));
	MAKE("create_srq", srqs, ibv_create_srq(ANY(pds), &init));
}

static void make_qp(void)
{
	static const enum ibv_qp_type types[] = { IBV_QPT_RC, IBV_QPT_RC, IBV_QPT_UC, IBV_QPT_UD };
	struct ibv_qp_init_attr_ex init = {
		.qp_type = rarely() ? (enum ibv_qp_type)below(20) : types[below(4)],
		.cap = { below(40), below(40), below(5), below(5), below(5) ? 0 : below(200) },
		.send_cq = ANY(cqs),
		.recv_cq = ANY(cqs),
		.srq = below(3) ? NULL : ANY(srqs),
		.pd = ANY(pds),
		.sq_sig_all = below(2),
		.comp_mask = IBV_QP_INIT_ATTR_PD,
	};

	if (rarely())
		fill(&init.cap, sizeof(init.cap));
	if (below(2)) {
		MAKE("create_qp", qps, ibv_create_qp(init.pd, rarely() ? NULL : (struct ibv_qp_init_attr *)&init));
	} else {
		struct ibv_context *c = contexts[below(context_count)];

		init.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS | (rarely() ? next() : 0);
		init.send_ops_flags = rarely() ? next() : IBV_QP_EX_WITH_SEND;
		MAKE("create_qp_ex", qps, ibv_create_qp_ex(c, &init));
	}
}

static void fill_address(struct ibv_ah_attr *ah, struct ibv_context *of)
{
	*ah = (struct ibv_ah_attr){ .is_global = 1, .port_num = 1, .grh = { .hop_limit = 64 } };
	ibv_query_gid(of, 1, 0, &ah->grh.dgid);
	if (rarely())
		fill(ah, sizeof(*ah));
}

static void make_ah(void)
{
	struct ibv_ah_attr attr;

	fill_address(&attr, contexts[below(context_count)]);
	MAKE("create_ah", ahs, ibv_create_ah(ANY(pds), rarely() ? NULL : &attr));
}

static int ready(struct ibv_qp *qp, uint32_t to)
{
	struct ibv_qp_attr a = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = 15, .qkey = 0x111 };
	bool rc = qp->qp_type == IBV_QPT_RC, ud = qp->qp_type == IBV_QPT_UD;
	int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT;
	int error = ibv_modify_qp(qp, &a, mask | (ud ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS));

	if (error)
		return error;
	a.qp_state = IBV_QPS_RTR;
	a.path_mtu = 1 + below(5);
	a.dest_qp_num = to;
	a.max_dest_rd_atomic = 4;
	a.min_rnr_timer = 1;
	fill_address(&a.ah_attr, qp->context);
	mask = IBV_QP_STATE;
	if (!ud)
		mask |= IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
	if (rc)
		mask |= IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
	error = ibv_modify_qp(qp, &a, mask);
	if (error)
		return error;
	a.qp_state = IBV_QPS_RTS;
	a.timeout = 8;
	a.retry_cnt = below(3);
	a.rnr_retry = below(3);
	a.max_rd_atomic = 4;
	return ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_SQ_PSN
				     | (rc ? IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC
					   : 0));
}

/* Two of them, or one with itself. */
static void connect_two(void)
{
	struct ibv_qp *a = qps[below(POOL)], *b = qps[below(POOL)];
	struct ibv_qp_attr reset = { .qp_state = IBV_QPS_RESET };

	doing = "connect";
	if (!a || !b || a->qp_type != b->qp_type)
		return;
	ibv_modify_qp(a, &reset, IBV_QP_STATE);
	ibv_modify_qp(b, &reset, IBV_QP_STATE);
	int one = ready(a, b->qp_num), other = a == b ? 0 : ready(b, a->qp_num);

	check(one, "connect");
	check(other, "connect");
	connected += !one && !other;
}

static void modify_qp(void)
{
	struct ibv_qp_attr attr;

	fill(&attr, sizeof(attr));
	CALL("modify_qp", ibv_modify_qp(ANY(qps), rarely() ? NULL : &attr, (int)(next() & 0x3ffffff)));
}

static int pieces(struct ibv_sge *sges)
{
	for (int i = 0; i < 4; i++)
		sges[i] = (struct ibv_sge){ address(), rarely() ? next() : below(5000), key() };
	return rarely() ? (int)(next() % 7) - 2 : (int)below(4);
}

static void post_send(void)
{
	struct ibv_qp *qp = qps[below(POOL)];
	struct ibv_send_wr wrs[3], *bad;
	struct ibv_sge sges[3][4];
	int count = 1 + below(3);

	if (!qp)
		return;
	for (int i = 0; i < count; i++) {
		struct ibv_send_wr *wr = &wrs[i];

		fill(wr, sizeof(*wr));
		wr->next = i + 1 < count ? wr + 1 : NULL;
		wr->num_sge = pieces(sges[i]);
		wr->sg_list = rarely() ? NULL : sges[i];
		wr->opcode = rarely() ? (enum ibv_wr_opcode)next() : (enum ibv_wr_opcode)below(10);
		wr->send_flags = rarely() ? next() : (next() & 7) | (below(4) ? 0 : IBV_SEND_INLINE);
		for (int p = 0; wr->send_flags & IBV_SEND_INLINE && p < 4; p++) {
			sges[i][p].addr = (uintptr_t)memory; /* what is copied now must be there */
			sges[i][p].length = below(4000);
		}
		if (wr->opcode == IBV_WR_BIND_MW) {
			wr->bind_mw.mw = ANY(mws);
			wr->bind_mw.rkey = key();
			wr->bind_mw.bind_info = (struct ibv_mw_bind_info){ ANY(mrs), address(), below(4096), next() & 63 };
		} else if (qp->qp_type == IBV_QPT_UD) {
			wr->wr.ud.ah = ANY(ahs);
			wr->wr.ud.remote_qpn = qps[0] ? qps[0]->qp_num : 5;
			wr->wr.ud.remote_qkey = 0x111;
		} else {
			wr->wr.rdma.remote_addr = address();
			wr->wr.rdma.rkey = key();
			if (wr->opcode >= IBV_WR_ATOMIC_CMP_AND_SWP && wr->opcode <= IBV_WR_ATOMIC_FETCH_AND_ADD)
				wr->wr.atomic.rkey = key();
		}
	}
	CALL("post_send", ibv_post_send(qp, wrs, rarely() ? NULL : &bad));
}

static void post_receive(void)
{
	struct ibv_qp *qp = qps[below(POOL)];
	struct ibv_srq *srq = srqs[below(POOL)];
	struct ibv_sge sges[4];
	struct ibv_recv_wr wr = { .sg_list = rarely() ? NULL : sges, .num_sge = pieces(sges) }, *bad;

	if (qp)
		CALL("post_recv", ibv_post_recv(qp, &wr, rarely() ? NULL : &bad));
	if (srq && below(2))
		CALL("post_srq_recv", ibv_post_srq_recv(srq, &wr, rarely() ? NULL : &bad));
}

static void post_extended(void)
{
	struct ibv_qp *qp = ANY(qps);
	struct ibv_qp_ex *ex = (doing = "qp_to_qp_ex", ibv_qp_to_qp_ex(qp));
	struct ibv_data_buf bufs[2] = { { memory, below(300) }, { memory + 64, below(300) } };
	struct ibv_sge sges[4];
	struct ibv_mw_bind_info bind = { ANY(mrs), address(), below(4096), next() & 63 };

	if (!ex)
		return;
	doing = "wr_start";
	if (!rarely())
		ibv_wr_start(ex);
	for (unsigned int i = below(4); i-- > 0;) {
		ex->wr_id = next();
		ex->wr_flags = next();
		doing = "wr_*";
		switch (below(12)) {
		case 0: ibv_wr_send(ex); break;
		case 1: ibv_wr_send_imm(ex, next()); break;
		case 2: ibv_wr_send_inv(ex, key()); break;
		case 3: ibv_wr_rdma_read(ex, key(), address()); break;
		case 4: ibv_wr_rdma_write(ex, key(), address()); break;
		case 5: ibv_wr_rdma_write_imm(ex, key(), address(), next()); break;
		case 6: ibv_wr_atomic_cmp_swp(ex, key(), address(), next(), next()); break;
		case 7: ibv_wr_atomic_fetch_add(ex, key(), address(), next()); break;
		case 8: ibv_wr_atomic_write(ex, key(), address(), rarely() ? NULL : memory); break;
		case 9: ibv_wr_local_inv(ex, key()); break;
		case 10: ibv_wr_bind_mw(ex, ANY(mws), key(), rarely() ? NULL : &bind); break;
		case 11: break;
		}
		switch (below(6)) {
		case 0: ibv_wr_set_sge(ex, key(), address(), below(5000)); break;
		case 1: ibv_wr_set_sge_list(ex, rarely() ? next() : (unsigned int)(pieces(sges) & 3),
					    rarely() ? NULL : sges); break;
		case 2: ibv_wr_set_inline_data(ex, rarely() ? NULL : memory, below(9000)); break;
		case 3: ibv_wr_set_inline_data_list(ex, below(3), rarely() ? NULL : bufs); break;
		case 4: ibv_wr_set_ud_addr(ex, ANY(ahs), next(), next()); break;
		case 5: break;
		}
	}
	if (below(4))
		CALL("wr_complete", ibv_wr_complete(ex));
	else
		ibv_wr_abort(ex);
}

static void poll(void)
{
	struct ibv_cq *cq = cqs[below(POOL)];
	struct ibv_wc wc[8];

	if (!cq)
		return;
	doing = "poll_cq";
	calls++;
	int found = ibv_poll_cq(cq, (int)below(10) - 1, rarely() ? NULL : wc);
	completions += found > 0 ? found : 0;
	if (found < 0)
		check(-found, "poll_cq");
	if (below(4) == 0)
		CALL("req_notify_cq", ibv_req_notify_cq(cq, below(2)));
}

static void query(void)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;
	struct ibv_srq_attr srq;
	struct ibv_device_attr device;
	struct ibv_gid_entry entry;
	union ibv_gid gid;
	__be16 pkey;

	switch (below(7)) {
	case 0: CALL("query_qp", ibv_query_qp(ANY(qps), rarely() ? NULL : &attr, next(), rarely() ? NULL : &init)); break;
	case 1: CALL("query_srq", ibv_query_srq(ANY(srqs), rarely() ? NULL : &srq)); break;
	case 2: CALL("query_device", ibv_query_device(context(), rarely() ? NULL : &device)); break;
	case 3: CALL("query_gid", ibv_query_gid(context(), below(3), (int)below(40) - 3, rarely() ? NULL : &gid) ? errno : 0); break;
	case 4: CALL("query_pkey", ibv_query_pkey(context(), below(3), (int)below(4) - 1, rarely() ? NULL : &pkey) ? errno : 0); break;
	case 5: CALL("query_gid_ex", ibv_query_gid_ex(context(), next() & 3, below(40), rarely() ? NULL : &entry, rarely())); break;
	case 6: srq.srq_limit = below(90);
		srq.max_wr = below(90);
		CALL("modify_srq", ibv_modify_srq(ANY(srqs), rarely() ? NULL : &srq, next() & 7));
		break;
	}
}

static void reregister(void)
{
	struct ibv_mr *mr = ANY(mrs);
	int flags = rarely() ? (int)next() : (int)below(8);
	unsigned int start = below(MEMORY);

	doing = "rereg_mr";
	calls++;
	ibv_rereg_mr(mr, flags, ANY(pds), rarely() ? NULL : memory + start, below(MEMORY - start) + 1,
		     rarely() ? (int)next() : 15);
}

static void step(void)
{
	switch (below(40)) {
	case 0: MAKE("alloc_pd", pds, ibv_alloc_pd(context())); break;
	case 1: END("dealloc_pd", pds, ibv_dealloc_pd); break;
	case 2: case 3: register_memory(); break;
	case 4: END("dereg_mr", mrs, ibv_dereg_mr); break;
	case 5: reregister(); break;
	case 6: {
		struct ibv_pd *pd = pds[below(POOL)];

		if (pd)
			MAKE("alloc_mw", mws, ibv_alloc_mw(pd, rarely() ? (enum ibv_mw_type)next() : 1 + below(2)));
		break;
	}
	case 7: {
		int i = below(POOL);

		if (mws[i] && !ibv_dealloc_mw(mws[i]))
			mws[i] = NULL;
		break;
	}
	case 8: make_cq(); break;
	case 9: END("destroy_cq", cqs, ibv_destroy_cq); break;
	case 10: CALL("resize_cq", ibv_resize_cq(ANY(cqs), rarely() ? (int)next() : (int)below(400))); break;
	case 11: make_srq(); break;
	case 12: END("destroy_srq", srqs, ibv_destroy_srq); break;
	case 13: case 14: make_qp(); break;
	case 15: END("destroy_qp", qps, ibv_destroy_qp); break;
	case 16: case 17: connect_two(); break;
	case 18: modify_qp(); break;
	case 19: make_ah(); break;
	case 20: END("destroy_ah", ahs, ibv_destroy_ah); break;
	case 21: MAKE("create_comp_channel", channels, ibv_create_comp_channel(context())); break;
	case 22: END("destroy_comp_channel", channels, ibv_destroy_comp_channel); break;
	case 23: case 24: query(); break;
	case 25: post_extended(); break;
	case 26: case 27: case 28: case 29: post_receive(); break;
	case 30: case 31: case 32: case 33: post_send(); break;
	default: poll(); break;
	}
}

static void tidy(void)
{
#define ALL(pool, function)                                                                                            \
	for (int i = 0; i < POOL; i++)                                                                                 \
		if ((pool)[i])                                                                                         \
			check((doing = #function, function((pool)[i])), #function);
	ALL(qps, ibv_destroy_qp)
	ALL(srqs, ibv_destroy_srq)
	ALL(ahs, ibv_destroy_ah)
	ALL(mws, ibv_dealloc_mw)
	ALL(mrs, ibv_dereg_mr)
	ALL(cqs, ibv_destroy_cq)
	ALL(channels, ibv_destroy_comp_channel)
	ALL(pds, ibv_dealloc_pd)
	for (int i = 0; i < context_count; i++)
		check((doing = "close_device", ibv_close_device(contexts[i])), "close_device");
}

int main(int count, char **arguments)
{
	int seconds = count > 2 ? atoi(arguments[2]) : 0;
	uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
	struct ibv_device **list = ibv_get_device_list(&context_count);
	struct timespec start, now;

	state = seed * 0x9E3779B97F4A7C15 + 1;
	context_count = context_count > 2 ? 2 : context_count;
	for (int i = 0; i < context_count; i++)
		if (!(contexts[i] = ibv_open_device(list[i])))
			return 100;
	ibv_free_device_list(list);
	alarm(seconds + 60); /* a hang is a crash */
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		for (int i = 0; i < 1000; i++)
			step();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < seconds);
	tidy();
	printf("seed %" PRIu64 ": %lu calls, %lu connections, %lu completions, %lu wrong\n", seed, calls, connected,
	       completions, wrong);
	return wrong > 100 ? 100 : (int)wrong;
}
