/*
 * librdmacm in ways that Debian's programs do not use it: queue pairs that the program moves itself, endpoints without a
 * channel, names, IPv6 where there is one, and what is refused, with its errno. Both sides in one process.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                                                       \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "%s:%d: %s: %s\n", __func__, __LINE__, #x, strerror(errno));                   \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

static const char *address;
static int port = 7800;

static struct rdma_cm_event *next(struct rdma_event_channel *channel, enum rdma_cm_event_type kind)
{
	struct pollfd waits = { .fd = channel->fd, .events = POLLIN };
	struct rdma_cm_event *event;

	CHECK(poll(&waits, 1, 20000) == 1); /* the descriptor is one that programs may poll */
	CHECK(rdma_get_cm_event(channel, &event) == 0);
	if (event->event != kind)
		fprintf(stderr, "%s, not %s\n", rdma_event_str(event->event), rdma_event_str(kind));
	CHECK(event->event == kind);
	return event;
}

static void done(struct rdma_event_channel *channel, enum rdma_cm_event_type kind)
{
	CHECK(rdma_ack_cm_event(next(channel, kind)) == 0);
}

static struct rdma_addrinfo *lookup(int flags, int ps)
{
	struct rdma_addrinfo hints = { .ai_flags = flags | RAI_NUMERICHOST, .ai_port_space = ps };
	struct rdma_addrinfo *found;
	char service[16];

	snprintf(service, sizeof(service), "%d", port);
	CHECK(rdma_getaddrinfo(address, service, &hints, &found) == 0);
	CHECK(found->ai_port_space == ps);
	return found;
}

static struct ibv_qp *make_qp(struct ibv_context *verbs, struct ibv_pd **pd, struct ibv_cq **cq)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 4, 4, 1, 1, 0 } };
	struct ibv_qp *qp;

	CHECK((*pd = ibv_alloc_pd(verbs)));
	CHECK((*cq = ibv_create_cq(verbs, 16, NULL, NULL, 0)));
	init.send_cq = init.recv_cq = *cq;
	CHECK((qp = ibv_create_qp(*pd, &init)));
	return qp;
}

static void move(struct rdma_cm_id *id, struct ibv_qp *qp, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = { .qp_state = state };
	int mask = 0;

	CHECK(rdma_init_qp_attr(id, &attr, &mask) == 0);
	CHECK(mask & IBV_QP_STATE);
	CHECK(ibv_modify_qp(qp, &attr, mask) == 0);
}

static void await(struct ibv_cq *cq)
{
	struct ibv_wc wc;
	int count;

	while (!(count = ibv_poll_cq(cq, 1, &wc)))
		;
	CHECK(count == 1 && wc.status == IBV_WC_SUCCESS);
}

