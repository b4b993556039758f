/* What the three generators share: the clock, sorted samples, options by name, sockets' addresses. */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* --name value */
static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strncmp(argv[i], "--", 2) && !strcmp(argv[i] + 2, name)) return argv[i + 1];
    if (!otherwise) {
        fprintf(stderr, "--%s is missing\n", name);
        exit(2);
    }
    return otherwise;
}

static inline struct sockaddr_in address(const char *ip, int port) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, ip, &where.sin_addr) != 1) {
        fprintf(stderr, "%s is no address\n", ip);
        exit(2);
    }
    return where;
}

typedef struct {
    float *values;
    size_t count, room;
} Samples;

static inline void sample(Samples *s, double value) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->values = realloc(s->values, s->room * sizeof *s->values);
        if (!s->values) die("realloc");
    }
    s->values[s->count++] = (float)value;
}

static inline int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Nearest rank; in milliseconds. -1 without samples. */
static inline double percentile_ms(Samples *s, double percent) {
    if (!s->count) return -1;
    qsort(s->values, s->count, sizeof *s->values, by_value);
    size_t rank = (size_t)(percent / 100.0 * (double)s->count);
    if (rank >= s->count) rank = s->count - 1;
    return 1e3 * (double)s->values[rank];
}

static inline double own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}
#endif
