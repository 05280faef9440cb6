/*
 * libibverbs' functions that are no inline functions of its header: makes the objects that programs see, waits where
 * they wait, and turns errno numbers into what each manual page promises.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_get_device_list
#undef ibv_reg_mr
#undef ibv_reg_mr_iova
#undef ibv_create_cq_ex

extern int wlv_devices(void);
extern uint64_t wlv_device(int index, char *name, int size);
extern void *wlv_open(int index, int event_fd);
extern void wlv_close(void *context);
extern int wlv_take_async_event(void *context, struct ibv_async_event *event);
extern void wlv_query_device(void *context, struct ibv_device_attr_ex *attr);
extern int wlv_query_port(void *context, uint8_t port, struct ibv_port_attr *attr);
extern int wlv_query_gid(void *context, uint8_t port, uint32_t index, union ibv_gid *gid);
extern int wlv_query_pkey(uint8_t port, int index, uint16_t *pkey);
extern int wlv_alloc_pd(void *context, void **handle);
extern int wlv_dealloc_pd(void *pd);
extern int wlv_reg_mr(void *pd, uint64_t addr, uint64_t length, uint64_t iova, uint32_t access, void **handle,
		      uint32_t *key);
extern int wlv_reg_import(void *pd, int fd, uint64_t offset, uint64_t length, uint64_t iova, uint32_t access,
			  void **handle, uint32_t *key);
extern int wlv_advise_mr(void *pd, uint32_t advice, int waits, struct ibv_sge *ranges, uint32_t count);
extern int wlv_rereg_mr(void *mr, void *pd, uint64_t addr, uint64_t length, int keeps_place, uint32_t access);
extern int wlv_dereg_mr(void *mr);
extern int wlv_alloc_mw(void *pd, uint32_t type, void **handle, uint32_t *key);
extern int wlv_dealloc_mw(void *mw);
extern uint32_t wlv_next_mw_key(void *mw);
extern int wlv_create_ah(void *pd, struct ibv_ah_attr *attr, void **handle);
extern int wlv_destroy_ah(void *ah);
extern void *wlv_create_channel(int fd);
extern int wlv_destroy_channel(void *channel);
extern struct ibv_cq *wlv_take_cq_event(void *channel);
extern int wlv_create_cq(void *context, int cqe, void *channel, void *structure, void **handle, int *actual);
extern int wlv_resize_cq(void *cq, int cqe, int *actual);
extern int wlv_modify_cq(void *cq, uint16_t count, uint16_t period);
extern int wlv_destroy_cq(void *cq);
extern void wlv_free_handle(void *handle);
extern int wlv_create_srq(void *pd, struct ibv_srq_attr *attr, void *structure, void **handle);
extern int wlv_modify_srq(void *srq, struct ibv_srq_attr *attr, uint32_t mask);
extern void wlv_query_srq(void *srq, struct ibv_srq_attr *attr);
extern uint32_t wlv_srq_number(void *srq);
extern int wlv_destroy_srq(void *srq);
extern int wlv_create_qp(void *pd, void *send_cq, void *recv_cq, void *srq, struct ibv_qp_init_attr *init,
			 void *structure, void **handle, uint32_t *number);
extern int wlv_modify_qp(void *qp, struct ibv_qp_attr *attr, int mask);
extern int wlv_query_qp(void *qp, struct ibv_qp_attr *attr, struct ibv_qp_init_attr *init);
extern int wlv_destroy_qp(void *qp);
extern int wlv_attach_mcast(void *qp, const uint8_t *gid);
extern int wlv_detach_mcast(void *qp, const uint8_t *gid);
extern int wlv_next_poll(void *cq, uint64_t *wr_id, uint32_t *status);
extern void wlv_current(void *cq, struct ibv_wc *wc);

/*
 * The C library's own read, and not the one that process.c puts in its place: a thread that waits for an event may be
 * cancelled, and has nothing managed below it.
 */
extern ssize_t __real_read(int fd, void *buffer, size_t count);

static uint32_t next_number = 1; /* of objects that programs see a number of */

static void *fail(int error)
{
	errno = error;
	return NULL;
}

static int failed(int error)
{
	errno = error;
	return -1;
}

static uint32_t number(void)
{
	return __atomic_fetch_add(&next_number, 1, __ATOMIC_RELAXED);
}

/* ---- devices ---- */

static struct ibv_device *devices;
static int device_count;
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;

static int find_devices(void)
{
	int error = 0;

	pthread_mutex_lock(&devices_lock);
	if (!devices) {
		int count = -1;

		MANAGED((count = wlv_devices(), 0));
		if (count < 0)
			error = EIO;
		else
			devices = calloc(count + 1, sizeof(*devices));
		for (int i = 0; devices && i < count; i++) {
			struct ibv_device *d = &devices[i];

			MANAGED((wlv_device(i, d->name, sizeof(d->name)), 0));
			d->node_type = IBV_NODE_CA;
			d->transport_type = IBV_TRANSPORT_IB;
			snprintf(d->dev_name, sizeof(d->dev_name), "uverbs%d", i);
			snprintf(d->dev_path, sizeof(d->dev_path), "/sys/class/infiniband_verbs/uverbs%d", i);
			snprintf(d->ibdev_path, sizeof(d->ibdev_path), "/sys/class/infiniband/%s", d->name);
			device_count = i + 1;
		}
	}
	if (!devices && !error)
		error = ENOMEM;
	pthread_mutex_unlock(&devices_lock);
	return error;
}

EXPORT struct ibv_device **ibv_get_device_list(int *count)
{
	struct ibv_device **list;
	int error = find_devices();

	if (count)
		*count = 0;
	if (error)
		return fail(error);
	list = calloc(device_count + 1, sizeof(*list));
	if (!list)
		return fail(ENOMEM);
	for (int i = 0; i < device_count; i++)
		list[i] = &devices[i];
	if (count)
		*count = device_count;
	return list;
}

EXPORT void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

