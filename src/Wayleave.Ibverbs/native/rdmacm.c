/*
 * librdmacm.so.1 over the connection manager of libibverbs.so.1 beside it. An identifier is bound to one of the
 * process's own devices by its address; there is nothing to resolve, so that those events come at once.
 *
 * Not here: rsockets, XRC.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* CmEventRecord */
struct wl_cm_event {
	struct rdma_cm_id *subject;
	void *request;
	uint32_t kind;
	int32_t status;
	uint8_t gid[16];
	uint16_t remote_port;
	uint16_t local_port;
	uint8_t responder_resources;
	uint8_t initiator_depth;
	uint8_t retry_count;
	uint8_t rnr_retry_count;
	uint32_t qp_num;
	uint32_t length;
	uint8_t data[256];
	uint32_t qkey;
};

extern int wlv_cm_device(const uint8_t *gid);
extern void wlv_cm_gid(int device, uint8_t *gid);
extern void *wlv_cm_create_channel(int fd);
extern void *wlv_cm_create(void *channel, struct rdma_cm_id *id);
extern void wlv_cm_attach(void *identifier, struct rdma_cm_id *id);
extern int wlv_cm_migrate(void *identifier, void *channel);
extern int wlv_cm_destroy(void *identifier, int *purged);
extern void wlv_cm_raise(void *identifier, uint32_t kind, int status);
extern int wlv_cm_purge(void *identifier, uint32_t kind, int status);
extern int wlv_cm_listen(void *identifier, int device, uint16_t *port, int backlog, int datagram);
extern int wlv_cm_prepare(int device, void *qp);
extern int wlv_cm_connect(void *identifier, int device, const uint8_t *gid, uint16_t port, void *qp,
			  struct wl_cm_event *wanted);
extern int wlv_cm_accept(void *identifier, void *qp, struct wl_cm_event *wanted);
extern int wlv_cm_resolve(void *identifier, int device, const uint8_t *gid, uint16_t port, struct wl_cm_event *wanted);
extern int wlv_cm_serve(void *identifier, struct wl_cm_event *wanted);
extern int wlv_cm_establish(void *identifier);
extern int wlv_cm_describe(void *identifier, struct ibv_qp_attr *attr, int *mask);
extern int wlv_cm_reject(void *identifier, const uint8_t *data, int length);
extern int wlv_cm_disconnect(void *identifier);
extern int wlv_cm_take_event(void *channel, struct wl_cm_event *event);
extern void wlv_free_handle(void *handle);

struct channel {
	void *handle;
	struct rdma_event_channel channel;
};

/* A group that was joined. In the list and out of it under the identifier's lock. */
struct multicast {
	struct multicast *next;
	int number;              /* what its event says for a status; not 0 */
	bool sends_only;
	uint32_t given;          /* as of an identifier */
	uint32_t acknowledged;
	void *context;
	union ibv_gid gid;
	struct sockaddr_storage address;
};

struct identifier {
	void *handle;
	int device;              /* -1 before it is bound */
	bool sync;               /* has a channel of its own, and waits in it */
	bool own_pd;
	bool own_cqs;
	uint32_t given;          /* events that were taken */
	uint32_t acknowledged;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct rdma_conn_param asked; /* by a peer */
	struct multicast *groups;
	int joins;               /* so many were numbered */
	struct ibv_pd *template_pd;   /* of an endpoint that listens: what each connection gets */
	struct ibv_qp_init_attr *template;
	struct rdma_cm_id id;
};

struct event {
	struct identifier *owner; /* whose acknowledgement it is */
	struct multicast *group;  /* and this one's, of a join */
	uint8_t data[256];
	struct rdma_cm_event event;
};

#define OF(type, member, pointer) ((type *)((char *)(pointer)-offsetof(type, member)))

static struct identifier *identifier_of(struct rdma_cm_id *id)
{
	return OF(struct identifier, id, id);
}

static struct channel *channel_of(struct rdma_event_channel *channel)
{
	return OF(struct channel, channel, channel);
}

static int failed(int error)
{
	errno = error;
	return error ? -1 : 0;
}

/* ---- devices ---- */

static struct ibv_context **contexts; /* one for each device, for ever: programs share them */
static int context_count;
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;

static int open_devices(void)
{
	int error = 0;

	pthread_mutex_lock(&devices_lock);
	if (!contexts) {
		struct ibv_device **list = (ibv_get_device_list)(&context_count);

		contexts = list ? calloc(context_count + 1, sizeof(*contexts)) : NULL;
		for (int i = 0; contexts && i < context_count; i++)
			contexts[i] = ibv_open_device(list[i]);
		if (list)
			ibv_free_device_list(list);
		if (!contexts)
			error = ENODEV;
	}
	pthread_mutex_unlock(&devices_lock);
	return error;
}

EXPORT struct ibv_context **rdma_get_devices(int *count)
{
	struct ibv_context **list;
	int error = open_devices();

	if (error || !(list = calloc(context_count + 1, sizeof(*list)))) {
		errno = error ? error : ENOMEM;
		return NULL;
	}
	memcpy(list, contexts, context_count * sizeof(*list));
	if (count)
		*count = context_count;
	return list;
}

EXPORT void rdma_free_devices(struct ibv_context **list)
{
	free(list);
}

/* ---- addresses ---- */

