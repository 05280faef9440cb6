/*
 * Multicast by verbs and by rdma_cm: two queue pairs of one device, a group, and what is refused, with its errno.
 * Arguments: the device's address, a group of its family, and one of the other family.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

enum { QKEY = 0x11111111, GRH = 40, BUFFER = 256, PER_GROUP = 56 };

struct member {
	struct ibv_qp *qp;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	char bytes[BUFFER];
};

static struct ibv_context *verbs;
static struct ibv_pd *pd;
static union ibv_gid own, group, foreign;

static union ibv_gid gid_of(const char *text)
{
	union ibv_gid gid = { .raw = { [10] = 0xff, [11] = 0xff } };

	if (inet_pton(AF_INET, text, gid.raw + 12) != 1)
		CHECK(inet_pton(AF_INET6, text, gid.raw) == 1);
	return gid;
}

static void receive(struct member *m)
{
	struct ibv_sge sge = { (uintptr_t)m->bytes, BUFFER, m->mr->lkey };
	struct ibv_recv_wr wr = { .sg_list = &sge, .num_sge = 1 }, *bad;

	memset(m->bytes, 0xee, BUFFER);
	CHECK(ibv_post_recv(m->qp, &wr, &bad) == 0);
}

static struct ibv_qp *make_qp(struct ibv_cq *cq, enum ibv_qp_type type, uint32_t qkey)
{
	struct ibv_qp_init_attr init = { .qp_type = type, .cap = { 4, 4, 1, 1, 64 }, .send_cq = cq, .recv_cq = cq };
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = qkey };
	struct ibv_qp *qp = ibv_create_qp(pd, &init);

	CHECK(qp);
	if (type != IBV_QPT_UD)
		return qp;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY) == 0);
	attr.qp_state = IBV_QPS_RTR;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE) == 0);
	attr.qp_state = IBV_QPS_RTS;
	CHECK(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN) == 0);
	return qp;
}

static struct member *make_member(uint32_t qkey)
{
	struct member *m = calloc(1, sizeof(*m));

	CHECK(m && (m->cq = ibv_create_cq(verbs, 16, NULL, NULL, 0)));
	CHECK((m->mr = ibv_reg_mr(pd, m->bytes, BUFFER, IBV_ACCESS_LOCAL_WRITE)));
	m->qp = make_qp(m->cq, IBV_QPT_UD, qkey);
	receive(m);
	return m;
}

static void end_member(struct member *m)
{
	CHECK(ibv_destroy_qp(m->qp) == 0 && ibv_dereg_mr(m->mr) == 0 && ibv_destroy_cq(m->cq) == 0);
	free(m);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct ibv_wc await(struct ibv_cq *cq, enum ibv_wc_opcode opcode)
{
	double end = now() + 20;
	struct ibv_wc wc;

	for (;;) {
		int count = ibv_poll_cq(cq, 1, &wc);

		CHECK(count >= 0 && now() < end);
		if (!count)
			continue;
		CHECK(wc.status == IBV_WC_SUCCESS);
		if (wc.opcode == opcode)
			return wc;
	}
}

static void send_to_group(struct member *from, const char *text)
{
	struct ibv_ah_attr to = { .is_global = 1, .port_num = 1, .grh = { .dgid = group, .hop_limit = 1 } };
	struct ibv_ah *ah = ibv_create_ah(pd, &to);
	struct ibv_sge sge = { (uintptr_t)text, strlen(text) + 1, 0 };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND,
				  .send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE,
				  .wr.ud = { .ah = ah, .remote_qpn = 0xffffff, .remote_qkey = QKEY } }, *bad;

	CHECK(ah && ibv_post_send(from->qp, &wr, &bad) == 0);
	await(from->cq, IBV_WC_SEND);
	CHECK(ibv_destroy_ah(ah) == 0);
}

static void expect(struct member *m, struct member *from, const char *text)
{
	struct ibv_wc wc = await(m->cq, IBV_WC_RECV);
	bool four = own.raw[10] == 0xff && !own.raw[0];

	CHECK(wc.src_qp == from->qp->qp_num && wc.wc_flags & IBV_WC_GRH);
	CHECK(wc.byte_len == GRH + strlen(text) + 1 && !strcmp(m->bytes + GRH, text));
	CHECK(!memcmp(m->bytes + (four ? 32 : 8), own.raw + (four ? 12 : 0), four ? 4 : 16));
	CHECK(!memcmp(m->bytes + (four ? 36 : 24), group.raw + (four ? 12 : 0), four ? 4 : 16));
	receive(m);
}

static void expect_nothing(struct member *m)
{
	struct ibv_wc wc;

	CHECK(ibv_poll_cq(m->cq, 1, &wc) == 0 && m->bytes[GRH] == (char)0xee);
}

static void by_verbs(void)
{
	struct member *a = make_member(QKEY), *b = make_member(QKEY), *other_key = make_member(QKEY + 1);
	struct ibv_qp *connected = make_qp(a->cq, IBV_QPT_RC, 0), *many[PER_GROUP];
	struct ibv_device_attr attr;

	CHECK(ibv_query_device(verbs, &attr) == 0);
	CHECK(attr.max_mcast_grp == 8192 && attr.max_mcast_qp_attach == PER_GROUP);
	CHECK(attr.max_total_mcast_qp_attach == 8192 * PER_GROUP);
	CHECK(ibv_attach_mcast(connected, &group, 0) == EINVAL);
	CHECK(ibv_attach_mcast(a->qp, &own, 0) == EINVAL && ibv_attach_mcast(a->qp, &foreign, 0) == EINVAL);
	CHECK(ibv_detach_mcast(a->qp, &group, 0) == EINVAL);

	CHECK(ibv_attach_mcast(a->qp, &group, 0) == 0 && ibv_attach_mcast(a->qp, &group, 0) == 0);
	CHECK(ibv_attach_mcast(b->qp, &group, 0) == 0 && ibv_attach_mcast(other_key->qp, &group, 0) == 0);
	CHECK(ibv_destroy_qp(a->qp) == EBUSY);
	send_to_group(a, "to all");
	expect(a, a, "to all");
	expect(b, a, "to all");
	expect_nothing(other_key);

	CHECK(ibv_detach_mcast(a->qp, &group, 0) == 0 && ibv_detach_mcast(a->qp, &group, 0) == EINVAL);
	send_to_group(a, "to the other");
	expect(b, a, "to the other");
	expect_nothing(a); /* b has it, so it would be there */
	CHECK(ibv_detach_mcast(b->qp, &group, 0) == 0 && ibv_detach_mcast(other_key->qp, &group, 0) == 0);
	send_to_group(a, "to nobody");
	CHECK(ibv_attach_mcast(b->qp, &group, 0) == 0);
	send_to_group(a, "to the other again");
	expect(b, a, "to the other again");
	CHECK(ibv_detach_mcast(b->qp, &group, 0) == 0);

	for (int i = 0; i < PER_GROUP; i++) {
		many[i] = make_qp(a->cq, IBV_QPT_UD, QKEY);
		CHECK(ibv_attach_mcast(many[i], &group, 0) == 0);
	}
	CHECK(ibv_attach_mcast(a->qp, &group, 0) == ENOMEM);
	for (int i = 0; i < PER_GROUP; i++)
		CHECK(ibv_detach_mcast(many[i], &group, 0) == 0 && ibv_destroy_qp(many[i]) == 0);
	CHECK(ibv_destroy_qp(connected) == 0);
	end_member(a);
	end_member(b);
	end_member(other_key);
}