EXPORT const char *ibv_get_device_name(struct ibv_device *device)
{
	if (!device)
		return fail(EINVAL);
	return device->name;
}

EXPORT int ibv_get_device_index(struct ibv_device *device)
{
	if (!device)
		return failed(EINVAL);
	return (int)(device - devices);
}

EXPORT __be64 ibv_get_device_guid(struct ibv_device *device)
{
	if (!device)
		return 0;

	char name[64];
	uint64_t guid = 0;

	MANAGED((guid = wlv_device(ibv_get_device_index(device), name, sizeof(name)), 0));
	return htobe64(guid);
}

/* Keeps errno. */
static void close_both(int one, int other)
{
	int saved = errno;

	if (one >= 0)
		close(one);
	if (other >= 0)
		close(other);
	errno = saved;
}

EXPORT struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	if (!device)
		return fail(EINVAL);

	struct wl_context *made = calloc(1, sizeof(*made));
	struct ibv_context *context;
	int cmd_fd;
	int fd;

	if (!made)
		return fail(ENOMEM);
	fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	cmd_fd = eventfd(0, EFD_CLOEXEC); /* for those who duplicate it; nothing is behind it */
	if (fd < 0 || cmd_fd < 0) {
		close_both(fd, cmd_fd);
		free(made);
		return NULL;
	}
	context = &made->verbs.context;
	context->device = device;
	context->cmd_fd = cmd_fd;
	context->async_fd = fd;
	context->num_comp_vectors = 1;
	context->abi_compat = __VERBS_ABI_IS_EXTENDED;
	pthread_mutex_init(&context->mutex, NULL);
	made->verbs.sz = sizeof(made->verbs);
	fill_operations(&made->verbs);
	if (MANAGED((made->handle = wlv_open(ibv_get_device_index(device), fd), 0))) {
		close_both(fd, cmd_fd);
		free(made);
		return fail(EIO);
	}
	pthread_mutex_lock(&contexts_lock);
	made->next = all_contexts;
	all_contexts = made;
	pthread_mutex_unlock(&contexts_lock);
	return context;
}

EXPORT int ibv_close_device(struct ibv_context *context)
{
	if (!context)
		return failed(EINVAL);

	struct wl_context *closed = wl_context(context);

	if (MANAGED((wlv_close(closed->handle), 0)))
		return failed(EIO);
	pthread_mutex_lock(&contexts_lock);
	for (struct wl_context **at = &all_contexts; *at; at = &(*at)->next) {
		if (*at == closed) {
			*at = closed->next;
			break;
		}
	}
	pthread_mutex_unlock(&contexts_lock);
	close_both(context->async_fd, context->cmd_fd);
	free(closed);
	return 0;
}

EXPORT struct ibv_context *ibv_import_device(int fd)
{
	(void)fd;
	return fail(EOPNOTSUPP);
}

EXPORT struct ibv_pd *ibv_import_pd(struct ibv_context *context, uint32_t handle)
{
	(void)context;
	(void)handle;
	return fail(EOPNOTSUPP);
}

EXPORT void ibv_unimport_pd(struct ibv_pd *pd)
{
	(void)pd;
}

EXPORT struct ibv_mr *ibv_import_mr(struct ibv_pd *pd, uint32_t handle)
{
	(void)pd;
	(void)handle;
	return fail(EOPNOTSUPP);
}

EXPORT void ibv_unimport_mr(struct ibv_mr *mr)
{
	(void)mr;
}

EXPORT struct ibv_dm *ibv_import_dm(struct ibv_context *context, uint32_t handle)
{
	(void)context;
	(void)handle;
	return fail(EOPNOTSUPP);
}

EXPORT void ibv_unimport_dm(struct ibv_dm *dm)
{
	(void)dm;
}

/* ---- queries ---- */

static int query_device_ex(struct ibv_context *context, const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	if (!context || !attr)
		return EINVAL;

	struct ibv_device_attr_ex all;

	if ((input && input->comp_mask) || size < sizeof(all.orig_attr))
		return EINVAL;
	if (MANAGED((wlv_query_device(context_handle(context), &all), 0)))
		return EIO;
	memset(attr, 0, size);
	memcpy(attr, &all, size < sizeof(all) ? size : sizeof(all));
	return 0;
}

EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	return query_device_ex(context, NULL, (struct ibv_device_attr_ex *)attr, sizeof(*attr));
}

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr, size_t size)
{
	if (!context || !attr)
		return EINVAL;

	struct ibv_port_attr all;
	int error = MANAGED(wlv_query_port(context_handle(context), port, &all));

	if (error)
		return error;
	memset(attr, 0, size);
	memcpy(attr, &all, size < sizeof(all) ? size : sizeof(all));
	return 0;
}

/* Programs of before port_cap_flags2 give a structure that ends there. */
EXPORT int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	return query_port(context, port, (struct ibv_port_attr *)attr, offsetof(struct ibv_port_attr, port_cap_flags2));
}

EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	if (!context || !gid)
		return failed(EINVAL);

	int error = index < 0 ? EINVAL : MANAGED(wlv_query_gid(context_handle(context), port, index, gid));

	return error ? failed(error) : 0;
}

static bool is_null(const union ibv_gid *gid)
{
	return !gid->global.subnet_prefix && !gid->global.interface_id;
}

EXPORT int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index, struct ibv_gid_entry *entry,
			     uint32_t flags, size_t size)
{
	if (!context || !entry)
		return EINVAL;

	struct ibv_gid_entry found = { .gid_index = index, .port_num = port, .gid_type = IBV_GID_TYPE_ROCE_V2 };
	int error;

	if (flags || port > UINT8_MAX)
		return flags ? EOPNOTSUPP : EINVAL;
	error = MANAGED(wlv_query_gid(context_handle(context), port, index, &found.gid));
	if (error)
		return error;
	if (is_null(&found.gid))
		return ENODATA;
	memset(entry, 0, size);
	memcpy(entry, &found, size < sizeof(found) ? size : sizeof(found));
	return 0;
}