static int gid_of(const struct sockaddr *address, uint8_t *gid)
{
	memset(gid, 0, 16);
	if (address->sa_family == AF_INET) {
		memset(gid + 10, 0xff, 2);
		memcpy(gid + 12, &((const struct sockaddr_in *)address)->sin_addr, 4);
		return 0;
	}
	if (address->sa_family == AF_INET6) {
		memcpy(gid, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
		return 0;
	}
	return EAFNOSUPPORT;
}

/* ::1, or 127.0.0.1 in its mapped form: what "localhost" is. */
static bool is_loopback(const uint8_t gid[16])
{
	static const uint8_t six[16] = { [15] = 1 };
	static const uint8_t four[16] = { [10] = 0xff, 0xff, 127, 0, 0, 1 };

	return !memcmp(gid, six, sizeof(six)) || !memcmp(gid, four, sizeof(four));
}

static bool is_any(const uint8_t *gid)
{
	static const uint8_t none[16], any4[16] = { [10] = 0xff, [11] = 0xff };

	return !memcmp(gid, none, 16) || !memcmp(gid, any4, 16);
}

static void write_address(struct sockaddr *address, const uint8_t *gid, uint16_t port)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (!memcmp(gid, mapped, sizeof(mapped))) {
		struct sockaddr_in *to = (struct sockaddr_in *)address;

		to->sin_family = AF_INET;
		to->sin_port = htons(port);
		memcpy(&to->sin_addr, gid + 12, 4);
	} else {
		struct sockaddr_in6 *to = (struct sockaddr_in6 *)address;

		to->sin6_family = AF_INET6;
		to->sin6_port = htons(port);
		memcpy(&to->sin6_addr, gid, 16);
	}
}

static __be16 *port_of(struct sockaddr *address)
{
	return address->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)address)->sin6_port
					      : &((struct sockaddr_in *)address)->sin_port;
}

static void bind_device(struct identifier *i, int device)
{
	struct rdma_addr *route = &i->id.route.addr;

	i->device = device;
	i->id.verbs = contexts[device];
	i->id.port_num = 1;
	MANAGED((wlv_cm_gid(device, route->addr.ibaddr.sgid.raw), 0));
	route->addr.ibaddr.pkey = 0xffff;
}

static int bind_address(struct identifier *i, struct sockaddr *address)
{
	struct sockaddr *own = &i->id.route.addr.src_addr;
	uint8_t gid[16];
	int device = -1;
	int error = gid_of(address, gid);

	error = error ? error : open_devices();
	if (error)
		return error;
	memcpy(own, address, address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
	if (is_any(gid))
		return 0;
	MANAGED((device = wlv_cm_device(gid), 0));
	if (device >= 0) {
		bind_device(i, device);
		return 0;
	}
	if (!is_loopback(gid) || !context_count)
		return ENODEV;
	/*
	 * The first that there is, as cma_bind_loopback of the kernel has it. From now on the identifier has the
	 * device's address: a listener tells its peers, as those of libfabric do, and to them the other is their own.
	 */
	bind_device(i, 0);
	write_address(own, i->id.route.addr.addr.ibaddr.sgid.raw, ntohs(*port_of(own)));
	return 0;
}

EXPORT __be16 rdma_get_src_port(struct rdma_cm_id *id)
{
	return *port_of(&id->route.addr.src_addr);
}

EXPORT __be16 rdma_get_dst_port(struct rdma_cm_id *id)
{
	return *port_of(&id->route.addr.dst_addr);
}

/* ---- channels and identifiers ---- */

EXPORT struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct channel *made = calloc(1, sizeof(*made));

	if (!made)
		return NULL;
	made->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	if (made->channel.fd < 0 || MANAGED((made->handle = wlv_cm_create_channel(made->channel.fd), 0))) {
		if (made->channel.fd >= 0)
			close(made->channel.fd);
		free(made);
		return NULL;
	}
	return &made->channel;
}

EXPORT void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
	struct channel *destroyed = channel_of(channel);

	MANAGED((wlv_free_handle(destroyed->handle), 0));
	close(channel->fd);
	free(destroyed);
}

static struct identifier *make_identifier(struct rdma_event_channel *channel, void *context, enum rdma_port_space ps)
{
	struct identifier *made = calloc(1, sizeof(*made));

	if (!made)
		return NULL;
	made->device = -1;
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->cond, NULL);
	made->id.context = context;
	made->id.ps = ps;
	made->id.qp_type = ps == RDMA_PS_IPOIB || ps == RDMA_PS_UDP ? IBV_QPT_UD : IBV_QPT_RC;
	made->id.channel = channel;
	return made;
}

EXPORT int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id, void *context,
			  enum rdma_port_space ps)
{
	struct rdma_event_channel *own = NULL;
	struct identifier *made;

	if (ps != RDMA_PS_TCP && ps != RDMA_PS_UDP && ps != RDMA_PS_IB && ps != RDMA_PS_IPOIB)
		return failed(EINVAL);
	if (open_devices() || !context_count)
		return failed(ENODEV);
	if (!channel && !(channel = own = rdma_create_event_channel()))
		return failed(ENOMEM);
	made = make_identifier(channel, context, ps);
	if (!made || MANAGED((made->handle = wlv_cm_create(channel_of(channel)->handle, &made->id), 0))) {
		free(made);
		if (own)
			rdma_destroy_event_channel(own);
		return failed(ENOMEM);
	}
	made->sync = own;
	*id = &made->id;
	return 0;
}

/*
 * As the kernel has it: an event that left a channel untaken is gone from what poll() says of it too. Never blocks, for
 * somebody else may be about to take it: he then finds none and waits on.
 */
