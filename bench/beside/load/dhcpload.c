/* Clients that want an address, as their relay sends them on: DISCOVER, OFFER, REQUEST, ACK.
 *
 *   dhcpload --server IP --relay IP [--seconds 4] [--in-flight 64] [--rate 0] [--first 1] [--most 1000000] [--pxe 0]
 *            [--direct ""]
 *
 * rate 0: closed loop, so many exchanges in flight, what is lost is sent again after a second. rate N: open loop, N new
 * clients a second whatever the server does; nothing is repeated, what is not done within a second is lost.
 * direct INTERFACE: not relayed but broadcast on it, and broadcasts are asked for as answers.
 * Every ACKed address is remembered with its client: `duplicates` counts those that somebody else had.
 */
#include "common.h"
#include <poll.h>

#define BATCH 64
#define ROOM 1024
#define LENGTH 300
#define TIMEOUT 1.0
#define TRIES 10
#define OPEN_LIMIT 60000

typedef struct {
    double begun, sent;
    uint32_t address, server;
    uint8_t state, tries; /* state: 0 none, 1 DISCOVER sent, 2 REQUEST sent, 3 done, 4 lost */
} Client;

static Client *clients;
static uint32_t *flying, *holder, relay_ip;
static size_t flying_count, first, most, begun;
static struct sockaddr_in server;
static int sock, pxe, is_direct;
static struct mmsghdr out[BATCH];
static struct iovec out_iov[BATCH];
static uint8_t out_data[BATCH][LENGTH + 100];
static int out_count;
static unsigned long done_count, retries, naks, duplicates, lost, sent_packets, replies, odd, unsent;
static Samples latency;

static void flush(void) {
    int from = 0;
    while (from < out_count) {
        int n = sendmmsg(sock, out + from, (unsigned)(out_count - from), 0);
        if (n <= 0) {
            if (n < 0 && (errno == ECONNREFUSED || errno == EINTR)) continue;
            unsent += (unsigned long)(out_count - from);
            break;
        }
        from += n;
        sent_packets += (unsigned long)n;
    }
    out_count = 0;
}

static uint8_t *put(uint8_t *at, int code, const void *value, int length) {
    *at++ = (uint8_t)code;
    *at++ = (uint8_t)length;
    memcpy(at, value, (size_t)length);
    return at + length;
}

static void send_message(uint32_t index) {
    Client *c = &clients[index];
    if (out_count == BATCH) flush();
    uint8_t *p = out_data[out_count], *at = p + 240;
    uint32_t number = (uint32_t)(index + first);
    memset(p, 0, LENGTH + 100);
    p[0] = 1, p[1] = 1, p[2] = 6, p[3] = 1;
    memcpy(p + 4, &index, 4); /* xid */
    if (is_direct)
        p[3] = 0, p[10] = 0x80;
    else
        memcpy(p + 24, &relay_ip, 4);
    uint32_t wire = htonl(number);
    p[28] = 2, p[29] = 0xb0;
    memcpy(p + 30, &wire, 4);
    memcpy(p + 236, "\x63\x82\x53\x63", 4);
    uint8_t type = c->state == 1 ? 1 : 3;
    at = put(at, 53, &type, 1);
    if (type == 3) {
        at = put(at, 50, &c->address, 4);
        at = put(at, 54, &c->server, 4);
    }
    at = put(at, 55, "\x01\x03\x06\x0f\x1c\x42\x43", 7);
    if (pxe) {
        uint8_t uuid[17] = {0, 0x42};
        memcpy(uuid + 13, &wire, 4);
        at = put(at, 57, "\x05\xc0", 2);
        at = put(at, 97, uuid, 17);
        at = put(at, 94, "\x01\x03\x00", 3);
        at = put(at, 93, "\x00\x07", 2);
        at = put(at, 60, "PXEClient:Arch:00007:UNDI:003000", 32);
    }
    *at++ = 255;
    size_t length = (size_t)(at - p);
    out_iov[out_count].iov_base = p;
    out_iov[out_count].iov_len = length < LENGTH ? LENGTH : length;
    out_count++;
    c->sent = now_s();
    c->tries++;
}

static void begin(void) {
    uint32_t index = (uint32_t)begun++;
    clients[index].state = 1;
    clients[index].begun = now_s();
    flying[flying_count++] = index;
    send_message(index);
}

static const uint8_t *find(const uint8_t *p, size_t length, int code) {
    size_t at = 240;
    while (at + 1 < length && p[at] != 255) {
        if (p[at] == 0) { at++; continue; }
        if (at + 2 + p[at + 1] > length) return NULL;
        if (p[at] == code) return p + at + 2;
        at += 2 + (size_t)p[at + 1];
    }
    return NULL;
}

static void take(const uint8_t *p, size_t length) {
    uint32_t index;
    if (length < 244 || p[0] != 2) { odd++; return; }
    memcpy(&index, p + 4, 4);
    const uint8_t *type = find(p, length, 53), *id = find(p, length, 54);
    if (index >= begun || !type) { odd++; return; }
    Client *c = &clients[index];
    replies++;
    if (c->state == 1 && *type == 2 && id) {
        memcpy(&c->address, p + 16, 4);
        memcpy(&c->server, id, 4);
        c->state = 2;
        c->tries = 0;
        send_message(index);
    } else if (c->state == 2 && *type == 5) {
        memcpy(&c->address, p + 16, 4);
        uint32_t slot = ntohl(c->address) & 0xfffff;
        if (holder[slot] && holder[slot] != index + 1) duplicates++;
        holder[slot] = index + 1;
        c->state = 3;
        done_count++;
        sample(&latency, now_s() - c->begun);
    } else if (c->state == 2 && *type == 6) {
        naks++;
        c->state = 1;
        send_message(index);
    }
}

