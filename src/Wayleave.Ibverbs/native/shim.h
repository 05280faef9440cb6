/*
 * What the files of the shim share. Symbols wlv_* are managed methods (Entries/); their results are errno numbers.
 *
 * An object that a program sees lies behind a head. Its last eight bytes are the handle of the managed object, which
 * managed code finds by the address of the object alone (NativeHandle).
 */
#ifndef WAYLEAVE_SHIM_H
#define WAYLEAVE_SHIM_H

#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct head {
	union {
		struct ibv_wc current;    /* of an extended poll */
		struct ibv_mr_args {
			int access;
			void *mapped; /* of a descriptor, until the region ends */
			size_t mapped_length;
		} mr;
	};
	uint32_t comp_reported;           /* events that a program has taken */
	uint32_t async_reported;
	uint64_t unused;
	void *handle;
};

_Static_assert(offsetof(struct head, handle) + sizeof(void *) == sizeof(struct head), "the handle is last");

static inline struct head *head_of(void *object)
{
	return (struct head *)object - 1;
}

static inline void *handle_of(void *object)
{
	return head_of(object)->handle;
}

static inline void *object_new(size_t size)
{
	struct head *head = calloc(1, sizeof(*head) + size);

	return head ? head + 1 : NULL;
}

static inline void object_free(void *object)
{
	free(head_of(object));
}

struct wl_context {
	void *handle;
	struct wl_context *next;
	struct verbs_context verbs;
};

static inline struct wl_context *wl_context(struct ibv_context *context)
{
	return (struct wl_context *)((char *)context - offsetof(struct wl_context, verbs.context));
}

static inline void *context_handle(struct ibv_context *context)
{
	return wl_context(context)->handle;
}

/* process.c: a control call is not cancelled, its threads take no signals, and it fails in a forked child. */
struct control {
	int cancel_state;
	sigset_t signals;
};

EXPORT bool wl_control_enter(struct control *control);
EXPORT void wl_control_exit(struct control *control);

/* The result of a managed call; EIO in a forked child. */
#define MANAGED(call)                                                                                                  \
	({                                                                                                             \
		struct control control_;                                                                               \
		int result_ = EIO;                                                                                     \
		if (wl_control_enter(&control_)) {                                                                        \
			result_ = (call);                                                                              \
			wl_control_exit(&control_);                                                                       \
		}                                                                                                      \
		result_;                                                                                               \
	})

extern struct wl_context *all_contexts;
extern pthread_mutex_t contexts_lock;

void fill_operations(struct verbs_context *verbs);
void fill_qp(struct ibv_qp_ex *qp);

#endif