static void take_back(struct rdma_event_channel *channel, int events)
{
	uint64_t one;
	struct iovec part = { &one, sizeof(one) };

	while (events-- > 0)
		if (preadv2(channel->fd, &part, 1, -1, RWF_NOWAIT) != sizeof(one))
			break;
}

EXPORT int rdma_destroy_id(struct rdma_cm_id *id)
{
	struct identifier *destroyed = identifier_of(id);
	int purged = 0;
	int error = MANAGED(wlv_cm_destroy(destroyed->handle, &purged));

	if (error)
		return failed(error);
	take_back(id->channel, purged);
	if (id->event)
		rdma_ack_cm_event(id->event);
	pthread_mutex_lock(&destroyed->lock);
	while (destroyed->acknowledged != destroyed->given)
		pthread_cond_wait(&destroyed->cond, &destroyed->lock);
	pthread_mutex_unlock(&destroyed->lock);
	if (destroyed->sync)
		rdma_destroy_event_channel(id->channel);
	if (destroyed->own_pd)
		ibv_dealloc_pd(id->pd);
	while (destroyed->groups) {
		struct multicast *left = destroyed->groups;

		destroyed->groups = left->next;
		free(left);
	}
	free(destroyed->template);
	MANAGED((wlv_free_handle(destroyed->handle), 0));
	free(destroyed);
	return 0;
}

EXPORT int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
	struct identifier *moved = identifier_of(id);
	struct rdma_event_channel *own = NULL;
	int left = 0;

	if (!channel && !(channel = own = rdma_create_event_channel()))
		return failed(ENOMEM);
	if (MANAGED((left = wlv_cm_migrate(moved->handle, channel_of(channel)->handle), 0)))
		return failed(EIO);
	take_back(id->channel, left);
	if (moved->sync)
		rdma_destroy_event_channel(id->channel);
	moved->sync = own;
	id->channel = channel;
	return 0;
}

/* ---- events ---- */

static struct identifier *take_request(struct identifier *listener, struct wl_cm_event *record)
{
	struct identifier *made = make_identifier(listener->id.channel, listener->id.context, listener->id.ps);
	struct rdma_addr *route;

	if (!made)
		return NULL;
	made->handle = record->request;
	route = &made->id.route.addr;
	bind_device(made, listener->device);
	write_address(&route->src_addr, route->addr.ibaddr.sgid.raw, record->local_port);
	write_address(&route->dst_addr, record->gid, record->remote_port);
	memcpy(route->addr.ibaddr.dgid.raw, record->gid, 16);
	made->asked.responder_resources = record->responder_resources;
	made->asked.initiator_depth = record->initiator_depth;
	made->asked.retry_count = record->retry_count;
	made->asked.rnr_retry_count = record->rnr_retry_count;
	made->asked.qp_num = record->qp_num;
	MANAGED((wlv_cm_attach(made->handle, &made->id), 0));
	return made;
}

/* As librdmacm has it: the queue pair of the identifier, if it has one by now, is attached when the event is taken. */
static bool take_join(struct identifier *subject, int number, struct event *made)
{
	struct rdma_ud_param *ud = &made->event.param.ud;
	struct multicast *group;
	int error = 0;

	pthread_mutex_lock(&subject->lock);
	for (group = subject->groups; group && group->number != number; group = group->next)
		;
	if (group)
		group->given++;
	pthread_mutex_unlock(&subject->lock);
	if (!group)
		return false; /* left meanwhile */
	made->group = group;
	if (subject->id.qp && !group->sends_only)
		error = ibv_attach_mcast(subject->id.qp, &group->gid, 0);
	made->event.status = -error;
	made->event.event = error ? RDMA_CM_EVENT_MULTICAST_ERROR : RDMA_CM_EVENT_MULTICAST_JOIN;
	ud->private_data = group->context;
	if (error)
		return true;
	ud->qp_num = 0xffffff;
	ud->qkey = RDMA_UDP_QKEY;
	ud->ah_attr.is_global = 1;
	ud->ah_attr.port_num = 1;
	ud->ah_attr.grh.hop_limit = 64;
	ud->ah_attr.grh.dgid = group->gid;
	return true;
}

EXPORT int rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	struct wl_cm_event record;
	struct identifier *subject;
	struct event *made = calloc(1, sizeof(*made));

	if (!made)
		return failed(ENOMEM);
	for (;;) {
		uint64_t one;

		if (read(channel->fd, &one, sizeof(one)) != sizeof(one)) {
			free(made);
			return -1;
		}
		if (MANAGED(wlv_cm_take_event(channel_of(channel)->handle, &record)))
			continue; /* its identifier was destroyed meanwhile, or the peer took its request back */
		if (record.kind != RDMA_CM_EVENT_MULTICAST_JOIN ||
		    take_join(identifier_of(record.subject), record.status, made))
			break;
	}
	subject = identifier_of(record.subject);
	made->owner = subject;
	made->event.id = &subject->id;
	if (!made->group) {
		made->event.event = record.kind;
		made->event.status = record.status;
	}
	if (record.request) {
		struct identifier *asked = take_request(subject, &record);

		if (!asked) {
			free(made);
			return failed(ENOMEM);
		}
		made->event.listen_id = &subject->id;
		made->event.id = &asked->id;
		made->event.param.conn = asked->asked;
		if (asked->id.ps == RDMA_PS_UDP)
			memset(&made->event.param, 0, sizeof(made->event.param));
	} else if (record.kind == RDMA_CM_EVENT_ESTABLISHED && subject->id.ps == RDMA_PS_UDP) {
		struct rdma_ud_param *ud = &made->event.param.ud;

		ud->qp_num = record.qp_num;
		ud->qkey = record.qkey;
		ud->ah_attr.is_global = 1;
		ud->ah_attr.port_num = 1;
		ud->ah_attr.grh.hop_limit = 64;
		memcpy(ud->ah_attr.grh.dgid.raw, record.gid, 16);
	} else if (record.kind == RDMA_CM_EVENT_CONNECT_RESPONSE) {
		made->event.param.conn.qp_num = record.qp_num;
	} else if (record.kind == RDMA_CM_EVENT_ESTABLISHED) {
		made->event.param.conn.qp_num = record.qp_num;
		if (subject->id.qp)
			subject->id.qp->state = IBV_QPS_RTS;
	} else if (record.kind == RDMA_CM_EVENT_DISCONNECTED && subject->id.qp) {
		subject->id.qp->state = IBV_QPS_ERR;
	}
	if (record.length) {
		memcpy(made->data, record.data, record.length);
		/* Both members of the union begin with them. */
		made->event.param.conn.private_data = made->data;
		made->event.param.conn.private_data_len = record.length < 256 ? record.length : 255;
	}
	pthread_mutex_lock(&subject->lock);
	subject->given++;
	pthread_mutex_unlock(&subject->lock);
	*event = &made->event;
	return 0;
}