EXPORT ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
				    uint32_t flags, size_t size)
{
	if (!context || !entries)
		return -EINVAL;

	int error;

	if (flags)
		return -EOPNOTSUPP;
	if (!max)
		return -EINVAL;
	error = _ibv_query_gid_ex(context, 1, 0, entries, 0, size);
	return error ? -error : 1;
}

/* enum ibv_gid_type_sysfs of rdma-core's driver.h: 0 is IB or RoCE v1, 1 is RoCE v2. */
EXPORT int ibv_query_gid_type(struct ibv_context *context, uint8_t port, unsigned int index, int *type)
{
	if (!context || !type)
		return failed(EINVAL);

	union ibv_gid gid;
	int error = MANAGED(wlv_query_gid(context_handle(context), port, index, &gid));

	*type = 1;
	return error ? failed(error) : 0;
}

EXPORT int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
	if (!context || !pkey)
		return failed(EINVAL);

	uint16_t key = 0;
	int error = MANAGED(wlv_query_pkey(port, index, &key));

	(void)context;
	*pkey = htobe16(key);
	return error ? failed(error) : 0;
}

EXPORT int ibv_get_pkey_index(struct ibv_context *context, uint8_t port, __be16 pkey)
{
	__be16 first;

	if (ibv_query_pkey(context, port, 0, &first))
		return -1;
	return first == pkey ? 0 : failed(EINVAL);
}

/* ---- async events ---- */

EXPORT int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	if (!context || !event)
		return failed(EINVAL);
	for (;;) {
		uint64_t one;

		if (__real_read(context->async_fd, &one, sizeof(one)) != sizeof(one))
			return -1;
		if (MANAGED(wlv_take_async_event(context_handle(context), event)))
			continue; /* its object was destroyed meanwhile */
		if (event->event_type <= IBV_EVENT_PATH_MIG_ERR || event->event_type == IBV_EVENT_SRQ_LIMIT_REACHED
		    || event->event_type == IBV_EVENT_QP_LAST_WQE_REACHED)
			__atomic_fetch_add(&head_of(event->element.qp)->async_reported, 1, __ATOMIC_RELAXED);
		return 0;
	}
}

static void acknowledge(pthread_mutex_t *mutex, pthread_cond_t *cond, uint32_t *completed, uint32_t count)
{
	pthread_mutex_lock(mutex);
	*completed += count;
	pthread_cond_signal(cond);
	pthread_mutex_unlock(mutex);
}

static void await(pthread_mutex_t *mutex, pthread_cond_t *cond, uint32_t *completed, uint32_t *reported)
{
	pthread_mutex_lock(mutex);
	while (*completed != *reported)
		pthread_cond_wait(cond, mutex);
	pthread_mutex_unlock(mutex);
}

EXPORT void ibv_ack_async_event(struct ibv_async_event *event)
{
	if (!event)
		return;
	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR: {
		struct ibv_cq *cq = event->element.cq;

		acknowledge(&cq->mutex, &cq->cond, &cq->async_events_completed, 1);
		break;
	}
	case IBV_EVENT_SRQ_ERR:
	case IBV_EVENT_SRQ_LIMIT_REACHED: {
		struct ibv_srq *srq = event->element.srq;

		acknowledge(&srq->mutex, &srq->cond, &srq->events_completed, 1);
		break;
	}
	default: {
		struct ibv_qp *qp = event->element.qp;

		acknowledge(&qp->mutex, &qp->cond, &qp->events_completed, 1);
		break;
	}
	}
}

/* ---- protection domains, regions, windows ---- */

EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	if (!context)
		return fail(EINVAL);

	struct ibv_pd *pd = object_new(sizeof(*pd));
	int error;

	if (!pd)
		return fail(ENOMEM);
	pd->context = context;
	pd->handle = number();
	error = MANAGED(wlv_alloc_pd(context_handle(context), &head_of(pd)->handle));
	if (error) {
		object_free(pd);
		return fail(error);
	}
	return pd;
}

EXPORT int ibv_dealloc_pd(struct ibv_pd *pd)
{
	if (!pd)
		return EINVAL;

	int error = MANAGED(wlv_dealloc_pd(handle_of(pd)));

	if (!error)
		object_free(pd);
	return error;
}

EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				       unsigned int access)
{
	if (!pd)
		return fail(EINVAL);

	struct ibv_mr *mr = object_new(sizeof(*mr));
	uint32_t key = 0;
	int error;

	if (!mr)
		return fail(ENOMEM);
	mr->context = pd->context;
	mr->pd = pd;
	mr->addr = addr;
	mr->length = length;
	mr->handle = number();
	head_of(mr)->mr.access = access;
	error = MANAGED(wlv_reg_mr(handle_of(pd), (uintptr_t)addr, length, iova, access, &head_of(mr)->handle, &key));
	if (error) {
		object_free(mr);
		return fail(error);
	}
	mr->lkey = mr->rkey = key;
	return mr;
}

EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, (uintptr_t)addr, access);
}

EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, iova, access);
}

/*
 * How much there is behind a descriptor that a region can be made of: a dma-buf, or a memfd that can never be shorter,
 * which is what udmabuf asks too. A page that is taken away under a mapping would end the process.
 */
static int measure(int fd, uint64_t *size)
{
	const long dma_buf_magic = 0x444d4142; /* DMA_BUF_MAGIC of <linux/magic.h> */
	struct statfs system;
	struct stat status;

	if (fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0)
		return errno;
	if (system.f_type == dma_buf_magic) {
		off_t end = lseek(fd, 0, SEEK_END);

		*size = end < 0 ? 0 : (uint64_t)end;
		return end < 0 ? EOPNOTSUPP : 0;
	}
	int seals = fcntl(fd, F_GET_SEALS);

	*size = status.st_size;
	return seals >= 0 && seals & F_SEAL_SHRINK ? 0 : EINVAL; /* as dma_buf_get for what is no dma-buf */
}

