// Channel Access over one blocking socket: what the network and the server alone cost.
//
//   raw_ca HOST PORT get PV COUNT GAP_US      one READ_NOTIFY at a time, GAP_US of sleep between two
//   raw_ca HOST PORT put PV COUNT             one WRITE_NOTIFY at a time
//   raw_ca HOST PORT puts PV COUNT FIRST      WRITE of FIRST, FIRST + 1, ..., then one READ_NOTIFY behind them
//   raw_ca HOST PORT write PV RATE SECONDS    the source of the monitor rows; RATE 0: as fast as the server reads
//   raw_ca HOST PORT monitor PV SECONDS       count the updates
//   raw_ca HOST PORT bulk PV COUNT CALLS      READ_NOTIFY of PV0, PV1, ... without waiting for one another
//
// Source: Channel Access protocol specification, chapters "Commands" and "Data types".
#include "wire.h"

enum {
    VERSION = 0, EVENT_ADD = 1, WRITE = 4, READ_NOTIFY = 15, CREATE_CHAN = 18, WRITE_NOTIFY = 19, CLIENT_NAME = 20,
    HOST_NAME = 21,
    MINOR_VERSION = 13, DBR_DOUBLE = 6, DBR_TIME_DOUBLE = 20, DBE_VALUE_ALARM = 5, ECA_NORMAL = 1,
    CHANNEL = 1, REQUEST = 7, BATCH = 64, CHUNK = 1024,
};

typedef struct {
    uint16_t command, size, type, count;
    uint32_t first, second;
} Header;

typedef struct {
    Header header;
    uint64_t value;
} __attribute__((packed)) WriteFrame;

typedef struct {
    double value;
    uint32_t seconds, nanoseconds;
    uint16_t status, severity;
} Reading;

static Wire wire;

static Header header(int command, size_t size, int type, int count, uint32_t first, uint32_t second) {
    return (Header){htons((uint16_t)command), htons((uint16_t)size), htons((uint16_t)type), htons((uint16_t)count),
                    htonl(first), htonl(second)};
}

static void send_text(int command, const char *text, uint32_t first, uint32_t second) {
    uint8_t frame[256] = {0};
    size_t size = (strlen(text) + 8) / 8 * 8; // with its NUL, in steps of 8
    if (sizeof(Header) + size > sizeof frame)
        fail("name too long");
    Header head = header(command, size, 0, 0, first, second);
    memcpy(frame, &head, sizeof head);
    memcpy(frame + sizeof head, text, strlen(text));
    wire_send(&wire, frame, sizeof head + size);
}

// The next message of one kind in host byte order; its payload stays readable until the next call.
static Header receive(int command, const uint8_t **payload) {
    for (;;) {
        Header head;
        memcpy(&head, wire_peek(&wire, sizeof head), sizeof head);
        size_t size = ntohs(head.size);
        *payload = wire_peek(&wire, sizeof head + size) + sizeof head;
        wire_skip(&wire, sizeof head + size);
        if (ntohs(head.command) == command)
            return (Header){ntohs(head.command), ntohs(head.size), ntohs(head.type), ntohs(head.count),
                            ntohl(head.first), ntohl(head.second)};
    }
}

static void open_circuit(void) {
    Header version = header(VERSION, 0, 0, MINOR_VERSION, 0, 0);
    wire_send(&wire, &version, sizeof version);
    send_text(CLIENT_NAME, "raw", 0, 0);
    send_text(HOST_NAME, "localhost", 0, 0);
}

static uint32_t open_channel(const char *pv) {
    const uint8_t *payload;
    send_text(CREATE_CHAN, pv, CHANNEL, MINOR_VERSION);
    return receive(CREATE_CHAN, &payload).second;
}

// The server's numbers of PV0, PV1, ...
static uint32_t *open_many(const char *pv, int count) {
    uint32_t *sids = calloc((size_t)count, sizeof *sids);
    const uint8_t *payload;
    char name[128];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s%d", pv, i);
        send_text(CREATE_CHAN, name, (uint32_t)i, MINOR_VERSION);
        Header reply = receive(CREATE_CHAN, &payload);
        sids[reply.first] = reply.second;
    }
    return sids;
}

// status, severity, seconds, nanoseconds, padding; the value
static Reading decode(const uint8_t *payload) {
    struct { uint16_t status, severity; uint32_t seconds, nanoseconds, padding; uint64_t value; } wire_form;
    memcpy(&wire_form, payload, sizeof wire_form);
    Reading reading = {0, ntohl(wire_form.seconds), ntohl(wire_form.nanoseconds), ntohs(wire_form.status),
                       ntohs(wire_form.severity)};
    uint64_t bits = be64toh(wire_form.value);
    memcpy(&reading.value, &bits, sizeof bits);
    return reading;
}

static double read_value(uint32_t sid) {
    const uint8_t *payload;
    Header request = header(READ_NOTIFY, 0, DBR_TIME_DOUBLE, 1, sid, REQUEST);
    wire_send(&wire, &request, sizeof request);
    Header reply = receive(READ_NOTIFY, &payload);
    if (reply.first != ECA_NORMAL || reply.second != REQUEST || reply.size < 24)
        fail("read");
    return decode(payload).value;
}