EXPORT int rdma_ack_cm_event(struct rdma_cm_event *event)
{
	struct event *done;
	struct identifier *owner;

	if (!event)
		return failed(EINVAL);
	done = OF(struct event, event, event);
	owner = done->owner;
	if (owner->id.event == event)
		owner->id.event = NULL;
	pthread_mutex_lock(&owner->lock);
	owner->acknowledged++;
	if (done->group)
		done->group->acknowledged++;
	pthread_cond_broadcast(&owner->cond);
	pthread_mutex_unlock(&owner->lock);
	free(done);
	return 0;
}

EXPORT const char *rdma_event_str(enum rdma_cm_event_type event)
{
	static const char *const names[] = {
		"RDMA_CM_EVENT_ADDR_RESOLVED", "RDMA_CM_EVENT_ADDR_ERROR", "RDMA_CM_EVENT_ROUTE_RESOLVED",
		"RDMA_CM_EVENT_ROUTE_ERROR", "RDMA_CM_EVENT_CONNECT_REQUEST", "RDMA_CM_EVENT_CONNECT_RESPONSE",
		"RDMA_CM_EVENT_CONNECT_ERROR", "RDMA_CM_EVENT_UNREACHABLE", "RDMA_CM_EVENT_REJECTED",
		"RDMA_CM_EVENT_ESTABLISHED", "RDMA_CM_EVENT_DISCONNECTED", "RDMA_CM_EVENT_DEVICE_REMOVAL",
		"RDMA_CM_EVENT_MULTICAST_JOIN", "RDMA_CM_EVENT_MULTICAST_ERROR", "RDMA_CM_EVENT_ADDR_CHANGE",
		"RDMA_CM_EVENT_TIMEWAIT_EXIT",
	};

	return (unsigned int)event < sizeof(names) / sizeof(*names) ? names[event] : "UNKNOWN EVENT";
}

/* An identifier without a channel of the program's waits for the event that ends what was begun. */
static int complete(struct identifier *i)
{
	int status;

	if (!i->sync)
		return 0;
	if (i->id.event) {
		rdma_ack_cm_event(i->id.event);
		i->id.event = NULL;
	}
	if (rdma_get_cm_event(i->id.channel, &i->id.event))
		return -1;
	status = i->id.event->status;
	if (!status)
		return 0;
	if (i->id.event->event == RDMA_CM_EVENT_REJECTED)
		status = -ECONNREFUSED;
	return failed(status < 0 ? -status : status);
}

/* ---- resolving ---- */

EXPORT int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *address)
{
	return failed(bind_address(identifier_of(id), address));
}

EXPORT int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *source, struct sockaddr *destination, int timeout)
{
	struct identifier *i = identifier_of(id);
	struct rdma_addr *route = &id->route.addr;
	uint8_t gid[16];
	int error = gid_of(destination, gid);

	(void)timeout;
	if (!error && source && source->sa_family)
		error = bind_address(i, source);
	if (error)
		return failed(error);
	if (i->device < 0) {
		uint16_t port = route->src_addr.sa_family ? ntohs(*port_of(&route->src_addr)) : 0;

		bind_device(i, 0);
		write_address(&route->src_addr, route->addr.ibaddr.sgid.raw, port);
	}
	memcpy(&route->dst_addr, destination,
	       destination->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
	memcpy(route->addr.ibaddr.dgid.raw, gid, 16);
	if (MANAGED((wlv_cm_raise(i->handle, RDMA_CM_EVENT_ADDR_RESOLVED, 0), 0)))
		return failed(EIO);
	return complete(i);
}

EXPORT int rdma_resolve_route(struct rdma_cm_id *id, int timeout)
{
	struct identifier *i = identifier_of(id);

	(void)timeout;
	if (i->device < 0)
		return failed(EINVAL);
	if (MANAGED((wlv_cm_raise(i->handle, RDMA_CM_EVENT_ROUTE_RESOLVED, 0), 0)))
		return failed(EIO);
	return complete(i);
}

static bool is_datagram(struct rdma_cm_id *id)
{
	return id->ps == RDMA_PS_UDP;
}

/* ---- queue pairs ---- */

static void destroy_cqs(struct identifier *i)
{
	struct rdma_cm_id *id = &i->id;

	if (!i->own_cqs)
		return;
	if (id->recv_cq && id->recv_cq != id->send_cq)
		ibv_destroy_cq(id->recv_cq);
	if (id->send_cq)
		ibv_destroy_cq(id->send_cq);
	if (id->recv_cq_channel && id->recv_cq_channel != id->send_cq_channel)
		ibv_destroy_comp_channel(id->recv_cq_channel);
	if (id->send_cq_channel)
		ibv_destroy_comp_channel(id->send_cq_channel);
	id->recv_cq = id->send_cq = NULL;
	id->recv_cq_channel = id->send_cq_channel = NULL;
	i->own_cqs = false;
}

static struct ibv_cq *make_cq(struct identifier *i, uint32_t size, struct ibv_comp_channel **channel)
{
	*channel = ibv_create_comp_channel(i->id.verbs);
	i->own_cqs = true;
	return *channel ? ibv_create_cq(i->id.verbs, size ? (int)size : 1, &i->id, *channel, 0) : NULL;
}

/* A queue pair for datagrams needs to know nobody: it is ready at once. */
static int start_datagrams(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = RDMA_UDP_QKEY };
	int error = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY);

	attr.qp_state = IBV_QPS_RTR;
	error = error ? error : ibv_modify_qp(qp, &attr, IBV_QP_STATE);
	attr.qp_state = IBV_QPS_RTS;
	return error ? error : ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN);
}