/* A buffer of a Wayleave host, by the descriptor that its broker gave: it is no memory, so nothing is mapped here. */
static struct ibv_mr *reg_import(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access)
{
	struct ibv_mr *mr = object_new(sizeof(*mr));
	uint32_t key = 0;
	int error;

	if (!mr)
		return fail(ENOMEM);
	mr->context = pd->context;
	mr->pd = pd;
	mr->addr = (void *)(uintptr_t)offset;
	mr->length = length;
	mr->handle = number();
	head_of(mr)->mr.access = access;
	error = MANAGED(wlv_reg_import(handle_of(pd), fd, offset, length, iova, access, &head_of(mr)->handle, &key));
	if (error) {
		object_free(mr);
		return fail(error);
	}
	mr->lkey = mr->rkey = key;
	return mr;
}

EXPORT struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
					int access)
{
	const int known = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE
			  | IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_RELAXED_ORDERING;
	const uint64_t page = sysconf(_SC_PAGESIZE), most = INT64_MAX / 2; /* sums do not overflow */
	uint64_t start = offset / page * page, size = 0;
	struct ibv_mr *mr;
	size_t mapped_length;
	void *mapped;
	int error;

	struct stat status;

	if (!pd || !length || access & ~known || offset % page != iova % page || offset > most || length > most)
		return fail(EINVAL);
	if (fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
		return reg_import(pd, offset, length, iova, fd, access);
	error = measure(fd, &size);
	if (!error && offset + length > size)
		error = EINVAL;
	if (error)
		return fail(error);
	mapped_length = (offset + length - start + page - 1) / page * page;
	mapped = mmap(NULL, mapped_length, access & ~IBV_ACCESS_REMOTE_READ ? PROT_READ | PROT_WRITE : PROT_READ,
		      MAP_SHARED, fd, start);
	if (mapped == MAP_FAILED)
		return fail(errno == EACCES || errno == ENOMEM ? errno : EOPNOTSUPP);
	mr = ibv_reg_mr_iova2(pd, (char *)mapped + (offset - start), length, iova, access);
	if (!mr) {
		error = errno;
		munmap(mapped, mapped_length);
		return fail(error);
	}
	mr->addr = (void *)(uintptr_t)offset; /* as libibverbs has it: there is no address */
	head_of(mr)->mr.mapped = mapped;
	head_of(mr)->mr.mapped_length = mapped_length;
	return mr;
}

EXPORT int ibv_dereg_mr(struct ibv_mr *mr)
{
	if (!mr)
		return EINVAL;

	void *mapped = head_of(mr)->mr.mapped;
	size_t mapped_length = head_of(mr)->mr.mapped_length;
	int error = MANAGED(wlv_dereg_mr(handle_of(mr)));

	if (error)
		return error;
	object_free(mr);
	if (mapped)
		munmap(mapped, mapped_length); /* nobody is inside any more */
	return 0;
}

/* What fails changes nothing. The keys stay, and with them what peers know. */
EXPORT int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length, int access)
{
	if (!mr || head_of(mr)->mr.mapped) {
		errno = mr ? EOPNOTSUPP : EINVAL; /* no kernel changes a region over a dma-buf either */
		return IBV_REREG_MR_ERR_INPUT;
	}

	bool moves = flags & IBV_REREG_MR_CHANGE_TRANSLATION;
	bool sane = !(flags & ~(IBV_REREG_MR_CHANGE_TRANSLATION | IBV_REREG_MR_CHANGE_PD | IBV_REREG_MR_CHANGE_ACCESS))
		    && flags && (!(flags & IBV_REREG_MR_CHANGE_PD) || pd) && (!moves || (addr && length));
	struct ibv_pd *owner = flags & IBV_REREG_MR_CHANGE_PD ? pd : mr->pd;
	int rights = flags & IBV_REREG_MR_CHANGE_ACCESS ? access : head_of(mr)->mr.access;
	int error;

	if (!sane) {
		errno = EINVAL;
		return IBV_REREG_MR_ERR_INPUT;
	}
	addr = moves ? addr : mr->addr;
	length = moves ? length : mr->length;
	error = MANAGED(wlv_rereg_mr(handle_of(mr), handle_of(owner), (uintptr_t)addr, length, !moves, rights));
	if (error) {
		errno = error;
		return IBV_REREG_MR_ERR_CMD;
	}
	head_of(mr)->mr.access = rights;
	mr->pd = owner;
	mr->addr = addr;
	mr->length = length;
	return 0;
}

/* As ib_uverbs_advise_mr and mlx5 have it. */
static int advise_mr(struct ibv_pd *pd, enum ibv_advise_mr_advice advice, uint32_t flags, struct ibv_sge *ranges,
		     uint32_t count)
{
	if (!pd || !ranges || !count || count > INT32_MAX || flags & ~IBV_ADVISE_MR_FLAG_FLUSH)
		return EINVAL;
	if (advice > IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT)
		return EOPNOTSUPP;
	return MANAGED(wlv_advise_mr(handle_of(pd), advice, flags & IBV_ADVISE_MR_FLAG_FLUSH, ranges, count));
}

static struct ibv_mw *alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
	struct ibv_mw *mw = object_new(sizeof(*mw));
	int error;

	if (!mw)
		return fail(ENOMEM);
	mw->context = pd->context;
	mw->pd = pd;
	mw->type = type;
	mw->handle = number();
	error = MANAGED(wlv_alloc_mw(handle_of(pd), type, &head_of(mw)->handle, &mw->rkey));
	if (error) {
		object_free(mw);
		return fail(error);
	}
	return mw;
}

static int dealloc_mw(struct ibv_mw *mw)
{
	int error = MANAGED(wlv_dealloc_mw(handle_of(mw)));

	if (!error)
		object_free(mw);
	return error;
}