/* The way of UCX and of an MPI: rdma_cm finds the peer, and the queue pair is the program's own. */
static void own_queue_pairs(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_addrinfo *passive = lookup(RAI_PASSIVE, RDMA_PS_TCP), *active = lookup(0, RDMA_PS_TCP);
	struct rdma_cm_id *listener, *client, *server;
	struct rdma_conn_param param = { .responder_resources = 1, .initiator_depth = 1, .private_data = "hello",
					 .private_data_len = 6 };
	struct rdma_cm_event *event;
	struct ibv_qp *qps[2];
	struct ibv_pd *pds[2];
	struct ibv_cq *cqs[2];
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT };
	char from[64] = "over a queue pair of the program's own", to[64] = "";
	struct ibv_mr *mrs[2];
	int mask;

	CHECK(channel && rdma_create_id(channel, &listener, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_init_qp_attr(listener, &attr, &mask) == -1 && errno == EINVAL); /* bound to nothing */
	CHECK(rdma_bind_addr(listener, passive->ai_src_addr) == 0 && rdma_listen(listener, 2) == 0);
	CHECK(rdma_create_id(channel, &client, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_resolve_addr(client, NULL, active->ai_dst_addr, 1000) == 0);
	done(channel, RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK(rdma_resolve_route(client, 1000) == 0);
	done(channel, RDMA_CM_EVENT_ROUTE_RESOLVED);
	attr.qp_state = IBV_QPS_RTR;
	CHECK(rdma_init_qp_attr(client, &attr, &mask) == -1 && errno == EINVAL); /* to whom? */
	qps[0] = make_qp(client->verbs, &pds[0], &cqs[0]);
	move(client, qps[0], IBV_QPS_INIT);
	param.qp_num = 0xffffff;
	CHECK(rdma_connect(client, &param) == -1 && errno == EINVAL); /* no queue pair of ours */
	param.qp_num = qps[0]->qp_num;
	CHECK(rdma_connect(client, &param) == 0);

	event = next(channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	CHECK(event->listen_id == listener && !strcmp(event->param.conn.private_data, "hello"));
	CHECK(event->param.conn.qp_num == qps[0]->qp_num);
	server = event->id;
	CHECK(rdma_ack_cm_event(event) == 0);
	CHECK(rdma_destroy_id(listener) == 0); /* what was taken from it stays */
	qps[1] = make_qp(server->verbs, &pds[1], &cqs[1]);
	for (int state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++)
		move(server, qps[1], state);
	param.qp_num = qps[1]->qp_num;
	CHECK(rdma_accept(server, &param) == 0);

	event = next(channel, RDMA_CM_EVENT_CONNECT_RESPONSE);
	CHECK(event->id == client && event->param.conn.qp_num == qps[1]->qp_num);
	CHECK(rdma_ack_cm_event(event) == 0);
	for (int state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++)
		move(client, qps[0], state);
	CHECK(rdma_establish(client) == 0);
	CHECK(rdma_establish(client) == -1 && errno == EINVAL);
	event = next(channel, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(event->id == server && rdma_ack_cm_event(event) == 0);

	CHECK((mrs[0] = ibv_reg_mr(pds[0], from, sizeof(from), IBV_ACCESS_LOCAL_WRITE)));
	CHECK((mrs[1] = ibv_reg_mr(pds[1], to, sizeof(to), IBV_ACCESS_LOCAL_WRITE)));
	struct ibv_sge in = { (uintptr_t)to, sizeof(to), mrs[1]->lkey }, out = { (uintptr_t)from, sizeof(from), mrs[0]->lkey };
	struct ibv_recv_wr receive = { .sg_list = &in, .num_sge = 1 }, *bad_receive;
	struct ibv_send_wr send = { .sg_list = &out, .num_sge = 1, .opcode = IBV_WR_SEND,
				    .send_flags = IBV_SEND_SIGNALED }, *bad_send;

	CHECK(ibv_post_recv(qps[1], &receive, &bad_receive) == 0 && ibv_post_send(qps[0], &send, &bad_send) == 0);
	await(cqs[0]);
	await(cqs[1]);
	CHECK(!strcmp(from, to));

	CHECK(rdma_disconnect(client) == 0);
	done(channel, RDMA_CM_EVENT_DISCONNECTED);
	done(channel, RDMA_CM_EVENT_DISCONNECTED);
	for (int i = 0; i < 2; i++) {
		CHECK(ibv_dereg_mr(mrs[i]) == 0 && ibv_destroy_qp(qps[i]) == 0 && ibv_destroy_cq(cqs[i]) == 0);
		CHECK(ibv_dealloc_pd(pds[i]) == 0);
	}
	CHECK(rdma_destroy_id(client) == 0 && rdma_destroy_id(server) == 0);
	rdma_destroy_event_channel(channel);
	rdma_freeaddrinfo(passive);
	rdma_freeaddrinfo(active);
	port++;
}

/* Endpoints: no channel, every call waits. */
static void *serve(void *argument)
{
	struct rdma_cm_id *listener = argument, *server;

	CHECK(rdma_get_request(listener, &server) == 0);
	CHECK(server->qp && rdma_accept(server, NULL) == 0);
	CHECK(rdma_disconnect(server) == 0);
	rdma_destroy_ep(server);
	return NULL;
}

static void endpoints(void)
{
	struct rdma_addrinfo *passive = lookup(RAI_PASSIVE, RDMA_PS_TCP), *active = lookup(0, RDMA_PS_TCP);
	struct ibv_qp_init_attr init = { .cap = { 4, 4, 1, 1, 0 }, .sq_sig_all = 1 }, same = init;
	struct rdma_cm_id *listener, *client;
	pthread_t thread;

	CHECK(rdma_create_ep(&listener, passive, NULL, &init) == 0 && rdma_listen(listener, 0) == 0);
	CHECK(pthread_create(&thread, NULL, serve, listener) == 0);
	CHECK(rdma_create_ep(&client, active, NULL, &same) == 0);
	CHECK(client->qp && client->send_cq && client->recv_cq_channel);
	CHECK(rdma_connect(client, NULL) == 0);
	CHECK(client->event && client->event->event == RDMA_CM_EVENT_ESTABLISHED);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(rdma_disconnect(client) == 0);
	rdma_destroy_ep(client);
	rdma_destroy_ep(listener);
	rdma_freeaddrinfo(passive);
	rdma_freeaddrinfo(active);
	port++;
}

/* The queue pair of a port, by its number alone. */
static void datagrams(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_addrinfo *passive = lookup(RAI_PASSIVE, RDMA_PS_UDP), *active = lookup(0, RDMA_PS_UDP);
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_UD, .cap = { 4, 4, 1, 1, 0 } };
	struct rdma_conn_param param = { .private_data = "you", .private_data_len = 4 };
	struct rdma_cm_id *listener, *client, *server;
	struct rdma_cm_event *event;

	CHECK(channel && rdma_create_id(channel, &listener, NULL, RDMA_PS_UDP) == 0);
	CHECK(rdma_bind_addr(listener, passive->ai_src_addr) == 0 && rdma_listen(listener, 2) == 0);
	CHECK(rdma_create_id(channel, &client, NULL, RDMA_PS_UDP) == 0);
	CHECK(rdma_resolve_addr(client, NULL, active->ai_dst_addr, 1000) == 0);
	done(channel, RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK(rdma_resolve_route(client, 1000) == 0);
	done(channel, RDMA_CM_EVENT_ROUTE_RESOLVED);
	CHECK(rdma_create_qp(client, NULL, &init) == 0 && client->qp->state == IBV_QPS_RTS);
	CHECK(rdma_connect(client, &param) == 0);
	event = next(channel, RDMA_CM_EVENT_CONNECT_REQUEST);
	CHECK(!strcmp(event->param.ud.private_data, "you"));
	server = event->id;
	CHECK(rdma_ack_cm_event(event) == 0);
	init.send_cq = init.recv_cq = NULL;
	CHECK(rdma_create_qp(server, NULL, &init) == 0);
	param.qp_num = server->qp->qp_num;
	CHECK(rdma_accept(server, &param) == 0);
	event = next(channel, RDMA_CM_EVENT_ESTABLISHED);
	CHECK(event->id == client && event->param.ud.qp_num == server->qp->qp_num);
	CHECK(event->param.ud.qkey == RDMA_UDP_QKEY && event->param.ud.ah_attr.is_global);
	CHECK(!memcmp(&event->param.ud.ah_attr.grh.dgid, &client->route.addr.addr.ibaddr.dgid, 16));
	CHECK(rdma_ack_cm_event(event) == 0);
	rdma_destroy_qp(client);
	rdma_destroy_qp(server);
	CHECK(rdma_destroy_id(client) == 0 && rdma_destroy_id(server) == 0 && rdma_destroy_id(listener) == 0);
	rdma_destroy_event_channel(channel);
	rdma_freeaddrinfo(passive);
	rdma_freeaddrinfo(active);
	port++;
}

/* What poll() says of a channel is what a program finds in it, also when an event leaves it untaken. */
static void no_stale_counts(void)
{
	struct rdma_event_channel *one = rdma_create_event_channel(), *other = rdma_create_event_channel();
	struct rdma_addrinfo *passive = lookup(RAI_PASSIVE, RDMA_PS_TCP), *active = lookup(0, RDMA_PS_TCP);
	struct rdma_cm_id *listener, *client, *second;
	struct rdma_conn_param param = { .responder_resources = 1 };
	struct pollfd in_one, in_other;

	CHECK(one && other);
	in_one = (struct pollfd){ .fd = one->fd, .events = POLLIN };
	in_other = (struct pollfd){ .fd = other->fd, .events = POLLIN };
	CHECK(rdma_create_id(one, &client, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_create_id(one, &second, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_resolve_addr(client, NULL, active->ai_dst_addr, 1000) == 0);
	CHECK(rdma_resolve_addr(second, NULL, active->ai_dst_addr, 1000) == 0);
	CHECK(poll(&in_one, 1, 0) == 1);
	CHECK(rdma_migrate_id(client, other) == 0);
	done(one, RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK(poll(&in_one, 1, 0) == 0 && poll(&in_other, 1, 0) == 1);
	done(other, RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK(poll(&in_other, 1, 0) == 0);
	CHECK(rdma_resolve_route(second, 1000) == 0 && poll(&in_one, 1, 0) == 1);
	CHECK(rdma_destroy_id(second) == 0 && poll(&in_one, 1, 0) == 0);

	/* The request that nobody took goes with the listener. */
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 4, 4, 1, 1, 0 } };

	CHECK(rdma_create_id(one, &listener, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_bind_addr(listener, passive->ai_src_addr) == 0 && rdma_listen(listener, 2) == 0);
	CHECK(rdma_resolve_route(client, 1000) == 0);
	done(other, RDMA_CM_EVENT_ROUTE_RESOLVED);
	CHECK(rdma_create_qp(client, NULL, &init) == 0 && rdma_connect(client, &param) == 0);
	CHECK(poll(&in_one, 1, 20000) == 1);
	CHECK(rdma_destroy_id(listener) == 0 && poll(&in_one, 1, 0) == 0);
	done(other, RDMA_CM_EVENT_REJECTED);
	rdma_destroy_qp(client);
	CHECK(rdma_destroy_id(client) == 0);
	rdma_destroy_event_channel(one);
	rdma_destroy_event_channel(other);
	rdma_freeaddrinfo(passive);
	rdma_freeaddrinfo(active);
	port++;
}

int main(int count, char **arguments)
{
	CHECK(count == 2);
	address = arguments[1];
	own_queue_pairs();
	endpoints();
	datagrams();
	no_stale_counts();
	puts("all connections are made and ended");
	return 0;
}