EXPORT int rdma_create_qp_ex(struct rdma_cm_id *id, struct ibv_qp_init_attr_ex *init)
{
	struct identifier *i = identifier_of(id);
	int error;

	if (id->qp || i->device < 0)
		return failed(EINVAL);
	if (!(init->comp_mask & IBV_QP_INIT_ATTR_PD) || !init->pd) {
		if (!id->pd) {
			id->pd = ibv_alloc_pd(id->verbs);
			if (!id->pd)
				return -1;
			i->own_pd = true;
		}
		init->comp_mask |= IBV_QP_INIT_ATTR_PD;
		init->pd = id->pd;
	} else if (init->pd->context != id->verbs) {
		return failed(EINVAL);
	}
	if (!init->send_cq && !(init->send_cq = id->send_cq = make_cq(i, init->cap.max_send_wr, &id->send_cq_channel)))
		goto failed_cqs;
	if (!init->recv_cq && !(init->recv_cq = id->recv_cq = make_cq(i, init->cap.max_recv_wr, &id->recv_cq_channel)))
		goto failed_cqs;
	id->qp = ibv_create_qp_ex(id->verbs, init);
	if (!id->qp)
		goto failed_cqs;
	id->pd = init->pd;
	error = id->qp_type == IBV_QPT_UD ? start_datagrams(id->qp)
					  : MANAGED(wlv_cm_prepare(i->device, handle_of(id->qp)));
	if (!error) {
		id->qp->state = id->qp_type == IBV_QPT_UD ? IBV_QPS_RTS : IBV_QPS_INIT;
		return 0;
	}
	ibv_destroy_qp(id->qp);
	id->qp = NULL;
	errno = error;
failed_cqs:
	error = errno;
	destroy_cqs(i);
	return failed(error);
}

EXPORT int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct ibv_qp_init_attr_ex extended = { 0 };
	int result;

	memcpy(&extended, init, sizeof(*init));
	extended.comp_mask = pd ? IBV_QP_INIT_ATTR_PD : 0;
	extended.pd = pd;
	result = rdma_create_qp_ex(id, &extended);
	memcpy(init, &extended, sizeof(*init));
	return result;
}

EXPORT void rdma_destroy_qp(struct rdma_cm_id *id)
{
	if (id->qp)
		ibv_destroy_qp(id->qp);
	id->qp = NULL;
	destroy_cqs(identifier_of(id));
}

EXPORT int rdma_create_srq_ex(struct rdma_cm_id *id, struct ibv_srq_init_attr_ex *init)
{
	if (!init->pd || id->srq)
		return failed(EINVAL);
	id->srq = ibv_create_srq_ex(id->verbs, init);
	return id->srq ? 0 : -1;
}

EXPORT int rdma_create_srq(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_srq_init_attr *init)
{
	if (!pd || id->srq)
		return failed(EINVAL);
	id->srq = ibv_create_srq(pd, init);
	return id->srq ? 0 : -1;
}

EXPORT void rdma_destroy_srq(struct rdma_cm_id *id)
{
	if (id->srq)
		ibv_destroy_srq(id->srq);
	id->srq = NULL;
}

/* ---- connections ---- */

EXPORT int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	struct identifier *i = identifier_of(id);
	struct sockaddr *own = &id->route.addr.src_addr;
	uint16_t port = own->sa_family ? ntohs(*port_of(own)) : 0;
	int device = i->device < 0 ? 0 : i->device; /* a wildcard is the first device */
	int error = id->ps == RDMA_PS_IPOIB
			    ? EOPNOTSUPP
			    : MANAGED(wlv_cm_listen(i->handle, device, &port, backlog ? backlog : 128, is_datagram(id)));

	if (error)
		return failed(error);
	i->device = device;
	if (!own->sa_family)
		write_address(own, (uint8_t[16]){ [10] = 0xff, [11] = 0xff }, port);
	*port_of(own) = htons(port);
	return 0;
}