/* A window of type 1 gets a new key with each bind, and the program finds it in the structure. */
static int bind_mw(struct ibv_qp *qp, struct ibv_mw *mw, struct ibv_mw_bind *bind)
{
	if (!qp || !mw || !bind)
		return EINVAL;

	struct ibv_send_wr wr = {
		.wr_id = bind->wr_id,
		.opcode = IBV_WR_BIND_MW,
		.send_flags = bind->send_flags,
		.bind_mw = { .mw = mw, .rkey = wlv_next_mw_key(handle_of(mw)), .bind_info = bind->bind_info },
	};
	struct ibv_send_wr *bad;
	int error = ibv_post_send(qp, &wr, &bad);

	if (!error)
		mw->rkey = wr.bind_mw.rkey;
	return error;
}

/* ---- completion queues ---- */

EXPORT struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	if (!context)
		return fail(EINVAL);

	struct ibv_comp_channel *channel = object_new(sizeof(*channel));

	if (!channel)
		return fail(ENOMEM);
	channel->context = context;
	channel->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	if (channel->fd < 0) {
		object_free(channel);
		return NULL;
	}
	if (MANAGED((head_of(channel)->handle = wlv_create_channel(channel->fd), 0))) {
		close(channel->fd);
		object_free(channel);
		return fail(EIO);
	}
	return channel;
}

EXPORT int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	if (!channel)
		return EINVAL;

	int error = MANAGED(wlv_destroy_channel(handle_of(channel)));

	if (!error) {
		close(channel->fd);
		object_free(channel);
	}
	return error;
}

EXPORT int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **cq_context)
{
	if (!channel || !cq || !cq_context)
		return failed(EINVAL);
	for (;;) {
		uint64_t one;

		if (__real_read(channel->fd, &one, sizeof(one)) != sizeof(one))
			return -1;
		if (MANAGED((*cq = wlv_take_cq_event(handle_of(channel)), 0)))
			return failed(EIO);
		if (!*cq)
			continue; /* destroyed meanwhile */
		*cq_context = (*cq)->cq_context;
		__atomic_fetch_add(&head_of(*cq)->comp_reported, 1, __ATOMIC_RELAXED);
		return 0;
	}
}

EXPORT void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
	if (cq && count)
		acknowledge(&cq->mutex, &cq->cond, &cq->comp_events_completed, count);
}

static int start_poll(struct ibv_cq_ex *cq, struct ibv_poll_cq_attr *attr)
{
	if (!attr)
		return EINVAL;

	uint32_t status;
	int error;

	if (attr->comp_mask)
		return EINVAL;
	error = wlv_next_poll(cq, &cq->wr_id, &status);
	if (!error) {
		cq->status = status;
		wlv_current(cq, &head_of(cq)->current);
	}
	return error;
}

static int next_poll(struct ibv_cq_ex *cq)
{
	struct ibv_poll_cq_attr none = { 0 };

	return start_poll(cq, &none);
}

static void end_poll(struct ibv_cq_ex *cq)
{
	(void)cq;
}

#define READER(type, name, member)                                                                                     \
	static type name(struct ibv_cq_ex *cq)                                                                         \
	{                                                                                                              \
		return head_of(cq)->current.member;                                                                    \
	}

READER(enum ibv_wc_opcode, read_opcode, opcode)
READER(uint32_t, read_vendor_err, vendor_err)
READER(uint32_t, read_byte_len, byte_len)
READER(__be32, read_imm_data, imm_data)
READER(uint32_t, read_qp_num, qp_num)
READER(uint32_t, read_src_qp, src_qp)
READER(unsigned int, read_wc_flags, wc_flags)
READER(uint32_t, read_slid, slid)
READER(uint8_t, read_sl, sl)
READER(uint8_t, read_dlid_path_bits, dlid_path_bits)

static struct ibv_cq_ex *make_cq(struct ibv_context *context, int cqe, void *cq_context,
				 struct ibv_comp_channel *channel, int vector)
{
	struct ibv_cq_ex *cq;
	int error;

	if (!context || vector < 0 || vector >= context->num_comp_vectors || cqe < 1)
		return fail(EINVAL);
	cq = object_new(sizeof(*cq));
	if (!cq)
		return fail(ENOMEM);
	cq->context = context;
	cq->channel = channel;
	cq->cq_context = cq_context;
	cq->handle = number();
	pthread_mutex_init(&cq->mutex, NULL);
	pthread_cond_init(&cq->cond, NULL);
	cq->start_poll = start_poll;
	cq->next_poll = next_poll;
	cq->end_poll = end_poll;
	cq->read_opcode = read_opcode;
	cq->read_vendor_err = read_vendor_err;
	cq->read_byte_len = read_byte_len;
	cq->read_imm_data = read_imm_data;
	cq->read_qp_num = read_qp_num;
	cq->read_src_qp = read_src_qp;
	cq->read_wc_flags = read_wc_flags;
	cq->read_slid = read_slid;
	cq->read_sl = read_sl;
	cq->read_dlid_path_bits = read_dlid_path_bits;
	error = MANAGED(wlv_create_cq(context_handle(context), cqe, channel ? handle_of(channel) : NULL, cq,
				      &head_of(cq)->handle, &cq->cqe));
	if (error) {
		object_free(cq);
		return fail(error);
	}
	return cq;
}

EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int vector)
{
	struct ibv_cq_ex *cq = make_cq(context, cqe, cq_context, channel, vector);

	return cq ? ibv_cq_ex_to_cq(cq) : NULL;
}

static struct ibv_cq_ex *create_cq_ex(struct ibv_context *context, struct ibv_cq_init_attr_ex *attr)
{
	if (!context || !attr)
		return fail(EINVAL);

	const uint32_t known_masks = IBV_CQ_INIT_ATTR_MASK_FLAGS;
	const uint32_t known_flags = IBV_CREATE_CQ_ATTR_SINGLE_THREADED;

