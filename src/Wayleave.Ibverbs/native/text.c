/*
 * Names of numbers, rates, files, and what a device in the process has no use for.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define NAME(table, value) \
	((unsigned int)(value) < sizeof(table) / sizeof(*(table)) ? (table)[value] : NULL)

EXPORT const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	static const char *const names[] = {
		"success", "local length error", "local QP operation error", "local EE context operation error",
		"local protection error", "Work Request Flushed Error", "memory management operation error",
		"bad response error", "local access error", "remote invalid request error", "remote access error",
		"remote operation error", "transport retry counter exceeded", "RNR retry counter exceeded",
		"local RDD violation error", "remote invalid RD request", "aborted error", "invalid EE context number",
		"invalid EE context state", "fatal error", "response timeout error", "general error",
		"TM error", "TM software rendezvous",
	};
	const char *name = NAME(names, status);

	return name ? name : "unknown";
}

EXPORT const char *ibv_event_type_str(enum ibv_event_type event)
{
	static const char *const names[] = {
		"CQ error", "local work queue catastrophic error", "invalid request local work queue error",
		"local access violation work queue error", "communication established", "send queue drained",
		"path migrated", "path migration request error", "local catastrophic error", "port active",
		"port error", "LID change", "P_Key change", "SM change", "SRQ catastrophic error",
		"SRQ limit reached", "last WQE reached", "client reregistration", "GID table change", "WQ fatal error",
	};
	const char *name = NAME(names, event);

	return name ? name : "unknown";
}

EXPORT const char *ibv_node_type_str(enum ibv_node_type type)
{
	static const char *const names[] = {
		NULL, "InfiniBand channel adapter", "InfiniBand switch", "InfiniBand router", "iWARP NIC", "usNIC",
		"usNIC UDP", "unspecified",
	};
	const char *name = (int)type > 0 ? NAME(names, type) : NULL;

	return name ? name : "unknown";
}

EXPORT const char *ibv_port_state_str(enum ibv_port_state state)
{
	static const char *const names[] = {
		"no state change (NOP)", "down", "init", "armed", "active", "active defer",
	};
	const char *name = NAME(names, state);

	return name ? name : "unknown";
}

/* enum ibv_rate, its multiple of 2.5 Gb/s (-1: none) and its Mb/s. */
static const struct {
	enum ibv_rate rate;
	int multiple;
	int mbps;
} rates[] = {
	{ IBV_RATE_2_5_GBPS, 1, 2500 },     { IBV_RATE_5_GBPS, 2, 5000 },       { IBV_RATE_10_GBPS, 4, 10000 },
	{ IBV_RATE_20_GBPS, 8, 20000 },     { IBV_RATE_30_GBPS, 12, 30000 },    { IBV_RATE_40_GBPS, 16, 40000 },
	{ IBV_RATE_60_GBPS, 24, 60000 },    { IBV_RATE_80_GBPS, 32, 80000 },    { IBV_RATE_120_GBPS, 48, 120000 },
	{ IBV_RATE_28_GBPS, 11, 28125 },    { IBV_RATE_50_GBPS, 20, 50000 },    { IBV_RATE_400_GBPS, 160, 400000 },
	{ IBV_RATE_600_GBPS, 240, 600000 }, { IBV_RATE_14_GBPS, -1, 14062 },    { IBV_RATE_56_GBPS, -1, 56250 },
	{ IBV_RATE_112_GBPS, -1, 112500 },  { IBV_RATE_168_GBPS, -1, 168750 },  { IBV_RATE_25_GBPS, -1, 25781 },
	{ IBV_RATE_100_GBPS, -1, 103125 },  { IBV_RATE_200_GBPS, -1, 206250 },  { IBV_RATE_300_GBPS, -1, 309375 },
};

#define FOR_EACH_RATE(r) for (size_t r = 0; r < sizeof(rates) / sizeof(*rates); r++)

EXPORT int ibv_rate_to_mult(enum ibv_rate rate)
{
	FOR_EACH_RATE(r)
		if (rates[r].rate == rate)
			return rates[r].multiple;
	return -1;
}

EXPORT enum ibv_rate mult_to_ibv_rate(int multiple)
{
	FOR_EACH_RATE(r)
		if (multiple > 0 && rates[r].multiple == multiple)
			return rates[r].rate;
	return IBV_RATE_MAX;
}

EXPORT int ibv_rate_to_mbps(enum ibv_rate rate)
{
	FOR_EACH_RATE(r)
		if (rates[r].rate == rate)
			return rates[r].mbps;
	return -1;
}

EXPORT enum ibv_rate mbps_to_ibv_rate(int mbps)
{
	FOR_EACH_RATE(r)
		if (rates[r].mbps == mbps)
			return rates[r].rate;
	return IBV_RATE_MAX;
}

EXPORT const char *ibv_get_sysfs_path(void)
{
	return "/sys";
}

EXPORT int ibv_read_sysfs_file(const char *directory, const char *file, char *buffer, size_t size)
{
	char path[512];
	ssize_t length;
	int fd;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", directory, file) >= sizeof(path))
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	length = read(fd, buffer, size);
	close(fd);
	if (length > 0) {
		if (buffer[length - 1] == '\n')
			buffer[--length] = '\0';
		else if ((size_t)length < size)
			buffer[length] = '\0';
		else
			return -1;
	}
	return (int)length;
}

/* The device is in the process: no page of it is pinned by a kernel, and none needs care in a child. */
EXPORT int ibv_fork_init(void)
{
	return 0;
}

EXPORT enum ibv_fork_status ibv_is_fork_initialized(void)
{
	return IBV_FORK_UNNEEDED;
}

EXPORT int ibv_dontfork_range(void *base, size_t size)
{
	(void)base;
	(void)size;
	return 0;
}

EXPORT int ibv_dofork_range(void *base, size_t size)
{
	return ibv_dontfork_range(base, size);
}