static int read_wanted(struct identifier *i, const struct rdma_conn_param *from, struct wl_cm_event *to)
{
	struct rdma_conn_param none = {
		.responder_resources = RDMA_MAX_RESP_RES,
		.initiator_depth = RDMA_MAX_INIT_DEPTH,
		.retry_count = 7,
		.rnr_retry_count = 7,
	};

	if (!i->id.qp && !from)
		return EINVAL; /* a queue pair of the program's own has to be named */
	from = from ? from : &none;
	if (from->private_data_len && !from->private_data)
		return EINVAL;
	memset(to, 0, sizeof(*to));
	to->responder_resources = from->responder_resources;
	to->initiator_depth = from->initiator_depth;
	to->retry_count = from->retry_count;
	to->rnr_retry_count = from->rnr_retry_count;
	to->qp_num = i->id.qp ? i->id.qp->qp_num : from->qp_num;
	to->qkey = RDMA_UDP_QKEY;
	to->length = from->private_data_len;
	memcpy(to->data, from->private_data ? from->private_data : "", to->length);
	return 0;
}

EXPORT int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct identifier *i = identifier_of(id);
	struct wl_cm_event wanted;
	int error = i->device < 0 || !id->route.addr.dst_addr.sa_family ? EINVAL : read_wanted(i, param, &wanted);

	if (!error && is_datagram(id))
		error = MANAGED(wlv_cm_resolve(i->handle, i->device, id->route.addr.addr.ibaddr.dgid.raw,
					       ntohs(*port_of(&id->route.addr.dst_addr)), &wanted));
	else if (!error)
		error = MANAGED(wlv_cm_connect(i->handle, i->device, id->route.addr.addr.ibaddr.dgid.raw,
					       ntohs(*port_of(&id->route.addr.dst_addr)),
					       id->qp ? handle_of(id->qp) : NULL, &wanted));
	if (error)
		return failed(error);
	return complete(i);
}

EXPORT int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct identifier *i = identifier_of(id);
	struct rdma_conn_param mine = param ? *param : i->asked;
	struct wl_cm_event wanted;
	int error;

	if (!param)
		mine.private_data_len = 0;
	if (mine.responder_resources == RDMA_MAX_RESP_RES)
		mine.responder_resources = i->asked.responder_resources;
	if (mine.initiator_depth == RDMA_MAX_INIT_DEPTH)
		mine.initiator_depth = i->asked.initiator_depth;
	error = read_wanted(i, &mine, &wanted);
	if (!error && is_datagram(id)) {
		error = MANAGED(wlv_cm_serve(i->handle, &wanted));
		if (!error && i->sync && id->event)
			return rdma_ack_cm_event(id->event);
		return failed(error); /* no event follows */
	}
	if (!error)
		error = MANAGED(wlv_cm_accept(i->handle, id->qp ? handle_of(id->qp) : NULL, &wanted));
	if (error)
		return failed(error);
	if (id->qp)
		id->qp->state = IBV_QPS_RTS;
	return complete(i);
}

EXPORT int rdma_establish(struct rdma_cm_id *id)
{
	/* Only for a queue pair of the program's own: any other is ready already. */
	return failed(id->qp ? EINVAL : MANAGED(wlv_cm_establish(identifier_of(id)->handle)));
}

EXPORT int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t length)
{
	return failed(MANAGED(wlv_cm_reject(identifier_of(id)->handle, data, data ? length : 0)));
}

EXPORT int rdma_reject_ece(struct rdma_cm_id *id, const void *data, uint8_t length)
{
	return rdma_reject(id, data, length);
}

EXPORT int rdma_notify(struct rdma_cm_id *id, enum ibv_event_type event)
{
	if (event != IBV_EVENT_COMM_EST)
		return failed(EINVAL);
	/* The first packet is noticed without it, and then there is nothing left to do. */
	MANAGED(wlv_cm_establish(identifier_of(id)->handle));
	return 0;
}

EXPORT int rdma_disconnect(struct rdma_cm_id *id)
{
	struct identifier *i = identifier_of(id);
	int error = MANAGED(wlv_cm_disconnect(i->handle));

	if (error)
		return failed(error);
	if (id->qp)
		id->qp->state = IBV_QPS_ERR;
	return complete(i);
}

EXPORT int rdma_get_request(struct rdma_cm_id *listen, struct rdma_cm_id **id)
{
	struct identifier *listener = identifier_of(listen);
	struct identifier *asked;
	struct rdma_event_channel *channel;
	struct rdma_cm_event *event;
	int left = 0;

	if (!listener->sync)
		return failed(EINVAL);
	if (rdma_get_cm_event(listen->channel, &event))
		return -1;
	if (event->status || event->event != RDMA_CM_EVENT_CONNECT_REQUEST) {
		rdma_ack_cm_event(event);
		return failed(EINVAL);
	}
	asked = identifier_of(event->id);
	rdma_ack_cm_event(event);
	channel = rdma_create_event_channel();
	if (!channel || MANAGED((left = wlv_cm_migrate(asked->handle, channel_of(channel)->handle), 0)))
		return failed(ENOMEM);
	take_back(listen->channel, left);
	asked->id.channel = channel;
	asked->sync = true;
	if (listener->template) {
		struct ibv_qp_init_attr init = *listener->template;

		if (rdma_create_qp(&asked->id, listener->template_pd, &init)) {
			int error = errno;

			rdma_reject(&asked->id, NULL, 0);
			rdma_destroy_id(&asked->id);
			return failed(error);
		}
	}
	*id = &asked->id;
	return 0;
}

/* ---- multicast ---- */