	if (attr->comp_mask & ~known_masks)
		return fail(attr->comp_mask & IBV_CQ_INIT_ATTR_MASK_PD ? EOPNOTSUPP : EINVAL);
	if ((attr->comp_mask & IBV_CQ_INIT_ATTR_MASK_FLAGS) && (attr->flags & ~known_flags))
		return fail(EOPNOTSUPP);
	if (attr->wc_flags & ~(uint64_t)IBV_WC_STANDARD_FLAGS)
		return fail(EOPNOTSUPP);
	return make_cq(context, attr->cqe <= INT32_MAX ? (int)attr->cqe : 0, attr->cq_context, attr->channel,
		       attr->comp_vector <= INT32_MAX ? (int)attr->comp_vector : -1);
}

EXPORT int ibv_resize_cq(struct ibv_cq *cq, int cqe)
{
	if (!cq)
		return EINVAL;
	return MANAGED(wlv_resize_cq(handle_of(cq), cqe, &cq->cqe));
}

static int modify_cq(struct ibv_cq *cq, struct ibv_modify_cq_attr *attr)
{
	if (!cq || !attr)
		return EINVAL;
	if (attr->attr_mask != IBV_CQ_ATTR_MODERATE)
		return attr->attr_mask ? EOPNOTSUPP : EINVAL;
	return MANAGED(wlv_modify_cq(handle_of(cq), attr->moderate.cq_count, attr->moderate.cq_period));
}

EXPORT int ibv_destroy_cq(struct ibv_cq *cq)
{
	if (!cq)
		return EINVAL;

	int error = MANAGED(wlv_destroy_cq(handle_of(cq)));

	if (error)
		return error;
	await(&cq->mutex, &cq->cond, &cq->comp_events_completed, &head_of(cq)->comp_reported);
	await(&cq->mutex, &cq->cond, &cq->async_events_completed, &head_of(cq)->async_reported);
	MANAGED((wlv_free_handle(handle_of(cq)), 0));
	object_free(cq);
	return 0;
}

/* ---- shared receive queues ---- */

EXPORT struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *init)
{
	if (!pd || !init)
		return fail(EINVAL);

	struct ibv_srq *srq = object_new(sizeof(*srq));
	int error;

	if (!srq)
		return fail(ENOMEM);
	srq->context = pd->context;
	srq->srq_context = init->srq_context;
	srq->pd = pd;
	srq->handle = number();
	pthread_mutex_init(&srq->mutex, NULL);
	pthread_cond_init(&srq->cond, NULL);
	error = MANAGED(wlv_create_srq(handle_of(pd), &init->attr, srq, &head_of(srq)->handle));
	if (error) {
		object_free(srq);
		return fail(error);
	}
	return srq;
}

static struct ibv_srq *create_srq_ex(struct ibv_context *context, struct ibv_srq_init_attr_ex *init)
{
	if (!init)
		return fail(EINVAL);

	bool basic = !(init->comp_mask & IBV_SRQ_INIT_ATTR_TYPE) || init->srq_type == IBV_SRQT_BASIC;

	(void)context;
	if (!basic || init->comp_mask & ~(uint32_t)(IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_TYPE))
		return fail(EOPNOTSUPP);
	if (!(init->comp_mask & IBV_SRQ_INIT_ATTR_PD))
		return fail(EINVAL);
	return ibv_create_srq(init->pd, (struct ibv_srq_init_attr *)init);
}

static int get_srq_num(struct ibv_srq *srq, uint32_t *srq_num)
{
	if (!srq || !srq_num)
		return EINVAL;
	return MANAGED((*srq_num = wlv_srq_number(handle_of(srq)), 0));
}

EXPORT int ibv_modify_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr, int mask)
{
	if (!srq || !attr)
		return EINVAL;
	return MANAGED(wlv_modify_srq(handle_of(srq), attr, mask));
}

EXPORT int ibv_query_srq(struct ibv_srq *srq, struct ibv_srq_attr *attr)
{
	if (!srq || !attr)
		return EINVAL;
	return MANAGED((wlv_query_srq(handle_of(srq), attr), 0));
}

EXPORT int ibv_destroy_srq(struct ibv_srq *srq)
{
	if (!srq)
		return EINVAL;

	int error = MANAGED(wlv_destroy_srq(handle_of(srq)));

	if (error)
		return error;
	await(&srq->mutex, &srq->cond, &srq->events_completed, &head_of(srq)->async_reported);
	MANAGED((wlv_free_handle(handle_of(srq)), 0));
	object_free(srq);
	return 0;
}

/* ---- queue pairs ---- */

static struct ibv_qp_ex *make_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct ibv_qp_ex *made;
	struct ibv_qp *qp;
	uint32_t qp_num;
	int error;

	if (!pd || !init || !init->send_cq || !init->recv_cq)
		return fail(EINVAL);
	made = object_new(sizeof(*made));
	if (!made)
		return fail(ENOMEM);
	qp = &made->qp_base;
	qp->context = pd->context;
	qp->qp_context = init->qp_context;
	qp->pd = pd;
	qp->send_cq = init->send_cq;
	qp->recv_cq = init->recv_cq;
	qp->srq = init->srq;
	qp->handle = number();
	qp->state = IBV_QPS_RESET;
	qp->qp_type = init->qp_type;
	pthread_mutex_init(&qp->mutex, NULL);
	pthread_cond_init(&qp->cond, NULL);
	fill_qp(made);
	error = MANAGED(wlv_create_qp(handle_of(pd), handle_of(init->send_cq), handle_of(init->recv_cq),
				      init->srq ? handle_of(init->srq) : NULL, init, qp, &head_of(qp)->handle,
				      &qp_num));
	if (error) {
		object_free(made);
		return fail(error);
	}
	qp->qp_num = qp_num;
	return made;
}

EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct ibv_qp_ex *qp = make_qp(pd, init);

	return qp ? &qp->qp_base : NULL;
}

