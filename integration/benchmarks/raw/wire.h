// What both raw clients share: a blocking TCP socket, a clock, and percentiles printed as JSON.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Calls that are made before the measured ones, so that caches and the scheduler have settled.
enum { WARM_UP = 200, BUFFER = 1 << 16 };

typedef struct {
    int socket;
    size_t start, end; // unread bytes in buffer
    uint8_t buffer[BUFFER];
} Wire;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "unexpected answer");
    exit(1);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void pause_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&t, &t) && errno == EINTR) {
    }
}

static void wire_open(Wire *wire, const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int one = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    wire->socket = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(wire->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(wire->socket, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    wire->start = wire->end = 0;
}

static void wire_send(Wire *wire, const void *data, size_t size) {
    for (const uint8_t *p = data; size;) {
        ssize_t n = send(wire->socket, p, size, MSG_NOSIGNAL);
        if (n <= 0)
            fail("send");
        p += n;
        size -= (size_t)n;
    }
}

// `size` unread bytes, with one recv where the server sent them together.
static uint8_t *wire_peek(Wire *wire, size_t size) {
    if (size > BUFFER)
        fail("message larger than the buffer");
    if (wire->start + size > BUFFER) {
        memmove(wire->buffer, wire->buffer + wire->start, wire->end - wire->start);
        wire->end -= wire->start;
        wire->start = 0;
    }
    while (wire->end - wire->start < size) {
        ssize_t n = recv(wire->socket, wire->buffer + wire->end, BUFFER - wire->end, 0);
        if (n <= 0)
            fail("recv");
        wire->end += (size_t)n;
    }
    return wire->buffer + wire->start;
}

static void wire_skip(Wire *wire, size_t size) {
    wire->start += size;
    if (wire->start == wire->end)
        wire->start = wire->end = 0;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(double *us, int count, double value) {
    qsort(us, (size_t)count, sizeof *us, by_size);
    printf("{\"p50\": %.3f, \"p99\": %.3f, \"value\": %.17g}\n", us[count / 2], us[(int)(count * 0.99)], value);
}