static socklen_t length_of(const struct sockaddr *address)
{
	if (!address)
		return 0;
	return address->sa_family == AF_INET    ? sizeof(struct sockaddr_in)
	       : address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
						: 0;
}

static int join(struct rdma_cm_id *id, const struct sockaddr *address, bool sends_only, void *context)
{
	struct identifier *i = identifier_of(id);
	socklen_t length = length_of(address);
	struct multicast *group;

	/* As the kernel orders the reasons: what the identifier is, and whether it is bound. */
	if (id->qp_type != IBV_QPT_UD || i->device < 0 || !length)
		return failed(EINVAL);
	group = calloc(1, sizeof(*group));
	if (!group)
		return failed(ENOMEM);
	memcpy(&group->address, address, length);
	gid_of(address, group->gid.raw);
	if (is_any(group->gid.raw)) {
		free(group);
		return failed(EINVAL);
	}
	group->context = context;
	group->sends_only = sends_only;
	pthread_mutex_lock(&i->lock);
	group->number = ++i->joins;
	group->next = i->groups;
	i->groups = group;
	pthread_mutex_unlock(&i->lock);
	if (MANAGED((wlv_cm_raise(i->handle, RDMA_CM_EVENT_MULTICAST_JOIN, group->number), 0)))
		return failed(EIO); /* in a forked child, where nothing works any more */
	return complete(i);
}

EXPORT int rdma_join_multicast(struct rdma_cm_id *id, struct sockaddr *address, void *context)
{
	return join(id, address, false, context);
}

EXPORT int rdma_join_multicast_ex(struct rdma_cm_id *id, struct rdma_cm_join_mc_attr_ex *attr, void *context)
{
	const uint32_t needed = RDMA_CM_JOIN_MC_ATTR_ADDRESS | RDMA_CM_JOIN_MC_ATTR_JOIN_FLAGS;

	if (attr->comp_mask >= RDMA_CM_JOIN_MC_ATTR_RESERVED)
		return failed(ENOTSUP);
	if ((attr->comp_mask & needed) != needed)
		return failed(EINVAL);
	if (attr->join_flags >= RDMA_MC_JOIN_FLAG_RESERVED)
		return failed(ENOTSUP);
	return join(id, attr->addr, attr->join_flags == RDMA_MC_JOIN_FLAG_SENDONLY_FULLMEMBER, context);
}

/* The event of a group that is left before it was taken is gone, and so is what poll() says of it. */
static void forget_join(struct identifier *i, int number)
{
	int purged = 0;

	MANAGED((purged = wlv_cm_purge(i->handle, RDMA_CM_EVENT_MULTICAST_JOIN, number), 0));
	take_back(i->id.channel, purged);
}

/* Waits for the acknowledgement of its event, so that nobody attaches behind the detach. */
EXPORT int rdma_leave_multicast(struct rdma_cm_id *id, struct sockaddr *address)
{
	struct identifier *i = identifier_of(id);
	socklen_t length = length_of(address);
	struct multicast **place, *left;

	if (!length)
		return failed(EINVAL);
	if (i->sync && id->event)
		rdma_ack_cm_event(id->event); /* which nobody else may do */
	pthread_mutex_lock(&i->lock);
	for (place = &i->groups; *place && memcmp(&(*place)->address, address, length); place = &(*place)->next)
		;
	left = *place;
	if (left) {
		*place = left->next;
		pthread_mutex_unlock(&i->lock);
		forget_join(i, left->number);
		pthread_mutex_lock(&i->lock);
		while (left->acknowledged != left->given)
			pthread_cond_wait(&i->cond, &i->lock);
	}
	pthread_mutex_unlock(&i->lock);
	if (!left)
		return failed(EADDRNOTAVAIL);
	if (id->qp && !left->sends_only)
		ibv_detach_mcast(id->qp, &left->gid, 0);
	free(left);
	return 0;
}

/* ---- what has no meaning here ---- */

EXPORT int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t length)
{
	(void)id;
	(void)value;
	(void)length;
	/* Type of service, reuse and time-outs change nothing on a NIC in the process. */
	return failed(level == RDMA_OPTION_ID && name >= 0 && name <= RDMA_OPTION_ID_ACK_TIMEOUT ? 0 : ENOSYS);
}

EXPORT int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
	struct identifier *i = identifier_of(id);

	if (i->device < 0)
		return failed(EINVAL);
	if (id->qp_type != IBV_QPT_UD)
		return failed(MANAGED(wlv_cm_describe(i->handle, attr, mask)));
	attr->pkey_index = 0;
	attr->port_num = id->port_num;
	attr->qkey = RDMA_UDP_QKEY;
	attr->sq_psn = 0;
	switch (attr->qp_state) {
	case IBV_QPS_INIT:
		*mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY;
		return 0;
	case IBV_QPS_RTR:
		*mask = IBV_QP_STATE;
		return 0;
	case IBV_QPS_RTS:
		*mask = IBV_QP_STATE | IBV_QP_SQ_PSN;
		return 0;
	default:
		return failed(EINVAL);
	}
}

EXPORT int rdma_set_local_ece(struct rdma_cm_id *id, struct ibv_ece *ece)
{
	(void)id;
	return failed(ece->vendor_id ? EOPNOTSUPP : 0);
}

EXPORT int rdma_get_remote_ece(struct rdma_cm_id *id, struct ibv_ece *ece)
{
	(void)id;
	memset(ece, 0, sizeof(*ece));
	return 0;
}

/* ---- names ---- */