static uint64_t operations_of(enum ibv_qp_type type)
{
	const uint64_t sends = IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_SEND_WITH_IMM;
	const uint64_t writes = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_BIND_MW
				| IBV_QP_EX_WITH_LOCAL_INV;
	const uint64_t answers = IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
				 | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD | IBV_QP_EX_WITH_SEND_WITH_INV
				 | IBV_QP_EX_WITH_ATOMIC_WRITE;

	return type == IBV_QPT_RC ? sends | writes | answers : type == IBV_QPT_UC ? sends | writes : sends;
}

static struct ibv_qp *create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *init)
{
	if (!init)
		return fail(EINVAL);

	const uint32_t known = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS | IBV_QP_INIT_ATTR_CREATE_FLAGS;
	const bool has_operations = init->comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
	struct ibv_qp_ex *qp;

	(void)context;
	if (!(init->comp_mask & IBV_QP_INIT_ATTR_PD) || !init->pd)
		return fail(EINVAL);
	if (init->comp_mask & ~known
	    || ((init->comp_mask & IBV_QP_INIT_ATTR_CREATE_FLAGS) && init->create_flags)
	    || (has_operations && init->send_ops_flags & ~operations_of(init->qp_type)))
		return fail(EOPNOTSUPP);
	/* The eight bytes of an atomic write are in the request, whatever else may be inline (ibv_wr_post(3)). */
	if (has_operations && init->send_ops_flags & IBV_QP_EX_WITH_ATOMIC_WRITE
	    && init->cap.max_inline_data < sizeof(uint64_t))
		init->cap.max_inline_data = sizeof(uint64_t);
	qp = make_qp(init->pd, (struct ibv_qp_init_attr *)init);
	if (!qp)
		return NULL;
	head_of(qp)->comp_reported = has_operations;
	return &qp->qp_base;
}

/* Only a queue pair that was made with operations has them (ibv_create_qp_ex(3)). */
EXPORT struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *qp)
{
	if (!qp)
		return NULL;
	return head_of(qp)->comp_reported ? (struct ibv_qp_ex *)qp : NULL;
}

EXPORT int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	if (!qp || !attr)
		return EINVAL;

	int error = MANAGED(wlv_modify_qp(handle_of(qp), attr, mask));

	if (!error && mask & IBV_QP_STATE)
		qp->state = attr->qp_state;
	return error;
}

EXPORT int ibv_query_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask, struct ibv_qp_init_attr *init)
{
	if (!qp || !attr)
		return EINVAL;

	struct ibv_qp_init_attr made = {
		.qp_context = qp->qp_context,
		.send_cq = qp->send_cq,
		.recv_cq = qp->recv_cq,
		.srq = qp->srq,
	};
	int error = MANAGED(wlv_query_qp(handle_of(qp), attr, &made));

	(void)mask; /* all of it is told */
	if (error)
		return error;
	if (init)
		*init = made;
	qp->state = attr->qp_state;
	return 0;
}

EXPORT int ibv_query_qp_data_in_order(struct ibv_qp *qp, enum ibv_wr_opcode op, uint32_t flags)
{
	(void)qp;
	(void)op;
	(void)flags;
	return 0;
}

EXPORT int ibv_destroy_qp(struct ibv_qp *qp)
{
	if (!qp)
		return EINVAL;

	int error = MANAGED(wlv_destroy_qp(handle_of(qp)));

	if (error)
		return error;
	await(&qp->mutex, &qp->cond, &qp->events_completed, &head_of(qp)->async_reported);
	MANAGED((wlv_free_handle(handle_of(qp)), 0));
	object_free(qp);
	return 0;
}

EXPORT int ibv_set_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
	if (!qp || !ece)
		return EINVAL;
	(void)qp;
	return ece->vendor_id ? EOPNOTSUPP : 0;
}

EXPORT int ibv_query_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
	if (!qp || !ece)
		return EINVAL;
	(void)qp;
	memset(ece, 0, sizeof(*ece));
	return 0;
}

/* The LID is InfiniBand's. */
EXPORT int ibv_attach_mcast(struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
{
	(void)lid;
	return qp && gid ? MANAGED(wlv_attach_mcast(handle_of(qp), gid->raw)) : EINVAL;
}

EXPORT int ibv_detach_mcast(struct ibv_qp *qp, const union ibv_gid *gid, uint16_t lid)
{
	(void)lid;
	return qp && gid ? MANAGED(wlv_detach_mcast(handle_of(qp), gid->raw)) : EINVAL;
}

/* ---- address handles ---- */

EXPORT struct ibv_ah *ibv_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
	if (!pd || !attr)
		return fail(EINVAL);

	struct ibv_ah *ah = object_new(sizeof(*ah));
	int error;

	if (!ah)
		return fail(ENOMEM);
	ah->context = pd->context;
	ah->pd = pd;
	ah->handle = number();
	error = MANAGED(wlv_create_ah(handle_of(pd), attr, &head_of(ah)->handle));
	if (error) {
		object_free(ah);
		return fail(error);
	}
	return ah;
}

EXPORT int ibv_init_ah_from_wc(struct ibv_context *context, uint8_t port, struct ibv_wc *wc, struct ibv_grh *grh,
			       struct ibv_ah_attr *attr)
{
	if (!wc || !grh || !attr)
		return failed(EINVAL);

	const uint8_t *bytes = (const uint8_t *)grh;

	(void)context;
	if (!(wc->wc_flags & IBV_WC_GRH))
		return failed(EINVAL);
	memset(attr, 0, sizeof(*attr));
	attr->is_global = 1;
	attr->port_num = port;
	attr->grh.hop_limit = 255;
	if (bytes[0] >> 4 == 6) {
		attr->grh.dgid = grh->sgid;
	} else { /* an IPv4 header in the last 20 of the 40 bytes */
		memset(attr->grh.dgid.raw + 10, 0xff, 2);
		memcpy(attr->grh.dgid.raw + 12, bytes + 20 + 12, 4);
	}
	return 0;
}

