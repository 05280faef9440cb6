/*
 * wayleave-ns FOLDER COMMAND...: runs a command in user and mount namespaces of its own, as the same user, with more
 * entries in /dev and /sys/class: those of FOLDER/dev and FOLDER/class. Nothing outside changes. Programs that look for
 * an RDMA device in files, as UCX does, find one so.
 *
 * A program of its own, because a process with several threads, as any of .NET is, cannot enter a user namespace.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMESPACE_FAILED 125 /* as env(1) and docker(1): it was not the command that failed */

static void fail(const char *what, const char *subject)
{
	fprintf(stderr, "wayleave: %s %s: %s\n", what, subject, strerror(errno));
	exit(NAMESPACE_FAILED);
}

static void write_file(const char *path, const char *format, unsigned int number)
{
	char text[64];
	int length = snprintf(text, sizeof(text), format, number, number);
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, length) != length)
		fail("write", path);
	close(fd);
}

static void join(char *path, const char *folder, const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		fail("name", name);
	}
}

/* Makes an entry of a folder appear in another one. One that is there already stays: what was added first counts. */
static void show(const char *from, const char *to)
{
	struct stat status;

	if (lstat(to, &status) == 0)
		return;
	if (lstat(from, &status) < 0)
		fail("look at", from);
	if (S_ISLNK(status.st_mode)) {
		char target[PATH_MAX];
		ssize_t length = readlink(from, target, sizeof(target) - 1);

		if (length < 0)
			fail("read", from);
		target[length] = '\0';
		if (symlink(target, to) < 0)
			fail("link", to);
		return;
	}
	if (S_ISDIR(status.st_mode)) {
		if (mkdir(to, 0755) < 0)
			fail("make", to);
	} else {
		int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		if (fd < 0)
			fail("make", to);
		close(fd);
	}
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
		fail("bind", from);
}

static void show_all(const char *from, const char *to)
{
	DIR *folder = opendir(from);
	struct dirent *entry;

	if (!folder)
		fail("open", from);
	while ((entry = readdir(folder))) {
		char source[PATH_MAX], target[PATH_MAX];

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		join(source, from, entry->d_name);
		join(target, to, entry->d_name);
		show(source, target);
	}
	closedir(folder);
}

/* The folder, with what FOLDER/NAME has in front of what was there. */
static void add_to(const char *folder, const char *root, const char *name)
{
	char more[PATH_MAX], work[PATH_MAX];

	join(more, root, name);
	if (access(more, F_OK) < 0)
		return;
	join(work, root, "work");
	if (mkdir(work, 0700) < 0 && errno != EEXIST)
		fail("make", work);
	if (mount("wayleave", work, "tmpfs", MS_NOSUID, "mode=755") < 0)
		fail("mount a tmpfs on", work);
	show_all(more, work);
	show_all(folder, work);
	if (mount(work, folder, NULL, MS_MOVE, NULL) < 0)
		fail("mount on", folder);
}

/*
 * Nodes that are looked at must be those of character devices (UCX asks stat(2) for that), which nobody may make in a
 * user namespace. The null device has a right to be shown anywhere.
 */
static void become_devices(const char *name)
{
	DIR *folder = opendir(name);
	struct dirent *entry;

	if (!folder)
		return;
	while ((entry = readdir(folder))) {
		char node[PATH_MAX];

		join(node, name, entry->d_name);
		if (entry->d_type == DT_REG && mount("/dev/null", node, NULL, MS_BIND, NULL) < 0)
			fail("bind /dev/null to", node);
	}
	closedir(folder);
}

int main(int count, char **arguments)
{
	unsigned int user = geteuid(), group = getegid();

	if (count < 3) {
		fprintf(stderr, "usage: wayleave-ns FOLDER COMMAND...\n");
		return NAMESPACE_FAILED;
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		fail("enter", "a user namespace (is kernel.unprivileged_userns_clone or user.max_user_namespaces 0?)");
	write_file("/proc/self/setgroups", "deny", 0);
	write_file("/proc/self/uid_map", "%u %u 1", user);
	write_file("/proc/self/gid_map", "%u %u 1", group);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make private", "/");
	add_to("/sys/class", arguments[1], "class");
	add_to("/dev", arguments[1], "dev");
	become_devices("/dev/infiniband");
	execvp(arguments[2], arguments + 2);
	fprintf(stderr, "wayleave: start %s: %s\n", arguments[2], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