static struct rdma_cm_event *next(struct rdma_event_channel *channel, enum rdma_cm_event_type kind)
{
	struct pollfd waits = { .fd = channel->fd, .events = POLLIN };
	struct rdma_cm_event *event;

	CHECK(poll(&waits, 1, 20000) == 1 && rdma_get_cm_event(channel, &event) == 0);
	if (event->event != kind)
		fprintf(stderr, "%s, not %s\n", rdma_event_str(event->event), rdma_event_str(kind));
	CHECK(event->event == kind);
	return event;
}

static socklen_t write_address(struct sockaddr_storage *to, const union ibv_gid *gid)
{
	memset(to, 0, sizeof(*to));
	if (gid->raw[10] == 0xff && !gid->raw[0]) {
		struct sockaddr_in *four = (struct sockaddr_in *)to;

		four->sin_family = AF_INET;
		memcpy(&four->sin_addr, gid->raw + 12, 4);
		return sizeof(*four);
	}
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;

	six->sin6_family = AF_INET6;
	memcpy(&six->sin6_addr, gid->raw, 16);
	return sizeof(*six);
}

static void by_connection_manager(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct sockaddr_storage here, to, elsewhere;
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_UD, .cap = { 4, 4, 1, 1, 64 } };
	struct rdma_cm_join_mc_attr_ex attr = { .comp_mask = RDMA_CM_JOIN_MC_ATTR_ADDRESS };
	struct rdma_cm_event *event;
	struct rdma_cm_id *id, *stream, *waits;
	struct pollfd nothing = { .events = POLLIN };
	int context;

	write_address(&here, &own);
	write_address(&to, &group);
	write_address(&elsewhere, &foreign);
	CHECK(channel && rdma_create_id(channel, &id, NULL, RDMA_PS_UDP) == 0);
	nothing.fd = channel->fd;
	CHECK(rdma_create_id(channel, &stream, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_bind_addr(stream, (void *)&here) == 0);
	CHECK(rdma_join_multicast(id, (void *)&to, NULL) == -1 && errno == EINVAL); /* bound to nothing */
	CHECK(rdma_bind_addr(id, (void *)&here) == 0);
	CHECK(rdma_join_multicast(stream, (void *)&to, NULL) == -1 && errno == EINVAL);
	CHECK(rdma_leave_multicast(id, (void *)&to) == -1 && errno == EADDRNOTAVAIL);
	attr.addr = (void *)&to;
	CHECK(rdma_join_multicast_ex(id, &attr, NULL) == -1 && errno == EINVAL); /* no flags */
	attr.comp_mask |= RDMA_CM_JOIN_MC_ATTR_JOIN_FLAGS;
	attr.join_flags = RDMA_MC_JOIN_FLAG_RESERVED;
	CHECK(rdma_join_multicast_ex(id, &attr, NULL) == -1 && errno == ENOTSUP);

	CHECK(rdma_create_qp(id, NULL, &init) == 0);
	CHECK(rdma_join_multicast(id, (void *)&to, &context) == 0);
	event = next(channel, RDMA_CM_EVENT_MULTICAST_JOIN);
	CHECK(event->id == id && event->status == 0 && event->param.ud.private_data == &context);
	CHECK(event->param.ud.qp_num == 0xffffff && event->param.ud.qkey == RDMA_UDP_QKEY);
	CHECK(event->param.ud.ah_attr.is_global && event->param.ud.ah_attr.port_num == 1);
	CHECK(!memcmp(&event->param.ud.ah_attr.grh.dgid, &group, sizeof(group)));
	CHECK(rdma_ack_cm_event(event) == 0);
	CHECK(ibv_destroy_qp(id->qp) == EBUSY); /* so it is attached */
	CHECK(rdma_leave_multicast(id, (void *)&to) == 0);
	CHECK(ibv_detach_mcast(id->qp, &group, 0) == EINVAL);

	/* A group of the other family is no group of this device: said by the event. */
	CHECK(rdma_join_multicast(id, (void *)&elsewhere, &context) == 0);
	event = next(channel, RDMA_CM_EVENT_MULTICAST_ERROR);
	CHECK(event->id == id && event->status == -EINVAL && event->param.ud.private_data == &context);
	CHECK(rdma_ack_cm_event(event) == 0 && rdma_leave_multicast(id, (void *)&elsewhere) == 0);

	/* Who only sends is not attached; nor is who left before the event was taken, and there is none then. */
	attr.join_flags = RDMA_MC_JOIN_FLAG_SENDONLY_FULLMEMBER;
	CHECK(rdma_join_multicast_ex(id, &attr, NULL) == 0);
	CHECK(rdma_ack_cm_event(next(channel, RDMA_CM_EVENT_MULTICAST_JOIN)) == 0);
	CHECK(ibv_detach_mcast(id->qp, &group, 0) == EINVAL && rdma_leave_multicast(id, (void *)&to) == 0);
	CHECK(rdma_join_multicast(id, (void *)&to, NULL) == 0 && poll(&nothing, 1, 0) == 1);
	CHECK(rdma_leave_multicast(id, (void *)&to) == 0 && poll(&nothing, 1, 0) == 0);
	attr.join_flags = RDMA_MC_JOIN_FLAG_FULLMEMBER;
	CHECK(rdma_join_multicast_ex(id, &attr, &context) == 0);
	event = next(channel, RDMA_CM_EVENT_MULTICAST_JOIN);
	CHECK(event->param.ud.private_data == &context && rdma_ack_cm_event(event) == 0);
	CHECK(rdma_leave_multicast(id, (void *)&to) == 0);
	rdma_destroy_qp(id);
	CHECK(rdma_destroy_id(id) == 0 && rdma_destroy_id(stream) == 0);

	/* An identifier without a channel waits itself. */
	CHECK(rdma_create_id(NULL, &waits, NULL, RDMA_PS_UDP) == 0 && rdma_bind_addr(waits, (void *)&here) == 0);
	init.send_cq = init.recv_cq = NULL; /* the others are gone */
	CHECK(rdma_create_qp(waits, NULL, &init) == 0);
	CHECK(rdma_join_multicast(waits, (void *)&elsewhere, NULL) == -1 && errno == EINVAL);
	CHECK(rdma_join_multicast(waits, (void *)&to, NULL) == 0);
	CHECK(waits->event->event == RDMA_CM_EVENT_MULTICAST_JOIN);
	CHECK(rdma_leave_multicast(waits, (void *)&to) == 0 && !waits->event); /* acknowledges what it keeps */
	rdma_destroy_qp(waits);
	CHECK(rdma_destroy_id(waits) == 0);
	rdma_destroy_event_channel(channel);
}

int main(int count, char **arguments)
{
	struct ibv_device **devices = ibv_get_device_list(NULL);

	CHECK(count == 4 && devices && devices[0] && (verbs = ibv_open_device(devices[0])));
	own = gid_of(arguments[1]);
	group = gid_of(arguments[2]);
	foreign = gid_of(arguments[3]);
	CHECK((pd = ibv_alloc_pd(verbs)));
	by_verbs();
	by_connection_manager();
	CHECK(ibv_dealloc_pd(pd) == 0 && ibv_close_device(verbs) == 0);
	ibv_free_device_list(devices);
	return 0;
}
