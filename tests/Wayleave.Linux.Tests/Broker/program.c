// A program of another language that shares a host's memory: docs/broker.md in 200 lines. It reads one command per line
// and answers each with one line: "ok ..." or "error ERRNO TEXT".
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OP_HELLO = 1, OP_OPEN, OP_ALLOCATE, OP_EXPORT, OP_IMPORT, OP_CLOSE, OP_MAP, OP_UNMAP };

static int broker = -1;
static uint8_t message[65536];
static size_t length;
static uint64_t tag;
static uint8_t *mapped;
static size_t mapped_bytes;

static void u16(size_t at, uint16_t v) { memcpy(message + at, &v, 2); }
static void u32(size_t at, uint32_t v) { memcpy(message + at, &v, 4); }
static void u64(size_t at, uint64_t v) { memcpy(message + at, &v, 8); }
static void put32(uint32_t v) { u32(length, v); length += 4; }
static void put64(uint64_t v) { u64(length, v); length += 8; }

static void put_name(const char *name)
{
    memset(message + length, 0, 32);
    memcpy(message + length, name, strnlen(name, 31));
    length += 32;
}

static void begin(uint16_t operation)
{
    memset(message, 0, 24);
    memcpy(message, "WLB1", 4);
    u16(8, operation);
    u64(16, ++tag);
    length = 24;
}

static int dial(const char *path)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return connect(s, (struct sockaddr *)&to, sizeof(to)) == 0 ? s : -1;
}

static int send_with(int s, const void *bytes, size_t n, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec part = { (void *)bytes, n };
    struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
    if (fd >= 0) {
        m.msg_control = control;
        m.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

static ssize_t receive_with(int s, void *bytes, size_t n, int *fd)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = { bytes, n };
    struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
    ssize_t got = recvmsg(s, &m, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    *fd = -1;
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), sizeof(int));
    return got;
}

// Sends the request, reads the answer; -1 after having printed the refusal.
static int ask(int fd, int *received)
{
    int none;
    u32(4, (uint32_t)length);
    if (send_with(broker, message, length, fd) < 0) {
        printf("error %d gone\n", errno);
        return -1;
    }
    ssize_t got = receive_with(broker, message, sizeof(message) - 1, received ? received : &none);
    if (got < 24) {
        printf("error %d gone\n", ECONNRESET);
        return -1;
    }
    int32_t refused;
    memcpy(&refused, message + 12, 4);
    message[got] = 0;
    if (refused) {
        printf("error %d %s\n", refused, message + 24);
        return -1;
    }
    length = (size_t)got;
    return 0;
}

static uint32_t get32(size_t at) { uint32_t v; memcpy(&v, message + 24 + at, 4); return v; }
static uint64_t get64(size_t at) { uint64_t v; memcpy(&v, message + 24 + at, 8); return v; }

static void run(char *line)
{
    char word[32] = "", a[108] = "", b[108] = "", c[32] = "";
    sscanf(line, "%31s %107s %107s %31s", word, a, b, c);
    int fd = -1;
    if (!strcmp(word, "connect")) {
        broker = dial(a);
        if (broker < 0) {
            printf("error %d connect\n", errno);
            return;
        }
        begin(OP_HELLO); put32(1); put32(1); put_name("program.c");
        if (ask(-1, NULL) == 0) printf("ok %d\n", getpid());
    } else if (!strcmp(word, "open")) {
        begin(OP_OPEN); put_name(a);
        if (ask(-1, NULL) == 0) printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "allocate")) { // DEVICE BYTES STORAGE
        begin(OP_ALLOCATE);
        put32((uint32_t)atoi(a)); put32((uint32_t)atoi(c)); put64(strtoull(b, NULL, 10)); put_name("c");
        if (ask(-1, NULL) == 0) printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "export")) {
        begin(OP_EXPORT); put32((uint32_t)atoi(a));
        if (ask(-1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "import")) {
        begin(OP_IMPORT);
        if (ask(atoi(a), NULL) == 0) printf("ok %u %llu\n", get32(0), (unsigned long long)get64(4));
    } else if (!strcmp(word, "close")) {
        begin(OP_CLOSE); put32((uint32_t)atoi(a));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "map")) { // NUMBER BYTES
        begin(OP_MAP); put32((uint32_t)atoi(a));
        if (ask(-1, &fd) < 0) return;
        mapped_bytes = strtoull(b, NULL, 10);
        mapped = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (strcmp(c, "keep")) close(fd);
        printf(mapped == MAP_FAILED ? "error %d mmap\n" : "ok %d\n", mapped == MAP_FAILED ? errno : fd);
    } else if (!strcmp(word, "peek")) {
        printf("ok %u\n", mapped[strtoull(a, NULL, 10)]);
    } else if (!strcmp(word, "poke")) {
        mapped[strtoull(a, NULL, 10)] = (uint8_t)atoi(b);
        printf("ok\n");
    } else if (!strcmp(word, "unmap")) { // NUMBER; 'lie' says so and does not
        if (strcmp(b, "lie")) munmap(mapped, mapped_bytes);
        begin(OP_UNMAP); put32((uint32_t)atoi(a));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "drop")) {
        printf(close(atoi(a)) == 0 ? "ok\n" : "error %d close\n", errno);
    } else if (!strcmp(word, "become")) { // USER: from root, for good
        printf(setgid((gid_t)atoi(a)) || setuid((uid_t)atoi(a)) ? "error %d setuid\n" : "ok %d\n", errno);
    } else if (!strcmp(word, "hangup")) {
        close(broker);
        printf("ok\n");
    } else if (!strcmp(word, "dup")) {
        printf("ok %d\n", dup(atoi(a)));
    } else if (!strcmp(word, "fork")) { // a child that has everything and does nothing
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            close(0);
            close(1);
            close(broker);
            for (;;) pause();
        }
        printf("ok %d\n", child);
    } else if (!strcmp(word, "offer")) { // FD PATH: to whoever takes it
        struct sockaddr_un at = { .sun_family = AF_UNIX };
        snprintf(at.sun_path, sizeof(at.sun_path), "%s", b);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        bind(s, (struct sockaddr *)&at, sizeof(at));
        listen(s, 1);
        printf("ok\n");
        fflush(stdout);
        int peer = accept(s, NULL, NULL);
        send_with(peer, "x", 1, atoi(a));
        close(peer);
        close(s);
    } else if (!strcmp(word, "take")) {
        char x;
        int s = dial(a);
        receive_with(s, &x, 1, &fd);
        close(s);
        printf("ok %d\n", fd);
    } else {
        printf("error 22 no such command\n");
    }
}

int main(void)
{
    char line[256];
    while (fgets(line, sizeof(line), stdin)) {
        run(line);
        fflush(stdout);
    }
    return 0;
}
