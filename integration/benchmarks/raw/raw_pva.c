// pvAccess over one blocking socket: what the network and the server alone cost.
//
//   raw_pva HOST PORT get PV COUNT GAP_US     one GET of value, alarm and timeStamp at a time
//   raw_pva HOST PORT bulk PV COUNT CALLS     GET of PV0, PV1, ... without waiting for one another
//
// Source: pvAccess protocol specification, chapters "Message structure" and "Application messages".
#include "wire.h"

enum {
    CONNECTION_VALIDATION = 1, CONNECTION_VALIDATED = 9, CREATE_CHANNEL = 7, GET = 10,
    MAGIC = 0xca, CONTROL = 0x01, INIT = 0x08, OK = 0xff, HEADER = 8, CHUNK = 1024,
};

// Sent again and again; integers are little endian, as announced in the header's flags.
typedef struct {
    uint8_t magic, version, flags, command;
    uint32_t size, sid, ioid;
    uint8_t subcommand;
} __attribute__((packed)) GetRequest;

static Wire wire;

// Other messages are built here.
static struct {
    size_t size;
    uint8_t bytes[512];
} message;

static void add(const void *data, size_t size) {
    if (message.size + size > sizeof message.bytes)
        fail("name too long");
    memcpy(message.bytes + message.size, data, size);
    message.size += size;
}
static void add_byte(uint8_t value) { add(&value, 1); }
static void add_short(uint16_t value) { add(&(uint16_t){htole16(value)}, 2); }
static void add_int(uint32_t value) { add(&(uint32_t){htole32(value)}, 4); }
static void add_text(const char *text) {
    add_byte((uint8_t)strlen(text));
    add(text, strlen(text));
}
static void add_structure(uint8_t fields) { // an unnamed structure with so many fields
    add_byte(0x80);
    add_text("");
    add_byte(fields);
}

static void start_message(uint8_t command) {
    message.size = 0;
    add((uint8_t[]){MAGIC, 2, 0x00, command}, 4);
    add_int(0);
}

static void send_message(void) {
    uint32_t size = htole32((uint32_t)(message.size - HEADER));
    memcpy(message.bytes + 4, &size, 4);
    wire_send(&wire, message.bytes, message.size);
}

static uint32_t take_int(const uint8_t *bytes) {
    uint32_t value;
    memcpy(&value, bytes, 4);
    return le32toh(value);
}

// The payload of the next message of one kind, readable until the next call.
static const uint8_t *receive(uint8_t command) {
    for (;;) {
        uint8_t *head = wire_peek(&wire, HEADER);
        uint8_t flags = head[2], kind = head[3];
        if (head[0] != MAGIC || (flags & 0x80))
            fail("a big endian server");
        size_t size = flags & CONTROL ? 0 : take_int(head + 4);
        const uint8_t *payload = wire_peek(&wire, HEADER + size) + HEADER;
        wire_skip(&wire, HEADER + size);
        if (kind == command && !(flags & CONTROL))
            return payload;
    }
}

static void open_connection(void) {
    receive(CONNECTION_VALIDATION);
    start_message(CONNECTION_VALIDATION);
    add_int(BUFFER);
    add_short(0x7fff); // introspection registry
    add_short(0);      // quality of service
    add_text("anonymous");
    add_byte(0xff); // no authentication data
    send_message();
    if (receive(CONNECTION_VALIDATED)[0] != OK)
        fail("connection validation");
}

// The server's number of a new channel, which has the client's number `cid`.
static uint32_t open_channel(const char *pv, uint32_t cid) {
    start_message(CREATE_CHANNEL);
    add_short(1);
    add_int(cid);
    add_text(pv);
    send_message();
    const uint8_t *reply = receive(CREATE_CHANNEL);
    if (reply[8] != OK)
        fail("create channel");
    return take_int(reply + 4);
}

// The request that reads a PV; `ioid` is the client's number of channel and request.
static GetRequest start_get(const char *pv, uint32_t ioid) {
    const char *fields[] = {"value", "alarm", "timeStamp"};
    uint32_t sid = open_channel(pv, ioid);
    start_message(GET);
    add_int(sid);
    add_int(ioid);
    add_byte(INIT);
    add_structure(1);
    add_text("field");
    add_structure(3);
    for (int i = 0; i < 3; i++) {
        add_text(fields[i]);
        add_structure(0);
    }
    send_message();
    if (receive(GET)[5] != OK)
        fail("get init");
    return (GetRequest){MAGIC, 2, 0, GET, htole32(sizeof(GetRequest) - HEADER), htole32(sid), htole32(ioid), 0};
}

static double receive_value(uint32_t *ioid) {
    const uint8_t *reply = receive(GET);
    if (reply[5] != OK)
        fail("get");
    *ioid = take_int(reply);
    double value; // behind request, subcommand, status and the bit set (a size byte and as many bytes)
    memcpy(&value, reply + 6 + 1 + reply[6], sizeof value);
    return value;
}

static void get(const char *pv, int count, long gap) {
    GetRequest request = start_get(pv, 1);
    double *us = calloc((size_t)count, sizeof *us), value = 0;
    uint32_t ioid;
    for (int i = gap ? 0 : -WARM_UP; i < count; i++) {
        if (gap)
            pause_us(gap);
        double start = now_us();
        wire_send(&wire, &request, sizeof request);
        value = receive_value(&ioid);
        if (ioid != 1)
            fail("get");
        if (i >= 0)
            us[i] = now_us() - start;
    }
    print_percentiles(us, count, value);
}

static void read_many(const GetRequest *requests, int count, double *values) {
    for (int sent = 0, received = 0; received < count; received++) {
        // Two chunks at most are unanswered: the sockets' buffers hold them, so that neither side waits in send.
        if (sent < count && sent - received <= CHUNK) {
            int chunk = count - sent < CHUNK ? count - sent : CHUNK;
            wire_send(&wire, requests + sent, (size_t)chunk * sizeof *requests);
            sent += chunk;
        }
        uint32_t ioid;
        double value = receive_value(&ioid);
        if (ioid >= (uint32_t)count)
            fail("get");
        values[ioid] = value;
    }
}

static void bulk(const char *pv, int count, int calls) {
    GetRequest *requests = calloc((size_t)count, sizeof *requests);
    double *values = calloc((size_t)count, sizeof *values), *us = calloc((size_t)calls, sizeof *us);
    char name[128];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s%d", pv, i);
        requests[i] = start_get(name, (uint32_t)i);
    }
    for (int i = -1; i < calls; i++) {
        double start = now_us();
        read_many(requests, count, values);
        if (i >= 0)
            us[i] = (now_us() - start) / count;
    }
    print_percentiles(us, calls, values[count - 1]);
}

int main(int argc, char **argv) {
    if (argc < 7)
        fail("usage: raw_pva HOST PORT get|bulk PV ...");
    wire_open(&wire, argv[1], argv[2]);
    open_connection();
    if (!strcmp(argv[3], "get"))
        get(argv[4], atoi(argv[5]), atol(argv[6]));
    else if (!strcmp(argv[3], "bulk"))
        bulk(argv[4], atoi(argv[5]), atoi(argv[6]));
    else
        fail(argv[3]);
    return 0;
}