static struct sockaddr *copy_address(const struct sockaddr *from, socklen_t length)
{
	struct sockaddr *copy = malloc(length);

	return copy ? memcpy(copy, from, length) : NULL;
}

EXPORT void rdma_freeaddrinfo(struct rdma_addrinfo *info)
{
	while (info) {
		struct rdma_addrinfo *next = info->ai_next;

		free(info->ai_src_addr);
		free(info->ai_dst_addr);
		free(info);
		info = next;
	}
}

EXPORT int rdma_getaddrinfo(const char *node, const char *service, const struct rdma_addrinfo *hints,
			    struct rdma_addrinfo **result)
{
	int flags = hints ? hints->ai_flags : 0;
	struct addrinfo wanted = {
		.ai_flags = (flags & RAI_PASSIVE ? AI_PASSIVE : 0) | (flags & RAI_NUMERICHOST ? AI_NUMERICHOST : 0),
		.ai_family = flags & RAI_FAMILY ? hints->ai_family : AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *found;
	struct rdma_addrinfo *made;
	int error;

	if (!node && !service && !(hints && (hints->ai_src_addr || hints->ai_dst_addr)))
		return failed(EINVAL);
	made = calloc(1, sizeof(*made));
	if (!made)
		return EAI_MEMORY;
	made->ai_flags = flags;
	made->ai_port_space = hints && hints->ai_port_space ? hints->ai_port_space
			      : hints && hints->ai_qp_type == IBV_QPT_UD ? RDMA_PS_UDP : RDMA_PS_TCP;
	made->ai_qp_type = hints && hints->ai_qp_type ? hints->ai_qp_type
			   : made->ai_port_space == RDMA_PS_UDP ? IBV_QPT_UD : IBV_QPT_RC;
	if (node || service) {
		error = getaddrinfo(node, service, &wanted, &found);
		if (error) {
			free(made);
			return error;
		}
		made->ai_family = found->ai_family;
		if (flags & RAI_PASSIVE) {
			made->ai_src_len = found->ai_addrlen;
			made->ai_src_addr = copy_address(found->ai_addr, found->ai_addrlen);
		} else {
			made->ai_dst_len = found->ai_addrlen;
			made->ai_dst_addr = copy_address(found->ai_addr, found->ai_addrlen);
		}
		freeaddrinfo(found);
	}
	if (hints && hints->ai_src_addr && !made->ai_src_addr) {
		made->ai_family = hints->ai_src_addr->sa_family;
		made->ai_src_len = hints->ai_src_len;
		made->ai_src_addr = copy_address(hints->ai_src_addr, hints->ai_src_len);
	}
	if (hints && hints->ai_dst_addr && !made->ai_dst_addr) {
		made->ai_family = hints->ai_dst_addr->sa_family;
		made->ai_dst_len = hints->ai_dst_len;
		made->ai_dst_addr = copy_address(hints->ai_dst_addr, hints->ai_dst_len);
	}
	*result = made;
	return 0;
}

/* ---- endpoints ---- */

EXPORT int rdma_create_ep(struct rdma_cm_id **id, struct rdma_addrinfo *info, struct ibv_pd *pd,
			  struct ibv_qp_init_attr *init)
{
	struct rdma_cm_id *made;
	int error;

	if (rdma_create_id(NULL, &made, NULL, info->ai_port_space))
		return -1;
	if (init)
		init->qp_type = info->ai_qp_type;
	if (info->ai_flags & RAI_PASSIVE) {
		struct identifier *i = identifier_of(made);

		error = rdma_bind_addr(made, info->ai_src_addr);
		if (!error && init) {
			i->template_pd = pd;
			i->template = malloc(sizeof(*init));
			if (i->template)
				*i->template = *init;
			else
				error = failed(ENOMEM);
		}
	} else
		error = rdma_resolve_addr(made, info->ai_src_addr, info->ai_dst_addr, 2000)
			|| rdma_resolve_route(made, 2000) || (init && rdma_create_qp(made, pd, init));
	if (error) {
		error = errno;
		rdma_destroy_id(made);
		return failed(error);
	}
	*id = made;
	return 0;
}

EXPORT void rdma_destroy_ep(struct rdma_cm_id *id)
{
	rdma_destroy_qp(id);
	rdma_destroy_srq(id);
	rdma_destroy_id(id);
}

/* ---- rsockets ---- */

#define NO_SOCKET(name) EXPORT int name(void); EXPORT int name(void) { return failed(EOPNOTSUPP); }

NO_SOCKET(raccept)
NO_SOCKET(rbind)
NO_SOCKET(rclose)
NO_SOCKET(rconnect)
NO_SOCKET(rfcntl)
NO_SOCKET(rgetpeername)
NO_SOCKET(rgetsockname)
NO_SOCKET(rgetsockopt)
NO_SOCKET(riomap)
NO_SOCKET(riounmap)
NO_SOCKET(riowrite)
NO_SOCKET(rlisten)
NO_SOCKET(rpoll)
NO_SOCKET(rread)
NO_SOCKET(rreadv)
NO_SOCKET(rrecv)
NO_SOCKET(rrecvfrom)
NO_SOCKET(rrecvmsg)
NO_SOCKET(rselect)
NO_SOCKET(rsend)
NO_SOCKET(rsendmsg)
NO_SOCKET(rsendto)
NO_SOCKET(rsetsockopt)
NO_SOCKET(rshutdown)
NO_SOCKET(rsocket)
NO_SOCKET(rwrite)
NO_SOCKET(rwritev)
