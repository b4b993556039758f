/* Clients that fetch one file by TFTP, each again and again, comparing every byte with the file as it should be.
 *
 *   tftpload --server IP --name NAME --expect FILE [--clients 1] [--window 1] [--blksize 1468] [--seconds 3]
 *            [--delay-ms 0] [--transfers 0]
 *
 * window 1 asks for no windowsize. delay-ms keeps each datagram of a client back for so long before it leaves: for both
 * ends the same as a round trip of that time, at no cost of a packet. transfers N ends after N of all clients together.
 * The socket takes whole trains of segments from the kernel (UDP_GRO), so that the clients cost little beside the server.
 */
#include "common.h"
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define TIMEOUT 1.0
#define TRIES 8
#define EVENTS 256

typedef struct {
    int fd, is_connected, tries, blksize, window, in_window, is_new, is_running;
    uint64_t acked, total; /* blocks in order so far, blocks of the file */
    uint64_t gap_acked;
    double begun, sent;
    struct sockaddr_in peer;
    uint8_t last[600];
    int last_length;
    unsigned serial;
} Client;

typedef struct {
    double due;
    uint32_t client;
    unsigned serial;
} Held;

static Client *clients;
static Held *held;
static size_t held_head, held_tail, held_room;
static const uint8_t *content;
static uint64_t size;
static struct sockaddr_in server;
static const char *name;
static int window, blksize, epoll_fd;
static double delay;
static uint64_t bytes, datagrams, again, gaps, retries, failed, finished, granted_window;
static Samples took;

static void transmit(Client *c) {
    if (c->is_connected) {
        if (send(c->fd, c->last, (size_t)c->last_length, 0) < 0 && errno != ECONNREFUSED) again++;
    } else {
        sendto(c->fd, c->last, (size_t)c->last_length, 0, (struct sockaddr *)&server, sizeof server);
    }
}

static void leave(uint32_t index) {
    Client *c = &clients[index];
    c->sent = now_s();
    if (delay <= 0) {
        transmit(c);
        return;
    }
    held[held_tail % held_room] = (Held){c->sent + delay, index, c->serial};
    held_tail++;
}

static void ack(uint32_t index) {
    Client *c = &clients[index];
    c->last[0] = 0, c->last[1] = 4, c->last[2] = (uint8_t)(c->acked >> 8), c->last[3] = (uint8_t)c->acked;
    c->last_length = 4;
    c->in_window = 0;
    leave(index);
}

