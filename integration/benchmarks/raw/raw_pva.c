// pvAccess over one blocking socket: what the network and the server alone cost.
//
//   raw_pva HOST PORT get PV COUNT GAP_US     one GET of value, alarm and timeStamp at a time
//
// Source: pvAccess protocol specification, chapters "Message structure" and "Application messages".
#include "wire.h"

enum {
    CONNECTION_VALIDATION = 1, CONNECTION_VALIDATED = 9, CREATE_CHANNEL = 7, GET = 10,
    MAGIC = 0xca, CONTROL = 0x01, INIT = 0x08, OK = 0xff, CHANNEL = 1, REQUEST = 7, HEADER = 8,
};

static Wire wire;

// A message is built here; integers are little endian, as announced in the header's flags.
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

static uint32_t open_channel(const char *pv) {
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

    start_message(CREATE_CHANNEL);
    add_short(1);
    add_int(CHANNEL);
    add_text(pv);
    send_message();
    const uint8_t *reply = receive(CREATE_CHANNEL);
    if (reply[8] != OK)
        fail("create channel");
    return take_int(reply + 4);
}

static void start_get(uint32_t sid) {
    const char *fields[] = {"value", "alarm", "timeStamp"};
    start_message(GET);
    add_int(sid);
    add_int(REQUEST);
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

    start_message(GET); // sent again and again
    add_int(sid);
    add_int(REQUEST);
    add_byte(0);
}

static double read_value(void) {
    send_message();
    const uint8_t *reply = receive(GET);
    if (take_int(reply) != REQUEST || reply[5] != OK)
        fail("get");
    double value; // behind request, subcommand, status and the bit set (a size byte and as many bytes)
    memcpy(&value, reply + 6 + 1 + reply[6], sizeof value);
    return value;
}

int main(int argc, char **argv) {
    if (argc < 7 || strcmp(argv[3], "get"))
        fail("usage: raw_pva HOST PORT get PV COUNT GAP_US");
    int count = atoi(argv[5]);
    long gap = atol(argv[6]);
    double *us = calloc((size_t)count, sizeof *us), value = 0;
    wire_open(&wire, argv[1], argv[2]);
    start_get(open_channel(argv[4]));
    for (int i = gap ? 0 : -WARM_UP; i < count; i++) {
        if (gap)
            pause_us(gap);
        double start = now_us();
        value = read_value();
        if (i >= 0)
            us[i] = now_us() - start;
    }
    print_percentiles(us, count, value);
    return 0;
}
