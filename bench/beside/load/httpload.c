/* Clients that fetch one path by HTTP/1.1, each again and again; bodies are thrown away inside the kernel (MSG_TRUNC).
 *
 *   httpload --server IP --port N --path PATH [--connections 1] [--seconds 3] [--keep 1] [--rate 0]
 *            [--least 0]
 *
 * keep 0 opens a connection for each request, as firmware does; its time then counts. rate N: so many requests a second
 * of all connections together. 503 is a turn not granted: it is asked again after Retry-After, and counted. least N goes on
 * until so many requests are answered.
 */
#include "common.h"
#include <netinet/tcp.h>
#include <sys/epoll.h>

#define EVENTS 256
#define HEAD 8192

typedef struct {
    int fd, state; /* 0 idle, 1 connecting, 2 head awaited, 3 body */
    double begun, not_before;
    uint64_t left;
    size_t head_length;
    int status;
    char head[HEAD];
} Conn;

static Conn *conns;
static int epoll_fd, keep;
static struct sockaddr_in server;
static char request[2048];
static size_t request_length;
static uint64_t bytes, done_count, errors, deferred;
static Samples latency;

static void begin(uint32_t index) {
    Conn *c = &conns[index];
    c->begun = now_s();
    c->head_length = 0;
    if (c->fd >= 0) {
        c->state = 2;
        if (send(c->fd, request, request_length, MSG_NOSIGNAL) == (ssize_t)request_length) return;
        close(c->fd);
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->state = 1;
    connect(c->fd, (struct sockaddr *)&server, sizeof server);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = index};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void end(uint32_t index, int is_good) {
    Conn *c = &conns[index];
    if (!is_good) {
        errors++;
        c->not_before = now_s() + 0.1;
    } else if (c->status == 503) {
        deferred++;
    } else if (c->status >= 300) {
        errors++;
    } else {
        done_count++;
        sample(&latency, now_s() - c->begun);
    }
    if (!is_good || !keep) {
        close(c->fd);
        c->fd = -1;
    }
    c->state = 0;
}

static int take_head(Conn *c) {
    char *stop = memmem(c->head, c->head_length, "\r\n\r\n", 4);
    if (!stop) return c->head_length < HEAD - 1 ? 0 : -1;
    size_t head = (size_t)(stop - c->head) + 4, extra = c->head_length - head;
    c->head[head - 1] = 0;
    c->status = atoi(c->head + 9);
    char *length = strcasestr(c->head, "\r\nContent-Length:"), *later = strcasestr(c->head, "\r\nRetry-After:");
    if (!length) return -1;
    uint64_t size = strtoull(length + 17, NULL, 10);
    if (c->status == 503) c->not_before = now_s() + (later ? atof(later + 14) : 1.0);
    if (c->status < 300) bytes += extra;
    c->left = size - extra;
    c->state = 3;
    return 1;
}

static void readable(uint32_t index) {
    static char waste[1 << 20];
    Conn *c = &conns[index];
    for (int round = 0; round < 8; round++) {
        if (c->state == 2) {
            ssize_t n = recv(c->fd, c->head + c->head_length, HEAD - 1 - c->head_length, 0);
            if (n < 0 && errno == EAGAIN) return;
            if (n <= 0) { end(index, 0); return; }
            c->head_length += (size_t)n;
            int found = take_head(c);
            if (found < 0) { end(index, 0); return; }
            if (!found) continue;
        }
        if (!c->left) { end(index, 1); return; }
        ssize_t n = recv(c->fd, waste, c->left < sizeof waste ? c->left : sizeof waste, MSG_TRUNC);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { end(index, 0); return; }
        c->left -= (uint64_t)n;
        if (c->status < 300) bytes += (uint64_t)n;
        if (!c->left) { end(index, 1); return; }
    }
}

int main(int argc, char **argv) {
    int count = atoi(option(argc, argv, "connections", "1"));
    double seconds = atof(option(argc, argv, "seconds", "3")), rate = atof(option(argc, argv, "rate", "0"));
    keep = atoi(option(argc, argv, "keep", "1"));
    server = address(option(argc, argv, "server", NULL), atoi(option(argc, argv, "port", "8080")));
    request_length = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n",
                                      option(argc, argv, "path", NULL), option(argc, argv, "server", NULL),
                                      keep ? "" : "Connection: close\r\n");
    epoll_fd = epoll_create1(0);
    conns = calloc((size_t)count, sizeof *conns);
    if (!conns) die("calloc");
    for (int i = 0; i < count; i++) conns[i].fd = -1;
    double started = now_s(), now;
    uint64_t begun = 0, least = (uint64_t)atol(option(argc, argv, "least", "0"));
    while ((now = now_s()) - started < seconds || done_count < least) {
        for (uint32_t i = 0; i < (uint32_t)count; i++) {
            if (rate > 0 && begun >= (uint64_t)((now - started) * rate)) break;
            if (conns[i].state || conns[i].not_before > now) continue;
            begun++;
            begin(i);
        }
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll_fd, events, EVENTS, rate > 0 ? 1 : 10);
        for (int i = 0; i < n; i++) {
            uint32_t index = events[i].data.u32;
            Conn *c = &conns[index];
            if (c->state == 1) {
                if (events[i].events & (EPOLLERR | EPOLLHUP)) { end(index, 0); continue; }
                c->state = 2;
                struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
                epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
                if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) end(index, 0);
            } else if (c->state >= 2 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                readable(index);
            }
        }
    }
    double spent = now - started;
    printf("{\"requests\": %lu, \"errors\": %lu, \"deferred\": %lu, \"bytes\": %lu, \"seconds\": %.4f, "
           "\"mb_per_second\": %.2f, \"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"cpu_seconds\": %.3f}\n",
           done_count, errors, deferred, bytes, spent, (double)bytes / spent / 1e6, (double)done_count / spent,
           percentile_ms(&latency, 50), percentile_ms(&latency, 99), own_cpu());
    return 0;
}