static void begin(uint32_t index) {
    Client *c = &clients[index];
    int on = 1, buffer = 4 << 20;
    c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    setsockopt(c->fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    c->is_connected = 0, c->tries = 0, c->blksize = 512, c->window = 1, c->in_window = 0;
    c->acked = 0, c->gap_acked = 0, c->is_running = 1;
    c->serial++;
    char *at = (char *)c->last;
    at[0] = 0, at[1] = 1;
    at += 2;
    at += sprintf(at, "%s", name) + 1;
    at += sprintf(at, "octet") + 1;
    if (blksize != 512) {
        at += sprintf(at, "blksize") + 1;
        at += sprintf(at, "%d", blksize) + 1;
    }
    if (window > 1) {
        at += sprintf(at, "windowsize") + 1;
        at += sprintf(at, "%d", window) + 1;
    }
    c->last_length = (int)(at - (char *)c->last);
    c->total = size / 512 + 1;
    c->begun = now_s();
    leave(index);
}

static void end(uint32_t index, int is_good) {
    Client *c = &clients[index];
    if (is_good) {
        finished++;
        sample(&took, now_s() - c->begun);
    } else {
        failed++;
    }
    close(c->fd);
    c->is_running = 0;
}

static void take_oack(uint32_t index, const char *at, const char *stop) {
    Client *c = &clients[index];
    while (at < stop) {
        const char *key = at, *value = key + strnlen(key, (size_t)(stop - key)) + 1;
        if (value >= stop) break;
        if (!strcasecmp(key, "blksize")) c->blksize = atoi(value);
        if (!strcasecmp(key, "windowsize")) c->window = atoi(value);
        at = value + strnlen(value, (size_t)(stop - value)) + 1;
    }
    c->total = size / (uint64_t)c->blksize + 1;
    granted_window = (uint64_t)c->window;
    ack(index);
}

/* 0: the transfer goes on; 1: it has ended. */
static int take(uint32_t index, const uint8_t *p, size_t length) {
    Client *c = &clients[index];
    if (length < 4) return 0;
    c->tries = 0;
    if (p[1] == 6) {
        if (!c->acked) take_oack(index, (const char *)p + 2, (const char *)p + length);
        return 0;
    }
    if (p[1] != 3) {
        end(index, 0);
        return 1;
    }
    datagrams++;
    uint64_t next = c->acked + 1;
    uint16_t number = (uint16_t)(p[2] << 8 | p[3]);
    if (number != (uint16_t)next) {
        if ((int16_t)(number - (uint16_t)next) > 0) {
            gaps++;
            /* RFC 7440 section 4: the last in order, once for each gap. */
            if (c->gap_acked != next) {
                c->gap_acked = next;
                ack(index);
            }
        } else {
            again++;
        }
        return 0;
    }
    uint64_t offset = c->acked * (uint64_t)c->blksize, wanted = size - offset;
    if (wanted > (uint64_t)c->blksize) wanted = (uint64_t)c->blksize;
    if (length - 4 != wanted || memcmp(p + 4, content + offset, wanted)) {
        fprintf(stderr, "block %lu is wrong: %zu bytes\n", (unsigned long)next, length - 4);
        end(index, 0);
        return 1;
    }
    bytes += wanted;
    c->acked = next;
    c->in_window++;
    if (wanted < (uint64_t)c->blksize) {
        double kept = delay;
        delay = 0; /* The last ACK: nobody waits for it. */
        ack(index);
        delay = kept;
        end(index, 1);
        return 1;
    }
    if (c->in_window >= c->window) ack(index);
    return 0;
}

static int readable(uint32_t index) {
    static uint8_t data[65536];
    Client *c = &clients[index];
    for (int round = 0; round < 16; round++) {
        char control[64];
        struct iovec iov = {data, sizeof data};
        struct sockaddr_in from;
        struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &iov, .msg_iovlen = 1,
                                 .msg_control = control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(c->fd, &message, 0);
        if (length < 0) {
            if (errno == ECONNREFUSED && c->is_connected) {
                end(index, 0);
                return 1;
            }
            return 0;
        }
        if (!c->is_connected) {
            connect(c->fd, (struct sockaddr *)&from, sizeof from);
            c->is_connected = 1;
        }
        int segment = (int)length;
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h))
            if (h->cmsg_level == IPPROTO_UDP && h->cmsg_type == UDP_GRO) memcpy(&segment, CMSG_DATA(h), sizeof segment);
        for (ssize_t at = 0; at < length; at += segment) {
            ssize_t part = length - at < segment ? length - at : segment;
            if (take(index, data + at, (size_t)part)) return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    int count = atoi(option(argc, argv, "clients", "1"));
    double seconds = atof(option(argc, argv, "seconds", "3"));
    uint64_t limit = (uint64_t)atol(option(argc, argv, "transfers", "0"));
    window = atoi(option(argc, argv, "window", "1"));
    blksize = atoi(option(argc, argv, "blksize", "1468"));
    delay = atof(option(argc, argv, "delay-ms", "0")) / 1e3;
    name = option(argc, argv, "name", NULL);
    server = address(option(argc, argv, "server", NULL), 69);
    int fd = open(option(argc, argv, "expect", NULL), O_RDONLY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) die("--expect");
    size = (uint64_t)status.st_size;
    content = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (content == MAP_FAILED) die("mmap");
    epoll_fd = epoll_create1(0);
    clients = calloc((size_t)count, sizeof *clients);
    held_room = (size_t)count * 64 + 1024;
    held = calloc(held_room, sizeof *held);
    if (!clients || !held) die("calloc");
    double started = now_s(), looked = started, now = started;
    uint64_t begun = 0;
    for (int i = 0; i < count; i++, begun++) begin((uint32_t)i);
    while ((now = now_s()) - started < seconds) {
        if (limit && finished + failed >= limit) break;
        double wait = 0.02;
        while (held_head < held_tail) {
            Held *h = &held[held_head % held_room];
            if (h->due > now) {
                wait = h->due - now;
                break;
            }
            if (clients[h->client].is_running && clients[h->client].serial == h->serial) transmit(&clients[h->client]);
            held_head++;
        }
        struct epoll_event events[EVENTS];
        struct timespec patience = {0, (long)((wait < 0.02 ? wait : 0.02) * 1e9)};
        int n = epoll_pwait2(epoll_fd, events, EVENTS, &patience, NULL);
        for (int i = 0; i < n; i++) {
            uint32_t index = events[i].data.u32;
            if (readable(index) && (!limit || begun < limit)) {
                begun++;
                begin(index);
            }
        }
        if (now - looked < 0.05) continue;
        looked = now;
        for (int i = 0; i < count; i++) {
            Client *c = &clients[i];
            if (!c->is_running || now - c->sent < TIMEOUT + delay) continue;
            if (++c->tries > TRIES) {
                end((uint32_t)i, 0);
                if (!limit || begun < limit) {
                    begun++;
                    begin((uint32_t)i);
                }
                continue;
            }
            retries++;
            leave((uint32_t)i);
        }
    }
    double spent = now - started;
    for (int i = 0; i < count; i++) {
        if (!clients[i].is_running || !clients[i].is_connected) continue;
        static const uint8_t bye[] = {0, 5, 0, 0, 'o', 'v', 'e', 'r', 0};
        send(clients[i].fd, bye, sizeof bye, 0);
    }
    printf("{\"transfers\": %lu, \"failed\": %lu, \"bytes\": %lu, \"seconds\": %.4f, \"mb_per_second\": %.2f, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"retries\": %lu, \"gaps\": %lu, \"repeated\": %lu, "
           "\"datagrams\": %lu, \"window\": %lu, \"cpu_seconds\": %.3f}\n",
           finished, failed, bytes, spent, (double)bytes / spent / 1e6, percentile_ms(&took, 50),
           percentile_ms(&took, 99), retries, gaps, again, datagrams, granted_window, own_cpu());
    return 0;
}