static void read_many(const uint32_t *sids, int count, Reading *readings) {
    const uint8_t *payload;
    for (int sent = 0, received = 0; received < count; received++) {
        // Two chunks at most are unanswered: the sockets' buffers hold them, so that neither side waits in send.
        if (sent < count && sent - received <= CHUNK) {
            Header requests[CHUNK];
            int chunk = count - sent < CHUNK ? count - sent : CHUNK;
            for (int i = 0; i < chunk; i++)
                requests[i] = header(READ_NOTIFY, 0, DBR_TIME_DOUBLE, 1, sids[sent + i], (uint32_t)(sent + i));
            wire_send(&wire, requests, (size_t)chunk * sizeof *requests);
            sent += chunk;
        }
        Header reply = receive(READ_NOTIFY, &payload);
        if (reply.first != ECA_NORMAL || reply.second >= (uint32_t)count || reply.size < 24)
            fail("read");
        readings[reply.second] = decode(payload);
    }
}

static WriteFrame write_frame(int command, uint32_t sid, double value) {
    WriteFrame frame = {header(command, sizeof(double), DBR_DOUBLE, 1, sid, REQUEST), 0};
    memcpy(&frame.value, &value, sizeof value);
    frame.value = htobe64(frame.value);
    return frame;
}

static void write_and_wait(uint32_t sid, double value) {
    const uint8_t *payload;
    WriteFrame frame = write_frame(WRITE_NOTIFY, sid, value);
    wire_send(&wire, &frame, sizeof frame);
    if (receive(WRITE_NOTIFY, &payload).first != ECA_NORMAL)
        fail("write");
}

static void write_many(uint32_t sid, int count, double first) {
    WriteFrame frames[BATCH];
    for (int done = 0; done < count;) {
        int batch = count - done < BATCH ? count - done : BATCH;
        for (int i = 0; i < batch; i++)
            frames[i] = write_frame(WRITE, sid, first + done + i);
        wire_send(&wire, frames, (size_t)batch * sizeof *frames);
        done += batch;
    }
}

static void get(uint32_t sid, int count, long gap) {
    double *us = calloc((size_t)count, sizeof *us), value = 0;
    for (int i = gap ? 0 : -WARM_UP; i < count; i++) {
        if (gap)
            pause_us(gap);
        double start = now_us();
        value = read_value(sid);
        if (i >= 0)
            us[i] = now_us() - start;
    }
    print_percentiles(us, count, value);
}

static void bulk(const char *pv, int count, int calls) {
    uint32_t *sids = open_many(pv, count);
    Reading *readings = calloc((size_t)count, sizeof *readings);
    double *us = calloc((size_t)calls, sizeof *us);
    for (int i = -1; i < calls; i++) {
        double start = now_us();
        read_many(sids, count, readings);
        if (i >= 0)
            us[i] = (now_us() - start) / count;
    }
    print_percentiles(us, calls, readings[count - 1].value);
}

static void put(uint32_t sid, int count) {
    double *us = calloc((size_t)count, sizeof *us);
    for (int i = -WARM_UP; i < count; i++) {
        double start = now_us();
        write_and_wait(sid, i);
        if (i >= 0)
            us[i] = now_us() - start;
    }
    print_percentiles(us, count, read_value(sid));
}

static void puts_in_order(uint32_t sid, int count, double first) {
    double start = now_us();
    write_many(sid, count, first);
    double value = read_value(sid); // the server serves one circuit in order
    printf("{\"per_second\": %.1f, \"value\": %.17g}\n", count / (now_us() - start) * 1e6, value);
}

static void write_steadily(uint32_t sid, double rate, double seconds) {
    const double shortest_pause = 100;
    double start = now_us(), now;
    long sent = 0;
    while ((now = now_us()) - start < seconds * 1e6) {
        long due = rate > 0 ? (long)((now - start) / 1e6 * rate) - sent : BATCH;
        if (due > 0)
            write_many(sid, (int)due, (double)(sent + 1));
        sent += due;
        if (rate > 0) {
            double pause = start + (double)(sent + 1) / rate * 1e6 - now_us();
            pause_us((long)(pause > shortest_pause ? pause : shortest_pause));
        }
    }
    read_value(sid);
    printf("{\"per_second\": %.1f}\n", (double)sent / (now_us() - start) * 1e6);
}

static void monitor(uint32_t sid, double seconds) {
    struct { Header header; uint32_t low, high, to; uint16_t mask, padding; } request = {
        header(EVENT_ADD, 16, DBR_TIME_DOUBLE, 1, sid, REQUEST), 0, 0, 0, htons(DBE_VALUE_ALARM), 0};
    const uint8_t *payload;
    wire_send(&wire, &request, sizeof request);
    receive(EVENT_ADD, &payload);
    double start = now_us(), now = start;
    long updates = 0;
    for (; now - start < seconds * 1e6; updates++) {
        receive(EVENT_ADD, &payload);
        now = now_us();
    }
    printf("{\"per_second\": %.1f}\n", updates / (now - start) * 1e6);
}

int main(int argc, char **argv) {
    if (argc < 6)
        fail("usage: raw_ca HOST PORT get|put|puts|write|monitor|bulk PV ...");
    const char *task = argv[3];
    double first = atof(argv[5]), second = argc > 6 ? atof(argv[6]) : 0;
    wire_open(&wire, argv[1], argv[2]);
    open_circuit();
    if (!strcmp(task, "bulk")) {
        bulk(argv[4], (int)first, (int)second);
        return 0;
    }
    uint32_t sid = open_channel(argv[4]);
    if (!strcmp(task, "get"))
        get(sid, (int)first, (long)second);
    else if (!strcmp(task, "put"))
        put(sid, (int)first);
    else if (!strcmp(task, "puts"))
        puts_in_order(sid, (int)first, second);
    else if (!strcmp(task, "write"))
        write_steadily(sid, first, second);
    else if (!strcmp(task, "monitor"))
        monitor(sid, first);
    else
        fail(task);
    return 0;
}
