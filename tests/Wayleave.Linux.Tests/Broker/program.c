// A program of another language that shares a host's memory: docs/broker.md in 300 lines. It reads one command per line
// and answers each with one line: "ok ..." or "error ERRNO TEXT".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    OP_HELLO = 1, OP_OPEN, OP_ALLOCATE, OP_EXPORT, OP_IMPORT, OP_CLOSE, OP_MAP, OP_UNMAP, OP_DESCRIBE, OP_REVOKE,
    OP_PROOF, OP_EXPORT_FENCE, OP_IMPORT_FENCE, OP_DESCRIBE_FENCE, OP_MERGE, OP_COPY, OP_QUEUE, OP_BIND, OP_UNBIND,
    OP_SUBMIT, OP_REGISTER, OP_QUEUE_PAIR, OP_CONNECT, OP_TIMELINE, OP_FENCE, OP_ADVANCE, OP_POST,
    OP_COMPLETIONS = 29, OP_RING = 33, OP_ATTACH,
    OP_ATTACH_QUEUE = 36, OP_IMPORT_PAGED = 40
};

enum { FDS_MAX = 16 };

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

// As many descriptors as there are from the start of FDS that are not negative.
static int send_all(int s, const void *bytes, size_t n, const int *fds, int count)
{
    char control[CMSG_SPACE(sizeof(int) * FDS_MAX)] = { 0 };
    struct iovec part = { (void *)bytes, n };
    struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
    if (count > 0) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

static int send_with(int s, const void *bytes, size_t n, int fd)
{
    return send_all(s, bytes, n, &fd, fd >= 0);
}

static uint8_t *ring; // docs/internals/rings.md
static uint32_t ring_slots, ring_submitted, ring_taken;
static int ring_bell, ring_done;
static uint32_t pairs[2]; // the last two queue pairs
static uint8_t ends[2][36]; // and what a peer has to know of them

enum { RING_COMPUTE = 3 };

static volatile uint32_t *ring_word(size_t at) { return (volatile uint32_t *)(ring + at); }

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
static int ask_with(const int *fds, int count, int *received)
{
    int none;
    u32(4, (uint32_t)length);
    if (send_all(broker, message, length, fds, count) < 0) {
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

// An answer with three descriptors: only the one to 'ring'.
static int ask_for_ring(int *fds)
{
    char control[CMSG_SPACE(3 * sizeof(int))];
    struct iovec part = { message, sizeof(message) - 1 };
    struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
    u32(4, (uint32_t)length);
    if (send_with(broker, message, length, -1) < 0 || recvmsg(broker, &m, MSG_CMSG_CLOEXEC) < 24) {
        printf("error %d gone\n", ECONNRESET);
        return -1;
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    int32_t refused;
    memcpy(&refused, message + 12, 4);
    if (refused || !c || c->cmsg_len != CMSG_LEN(3 * sizeof(int))) {
        printf("error %d no ring\n", refused);
        return -1;
    }
    memcpy(fds, CMSG_DATA(c), 3 * sizeof(int));
    return 0;
}

// Says that entries are there, one or with what is behind it, and wakes the host if it sleeps.
static void ring_publish(uint32_t entries)
{
    ring_submitted += entries;
    __atomic_store_n(ring_word(128), ring_submitted, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (*ring_word(256) && __atomic_exchange_n(ring_word(256), 0, __ATOMIC_SEQ_CST)) {
        uint64_t one = 1;
        (void)!write(ring_bell, &one, sizeof(one));
    }
}

static void ring_push(uint32_t operation, uint32_t source, uint32_t target, uint64_t to, uint64_t bytes)
{
    uint8_t entry[64] = { 0 };
    uint64_t tag = ring_submitted;
    memcpy(entry, &operation, 4);
    memcpy(entry + 8, &tag, 8);
    memcpy(entry + 16, &source, 4);
    memcpy(entry + 20, &target, 4);
    memcpy(entry + 32, &to, 8);
    memcpy(entry + 40, &bytes, 8);
    memcpy(ring + 4096 + 64 * (ring_submitted % ring_slots), entry, 64);
    if (operation != RING_COMPUTE) // its command comes behind it
        ring_publish(1);
}

// Looks, says that it sleeps, looks again, sleeps.
static int ring_pull(uint64_t *entry, int milliseconds)
{
    for (;;) {
        if (__atomic_load_n(ring_word(512), __ATOMIC_ACQUIRE) != ring_taken) {
            size_t completions = 4096 + (64 * ring_slots + 4095) / 4096 * 4096;
            memcpy(entry, ring + completions + 32 * (ring_taken % ring_slots), 16);
            __atomic_store_n(ring_word(768), ++ring_taken, __ATOMIC_RELEASE);
            *ring_word(640) = 0;
            return 0;
        }
        if (!__atomic_exchange_n(ring_word(640), 1, __ATOMIC_SEQ_CST))
            continue;
        struct pollfd p[2] = { { .fd = ring_done, .events = POLLIN }, { .fd = broker, .events = 0 } };
        uint64_t count;
        if (poll(p, 2, milliseconds) <= 0 || p[1].revents)
            return -1;
        (void)!read(ring_done, &count, sizeof(count));
    }
}

static int ask(int fd, int *received) { return ask_with(&fd, fd >= 0, received); }

static uint32_t get32(size_t at) { uint32_t v; memcpy(&v, message + 24 + at, 4); return v; }
static uint64_t get64(size_t at) { uint64_t v; memcpy(&v, message + 24 + at, 8); return v; }

// 64 bytes of a GPU's ring: docs/internals/gpu.md.
static void command(uint16_t opcode, uint32_t value, uint64_t target, uint64_t count)
{
    memset(message + length, 0, 64);
    u16(length, opcode);
    u32(length + 4, value);
    u64(length + 24, target);
    u64(length + 48, count);
    length += 64;
}

// An import that comes with too many descriptors.
static void flood(const int *fds, int count)
{
    static char control[CMSG_SPACE(sizeof(int) * 253)];
    begin(OP_IMPORT);
    u32(4, (uint32_t)length);
    struct iovec part = { message, length };
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * count),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    ssize_t sent = sendmsg(broker, &m, MSG_NOSIGNAL);
    printf(sent < 0 ? "error %d sendmsg\n" : "ok\n", errno);
}

// A TCP socket whose close waits, as long as somebody has the other end and does not read.
static int lingering(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(at);
    static char bytes[65536];
    int listener = socket(AF_INET, SOCK_STREAM, 0), near = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 1) < 0
        || getsockname(listener, (struct sockaddr *)&at, &size) < 0
        || connect(near, (struct sockaddr *)&at, size) < 0 || accept(listener, NULL, NULL) < 0)
        return -1;
    close(listener);
    struct linger hour = { 1, 3600 };
    setsockopt(near, SOL_SOCKET, SO_LINGER, &hour, sizeof(hour));
    while (send(near, bytes, sizeof(bytes), MSG_DONTWAIT) > 0);
    return near;
}

// Goes on in a child of that number, which has nothing of the broker.
static void be_born(pid_t number)
{
    struct clone_args args = {
        .exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&number, .set_tid_size = 1,
    };
    fflush(stdout);
    pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (child > 0) {
        waitpid(child, NULL, 0);
        _exit(0);
    }
    if (child < 0) {
        printf("error %d clone3\n", errno);
        return;
    }
    close(broker);
    printf("ok %d\n", getpid());
}

static void run(char *line)
{
    char word[32] = "", a[108] = "", b[108] = "", c[32] = "", d[32] = "", e[32] = "";
    sscanf(line, "%31s %107s %107s %31s %31s %31s", word, a, b, c, d, e);
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
    } else if (!strcmp(word, "importpaged")) { // DESCRIPTOR PAGES BYTES
        begin(OP_IMPORT_PAGED);
        struct stat st;
        if (ask(atoi(a), NULL) < 0) return;
        uint64_t device = get64(44), inode = get64(52);
        if (fstat(atoi(b), &st) < 0 || st.st_ino != inode
            || (((uint64_t)major(st.st_dev) << 32) | minor(st.st_dev)) != device) {
            printf("error %d pages\n", EINVAL);
            return;
        }
        mapped_bytes = strtoull(c, NULL, 10);
        mapped = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(b), 0);
        printf(mapped == MAP_FAILED ? "error %d mmap\n" : "ok %u\n", mapped == MAP_FAILED ? errno : (int)get32(0));
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
        if (mapped && strcmp(b, "lie")) {
            munmap(mapped, mapped_bytes);
            mapped = NULL;
        }
        begin(OP_UNMAP); put32((uint32_t)atoi(a));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "copy")) { // DEVICE SOURCE TARGET BYTES [FENCE]: answers with a fence
        begin(OP_COPY);
        put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b)); put32((uint32_t)atoi(c));
        put64(0); put64(atoi(b) == atoi(c) ? strtoull(d, NULL, 10) : 0); put64(strtoull(d, NULL, 10));
        if (ask(*e ? atoi(e) : -1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "queue")) { // DEVICE
        begin(OP_QUEUE); put32((uint32_t)atoi(a)); put32(4); put_name("q");
        if (ask(-1, NULL) == 0) printf("ok %u %u\n", get32(0), get32(4));
    } else if (!strcmp(word, "bind")) { // DEVICE BUFFER
        begin(OP_BIND); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b)); put32(3);
        if (ask(-1, NULL) == 0) printf("ok %u %llu\n", get32(0), (unsigned long long)get64(4));
    } else if (!strcmp(word, "unbind")) { // DEVICE HANDLE
        begin(OP_UNBIND); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "spin")) { // QUEUE [FENCE]: a command that never ends; answers with a fence
        begin(OP_SUBMIT); put32((uint32_t)atoi(a)); command(9, 0, 0, UINT64_MAX);
        if (ask(*b ? atoi(b) : -1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "fill")) { // QUEUE ADDRESS BYTES VALUE [FENCE]
        begin(OP_SUBMIT); put32((uint32_t)atoi(a));
        command(1, (uint32_t)atoi(d), strtoull(b, NULL, 10), strtoull(c, NULL, 10));
        if (ask(*e ? atoi(e) : -1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "wait")) { // FENCE MILLISECONDS: 1 once it has signalled
        struct pollfd p = { .fd = atoi(a), .events = POLLIN };
        int seen = poll(&p, 1, atoi(b));
        printf(seen < 0 ? "error %d poll\n" : "ok %d\n", seen < 0 ? errno : seen);
    } else if (!strcmp(word, "status")) { // FENCE: the errno of one that has signalled
        uint8_t word16[16];
        ssize_t got = recv(atoi(a), word16, sizeof(word16), MSG_PEEK | MSG_DONTWAIT);
        uint32_t error = ECONNRESET; // no word, and the end: the host is gone
        if (got == sizeof(word16))
            memcpy(&error, word16, sizeof(error));
        printf(got < 0 && errno == EAGAIN ? "error %d pending\n" : "ok %d\n",
            got < 0 && errno == EAGAIN ? EAGAIN : (int)error);
    } else if (!strcmp(word, "merge")) { // FENCE FENCE
        int both[2] = { atoi(a), atoi(b) };
        begin(OP_MERGE); put_name("c");
        if (ask_with(both, 2, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "describe")) { // FENCE: its status, and how many it is made of
        begin(OP_DESCRIBE_FENCE);
        if (ask(atoi(a), NULL) == 0) printf("ok %d %u\n", (int)get32(0), get32(8));
    } else if (!strcmp(word, "sync-out")) { // BUFFER USE: a fence of what that use has to wait for
        begin(OP_EXPORT_FENCE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "sync-in")) { // BUFFER USE FENCE
        begin(OP_IMPORT_FENCE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(atoi(c), NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "timeline")) {
        begin(OP_TIMELINE); put_name("c");
        if (ask(-1, NULL) == 0) printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "fence")) { // TIMELINE VALUE
        begin(OP_FENCE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, &fd) == 0) printf("ok %d\n", fd);
    } else if (!strcmp(word, "advance")) { // TIMELINE COUNT
        begin(OP_ADVANCE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "register")) { // DEVICE BUFFER BYTES: the number and the key
        begin(OP_REGISTER);
        put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b)); put32(0); put32(7); put64(0); put64(strtoull(c, NULL, 10));
        if (ask(-1, NULL) == 0) printf("ok %u %u\n", get32(0), get32(4));
    } else if (!strcmp(word, "pair")) { // DEVICE: a queue pair
        begin(OP_QUEUE_PAIR); put32((uint32_t)atoi(a));
        if (ask(-1, NULL) == 0) {
            pairs[0] = pairs[1];
            memcpy(ends[0], ends[1], 36);
            pairs[1] = get32(0);
            memcpy(ends[1], message + 28, 36);
            printf("ok %u %u\n", get32(0), get32(24));
        }
    } else if (!strcmp(word, "join")) { // the last two with each other
        for (int i = 0; i < 2; i++) {
            begin(OP_CONNECT); put32(pairs[i]);
            memcpy(message + length, ends[1 - i], 36);
            length += 36;
            if (ask(-1, NULL) < 0) return;
        }
        printf("ok\n");
    } else if (!strcmp(word, "write")) { // WHICH OPCODE LKEY RKEY BYTES: a request of the first or the second of them
        begin(OP_POST);
        put32(pairs[atoi(a)]); put32((uint32_t)atoi(b)); put32(2); put32(0); put64(1); put64(0);
        put32((uint32_t)strtoul(d, NULL, 10)); put32(0); put64(0); put64(0);
        put64(0); put32((uint32_t)strtoul(e, NULL, 10)); put32((uint32_t)strtoul(c, NULL, 10));
        if (ask(-1, NULL) == 0) printf("ok\n");
    } else if (!strcmp(word, "completions")) { // WHICH MILLISECONDS: how many, and the status of the first
        begin(OP_COMPLETIONS); put32(pairs[atoi(a)]); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok %zu %u\n", (length - 24) / 32, length > 24 ? get32(8) : 0);
    } else if (!strcmp(word, "revoke")) { // BUFFER MILLISECONDS
        begin(OP_REVOKE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok 0 %s\n", message + 24);
    } else if (!strcmp(word, "proof")) { // BUFFER
        begin(OP_PROOF); put32((uint32_t)atoi(a));
        if (ask(-1, NULL) == 0) printf("ok 0 %s\n", message + 24);
    } else if (!strcmp(word, "ring")) { // DEVICE SLOTS
        int fds[3];
        begin(OP_RING); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask_for_ring(fds) < 0) return;
        ring_slots = get32(4);
        ring_submitted = ring_taken = 0;
        ring_bell = fds[1];
        ring_done = fds[2];
        size_t all = 4096 + (64 * ring_slots + 4095) / 4096 * 4096 + (32 * ring_slots + 4095) / 4096 * 4096;
        ring = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
        close(fds[0]);
        printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "attach")) { // RING BUFFER
        begin(OP_ATTACH); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "push")) { // OPERATION SOURCE TARGET BYTES: if there is room
        int has_room = ring_submitted - *ring_word(384) < ring_slots && ring_submitted - ring_taken < ring_slots;
        if (has_room) ring_push((uint32_t)atoi(a), (uint32_t)atoi(b), (uint32_t)atoi(c), 0, strtoull(d, NULL, 10));
        printf("ok %d\n", has_room);
    } else if (!strcmp(word, "attachqueue")) { // RING QUEUE
        begin(OP_ATTACH_QUEUE); put32((uint32_t)atoi(a)); put32((uint32_t)atoi(b));
        if (ask(-1, NULL) == 0) printf("ok %u\n", get32(0));
    } else if (!strcmp(word, "work")) { // SLOT ADDRESS BYTES: one that fills, if there is room for it
        int has_room = ring_submitted + 1 - *ring_word(384) < ring_slots && ring_submitted + 1 - ring_taken < ring_slots;
        if (has_room) {
            ring_push(RING_COMPUTE, (uint32_t)atoi(a), 0, 0, 1);
            length = 0;
            command(1, 7, strtoull(b, NULL, 10), strtoull(c, NULL, 10));
            memcpy(ring + 4096 + 64 * ((ring_submitted + 1) % ring_slots), message, 64);
            ring_publish(2);
        }
        printf("ok %d\n", has_room);
    } else if (!strcmp(word, "pull")) { // MILLISECONDS: the errno of a completion
        uint64_t entry[2];
        if (ring_pull(entry, atoi(a)) < 0) printf("error %d no completion\n", ETIMEDOUT);
        else printf("ok %d %llu\n", (int)(uint32_t)entry[1], (unsigned long long)entry[0]);
    } else if (!strcmp(word, "poison")) { // SEED: garbage in the ring, and the bell
        uint64_t one = 1;
        srand((unsigned)atoi(a));
        for (int i = 0; i < 64; i++)
            ring[rand() % (4096 + 64 * ring_slots)] = (uint8_t)rand();
        *ring_word(128) = (uint32_t)rand();
        (void)!write(ring_bell, &one, sizeof(one));
        printf("ok\n");
    } else if (!strcmp(word, "jam")) { // its own eventfd is full, and waits for who writes to it
        uint64_t most = UINT64_MAX - 1;
        uint64_t count;
        fcntl(ring_done, F_SETFL, O_NONBLOCK);
        (void)!read(ring_done, &count, sizeof(count));
        (void)!write(ring_done, &most, sizeof(most));
        int failed = fcntl(ring_done, F_SETFL, 0);
        printf(failed ? "error %d fcntl\n" : "ok\n", errno);
    } else if (!strcmp(word, "seal")) { // FD SEALS
        int failed = fcntl(atoi(a), F_ADD_SEALS, atoi(b));
        printf(failed ? "error %d fcntl\n" : "ok\n", errno);
    } else if (!strcmp(word, "reopen")) { // FD: by /proc, as another open file
        char path[64];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", atoi(a));
        fd = open(path, O_RDWR | O_CLOEXEC);
        printf(fd < 0 ? "error %d open\n" : "ok %d\n", fd < 0 ? errno : fd);
    } else if (!strcmp(word, "again")) { // FD: another mapping of it, which nobody was told of
        mapped = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(a), 0);
        printf(mapped == MAP_FAILED ? "error %d mmap\n" : "ok\n", errno);
    } else if (!strcmp(word, "truncate")) { // FD BYTES
        int failed = ftruncate(atoi(a), atoll(b));
        printf(failed ? "error %d ftruncate\n" : "ok\n", errno);
    } else if (!strcmp(word, "remap")) { // to other addresses
        void *there = mmap(NULL, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mapped = mremap(mapped, mapped_bytes, mapped_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, there);
        printf(mapped == MAP_FAILED ? "error %d mremap\n" : "ok\n", errno);
    } else if (!strcmp(word, "huge")) { // advice for what is mapped
        int failed = madvise(mapped, mapped_bytes, MADV_HUGEPAGE);
        printf(failed ? "error %d madvise\n" : "ok\n", errno);
    } else if (!strcmp(word, "scribble")) { // MICROSECONDS: a child that writes to all that is mapped, again and again
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            close(0);
            close(1);
            close(broker);
            for (uint8_t v = 1;; v++) {
                for (size_t i = 0; i < mapped_bytes; i += 512)
                    ((volatile uint8_t *)mapped)[i] = v;
                usleep((useconds_t)atoi(a));
            }
        }
        printf("ok %d\n", child);
    } else if (!strcmp(word, "swallow")) { // FD: sends it by itself
        int failed = send_with(atoi(a), "x", 1, atoi(a));
        printf(failed ? "error %d send\n" : "ok\n", errno);
    } else if (!strcmp(word, "flood")) { // COUNT: descriptors, with one request
        int fds[253];
        for (int i = 0; i < 253; i++)
            fds[i] = 0;
        flood(fds, atoi(a));
    } else if (!strcmp(word, "drop")) {
        printf(close(atoi(a)) == 0 ? "ok\n" : "error %d close\n", errno);
    } else if (!strcmp(word, "become")) { // USER: from root, for good
        printf(setgid((gid_t)atoi(a)) || setuid((uid_t)atoi(a)) ? "error %d setuid\n" : "ok %d\n", errno);
    } else if (!strcmp(word, "hangup")) {
        close(broker);
        printf("ok\n");
    } else if (!strcmp(word, "dup")) {
        printf("ok %d\n", dup(atoi(a)));
    } else if (!strcmp(word, "born")) { // PID
        be_born(atoi(a));
    } else if (!strcmp(word, "linger")) { // PAIR FDS: after the host has waited for completions of PAIR, it closes that
        int near = lingering();
        if (near < 0) {
            printf("error %d lingering\n", errno);
            return;
        }
        begin(OP_COMPLETIONS); put32((uint32_t)atoi(a)); put32(1000);
        u32(4, (uint32_t)length);
        send_with(broker, message, length, -1);
        int fds[32];
        for (int i = 0; i < 32; i++) fds[i] = near;
        flood(fds, atoi(b));
        close(near);
    } else if (!strcmp(word, "lingerto")) { // PATH: sends it there, and closes it
        int near = lingering(), there = dial(a);
        int failed = near < 0 || there < 0 || send_with(there, "x", 1, near);
        printf(failed ? "error %d send\n" : "ok\n", errno);
        close(near);
    } else if (!strcmp(word, "half")) { // it says nothing more
        printf(shutdown(broker, SHUT_WR) < 0 ? "error %d shutdown\n" : "ok\n", errno);
    } else if (!strcmp(word, "shoot")) { // OPERATION NUMBER [NUMBER]: asks, and does not wait for an answer
        begin((uint16_t)atoi(a)); put32((uint32_t)atoi(b));
        if (*c) put32((uint32_t)atoi(c));
        u32(4, (uint32_t)length);
        printf(send_with(broker, message, length, -1) < 0 ? "error %d send\n" : "ok\n", errno);
    } else if (!strcmp(word, "fork")) { // a child that has everything and does nothing; 'keep' also the connection
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            close(0);
            close(1);
            if (strcmp(a, "keep"))
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
    umask(0); // programs of other users meet at its sockets
    while (fgets(line, sizeof(line), stdin)) {
        run(line);
        fflush(stdout);
    }
    return 0;
}
