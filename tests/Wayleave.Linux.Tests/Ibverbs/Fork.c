/* A child after fork: EIO from control calls, nothing from polls; the parent goes on, and both end. */
#include <infiniband/verbs.h>
#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = ibv_open_device(list[0]);
	struct ibv_pd *pd = ibv_alloc_pd(context);
	struct ibv_cq *cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	struct ibv_qp_init_attr init = { .send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC,
					 .cap = { 4, 4, 1, 1, 0 } };
	struct ibv_qp *qp = ibv_create_qp(pd, &init);
	struct ibv_wc wc;
	int status;
	if (!qp)
		return 10;
	pid_t child = fork();
	if (!child) {
		struct ibv_pd *none = ibv_alloc_pd(context);
		return none || errno != EIO ? 11 : ibv_poll_cq(cq, 1, &wc) != -1 ? 12 : 0;
	}
	waitpid(child, &status, 0);
	if (status)
		return WEXITSTATUS(status);
	if (ibv_poll_cq(cq, 1, &wc) != 0)
		return 13;
	if (ibv_destroy_cq(cq) != EBUSY || ibv_dealloc_pd(pd) != EBUSY)
		return 13;
	if (ibv_destroy_qp(qp) || ibv_destroy_cq(cq) || ibv_dealloc_pd(pd))
		return 14;
	if (ibv_close_device(context))
		return 15;
	return 0;
}