EXPORT struct ibv_ah *ibv_create_ah_from_wc(struct ibv_pd *pd, struct ibv_wc *wc, struct ibv_grh *grh, uint8_t port)
{
	if (!pd)
		return fail(EINVAL);

	struct ibv_ah_attr attr;

	return ibv_init_ah_from_wc(pd->context, port, wc, grh, &attr) ? NULL : ibv_create_ah(pd, &attr);
}

EXPORT int ibv_destroy_ah(struct ibv_ah *ah)
{
	if (!ah)
		return EINVAL;

	int error = MANAGED(wlv_destroy_ah(handle_of(ah)));

	if (!error)
		object_free(ah);
	return error;
}

EXPORT int ibv_resolve_eth_l2_from_gid(struct ibv_context *context, struct ibv_ah_attr *attr,
				       uint8_t mac[ETHERNET_LL_SIZE], uint16_t *vid)
{
	if (!attr || !mac)
		return EINVAL;
	(void)context;
	memset(mac, 0, ETHERNET_LL_SIZE);
	mac[0] = 0x02; /* as our captures have it: locally administered, and the end of the address */
	memcpy(mac + 2, attr->grh.dgid.raw + 12, 4);
	if (vid)
		*vid = 0xffff;
	return 0;
}

void fill_operations(struct verbs_context *verbs)
{
	extern int wlv_post_send(struct ibv_qp *, struct ibv_send_wr *, struct ibv_send_wr **);
	extern int wlv_post_recv(struct ibv_qp *, struct ibv_recv_wr *, struct ibv_recv_wr **);
	extern int wlv_post_srq_recv(struct ibv_srq *, struct ibv_recv_wr *, struct ibv_recv_wr **);
	extern int wlv_poll_cq(struct ibv_cq *, int, struct ibv_wc *);
	extern int wlv_req_notify_cq(struct ibv_cq *, int);
	struct ibv_context_ops *ops = &verbs->context.ops;

	ops->alloc_mw = alloc_mw;
	ops->bind_mw = bind_mw;
	ops->dealloc_mw = dealloc_mw;
	ops->poll_cq = wlv_poll_cq;
	ops->req_notify_cq = wlv_req_notify_cq;
	ops->post_srq_recv = wlv_post_srq_recv;
	ops->post_send = wlv_post_send;
	ops->post_recv = wlv_post_recv;
	verbs->query_port = query_port;
	verbs->query_device_ex = query_device_ex;
	verbs->create_cq_ex = create_cq_ex;
	verbs->modify_cq = modify_cq;
	verbs->advise_mr = advise_mr;
	verbs->create_qp_ex = create_qp_ex;
	verbs->create_srq_ex = create_srq_ex;
	verbs->get_srq_num = get_srq_num;
}

void fill_qp(struct ibv_qp_ex *qp)
{
	extern void wlv_wr_start(struct ibv_qp_ex *);
	extern int wlv_wr_complete(struct ibv_qp_ex *);
	extern void wlv_wr_abort(struct ibv_qp_ex *);
	extern void wlv_wr_send(struct ibv_qp_ex *);
	extern void wlv_wr_send_imm(struct ibv_qp_ex *, __be32);
	extern void wlv_wr_send_inv(struct ibv_qp_ex *, uint32_t);
	extern void wlv_wr_local_inv(struct ibv_qp_ex *, uint32_t);
	extern void wlv_wr_rdma_read(struct ibv_qp_ex *, uint32_t, uint64_t);
	extern void wlv_wr_rdma_write(struct ibv_qp_ex *, uint32_t, uint64_t);
	extern void wlv_wr_rdma_write_imm(struct ibv_qp_ex *, uint32_t, uint64_t, __be32);
	extern void wlv_wr_atomic_cmp_swp(struct ibv_qp_ex *, uint32_t, uint64_t, uint64_t, uint64_t);
	extern void wlv_wr_atomic_fetch_add(struct ibv_qp_ex *, uint32_t, uint64_t, uint64_t);
	extern void wlv_wr_atomic_write(struct ibv_qp_ex *, uint32_t, uint64_t, const void *);
	extern void wlv_wr_bind_mw(struct ibv_qp_ex *, struct ibv_mw *, uint32_t, const struct ibv_mw_bind_info *);
	extern void wlv_wr_set_sge(struct ibv_qp_ex *, uint32_t, uint64_t, uint32_t);
	extern void wlv_wr_set_sge_list(struct ibv_qp_ex *, size_t, const struct ibv_sge *);
	extern void wlv_wr_set_inline_data(struct ibv_qp_ex *, void *, size_t);
	extern void wlv_wr_set_inline_data_list(struct ibv_qp_ex *, size_t, const struct ibv_data_buf *);
	extern void wlv_wr_set_ud_addr(struct ibv_qp_ex *, struct ibv_ah *, uint32_t, uint32_t);

	qp->wr_start = wlv_wr_start;
	qp->wr_complete = wlv_wr_complete;
	qp->wr_abort = wlv_wr_abort;
	qp->wr_send = wlv_wr_send;
	qp->wr_send_imm = wlv_wr_send_imm;
	qp->wr_send_inv = wlv_wr_send_inv;
	qp->wr_local_inv = wlv_wr_local_inv;
	qp->wr_rdma_read = wlv_wr_rdma_read;
	qp->wr_rdma_write = wlv_wr_rdma_write;
	qp->wr_rdma_write_imm = wlv_wr_rdma_write_imm;
	qp->wr_atomic_cmp_swp = wlv_wr_atomic_cmp_swp;
	qp->wr_atomic_fetch_add = wlv_wr_atomic_fetch_add;
	qp->wr_atomic_write = wlv_wr_atomic_write;
	qp->wr_bind_mw = wlv_wr_bind_mw;
	qp->wr_set_sge = wlv_wr_set_sge;
	qp->wr_set_sge_list = wlv_wr_set_sge_list;
	qp->wr_set_inline_data = wlv_wr_set_inline_data;
	qp->wr_set_inline_data_list = wlv_wr_set_inline_data_list;
	qp->wr_set_ud_addr = wlv_wr_set_ud_addr;
}