static void look_at_flying(int is_open, double now) {
    size_t kept = 0;
    for (size_t i = 0; i < flying_count; i++) {
        uint32_t index = flying[i];
        Client *c = &clients[index];
        if (c->state >= 3) continue;
        if (is_open ? now - c->begun > TIMEOUT : now - c->sent > TIMEOUT) {
            if (is_open || c->tries >= TRIES) {
                c->state = 4;
                lost++;
                continue;
            }
            retries++;
            send_message(index);
        }
        flying[kept++] = index;
    }
    flying_count = kept;
}

int main(int argc, char **argv) {
    double seconds = atof(option(argc, argv, "seconds", "4")), rate = atof(option(argc, argv, "rate", "0"));
    size_t window = (size_t)atol(option(argc, argv, "in-flight", "64"));
    first = (size_t)atol(option(argc, argv, "first", "1"));
    most = (size_t)atol(option(argc, argv, "most", "1000000"));
    pxe = atoi(option(argc, argv, "pxe", "0"));
    server = address(option(argc, argv, "server", NULL), 67);
    struct sockaddr_in relay = address(option(argc, argv, "relay", NULL), 67);
    relay_ip = relay.sin_addr.s_addr;
    clients = calloc(most + 1, sizeof *clients);
    flying = calloc(OPEN_LIMIT + window + 1, sizeof *flying);
    holder = calloc(1 << 20, sizeof *holder);
    if (!clients || !flying || !holder) die("calloc");
    sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    int buffer = 16 << 20;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    const char *direct = option(argc, argv, "direct", "");
    if ((is_direct = *direct != 0)) {
        int on = 1;
        server = address("255.255.255.255", 67);
        relay = address("0.0.0.0", 68);
        if (setsockopt(sock, SOL_SOCKET, SO_BROADCAST, &on, sizeof on)) die("SO_BROADCAST");
        if (setsockopt(sock, SOL_SOCKET, SO_BINDTODEVICE, direct, (socklen_t)strlen(direct))) die("SO_BINDTODEVICE");
    }
    if (bind(sock, (struct sockaddr *)&relay, sizeof relay)) die("bind");
    static struct mmsghdr in[BATCH];
    static struct iovec in_iov[BATCH];
    static uint8_t in_data[BATCH][ROOM];
    for (int i = 0; i < BATCH; i++) {
        in_iov[i] = (struct iovec){in_data[i], ROOM};
        in[i].msg_hdr.msg_iov = &in_iov[i];
        in[i].msg_hdr.msg_iovlen = 1;
        out_iov[i].iov_base = out_data[i];
        out[i].msg_hdr.msg_iov = &out_iov[i];
        out[i].msg_hdr.msg_iovlen = 1;
        out[i].msg_hdr.msg_name = &server;
        out[i].msg_hdr.msg_namelen = sizeof server;
    }
    double started = now_s(), looked = started, now = started;
    int is_open = rate > 0;
    size_t alive = 0;
    while (1) {
        now = now_s();
        int is_over = now - started >= seconds;
        if (is_over && (!is_open || now - started >= seconds + TIMEOUT || !(begun - done_count - lost))) break;
        if (begun >= most && done_count + lost >= begun) break;
        alive = begun - done_count - lost;
        if (is_open) {
            size_t due = is_over ? begun : (size_t)((now - started) * rate);
            while (begun < due && begun < most && flying_count < OPEN_LIMIT) begin();
        } else {
            while (alive < window && begun < most) {
                if (flying_count >= window) look_at_flying(is_open, now);
                begin();
                alive++;
            }
        }
        flush();
        if (now - looked > 0.05 || flying_count >= OPEN_LIMIT) {
            look_at_flying(is_open, now);
            looked = now;
        }
        struct pollfd wait = {.fd = sock, .events = POLLIN};
        poll(&wait, 1, is_open ? 1 : 20);
        for (int round = 0; round < 8; round++) {
            int n = recvmmsg(sock, in, BATCH, MSG_DONTWAIT, NULL);
            if (n <= 0) break;
            for (int i = 0; i < n; i++) take(in_data[i], in[i].msg_len);
            if (n < BATCH) break;
        }
    }
    double took = is_open ? seconds : now - started;
    printf("{\"exchanges\": %lu, \"seconds\": %.4f, \"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"begun\": %zu, \"retries\": %lu, \"lost\": %lu, \"naks\": %lu, \"duplicates\": %lu, \"odd\": %lu, "
           "\"unsent\": %lu, \"sent\": %lu, \"replies\": %lu, \"cpu_seconds\": %.3f}\n",
           done_count, took, (double)done_count / took, percentile_ms(&latency, 50), percentile_ms(&latency, 99),
           begun, retries, lost, naks, duplicates, odd, unsent, sent_packets, replies, own_cpu());
    return 0;
}
