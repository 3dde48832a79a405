/*
 * The ceiling: what a worker has to do at the very least, in bare C. uws4r is measured as a ratio to it.
 *
 *     ceiling PORT REDIS_PORT
 *
 * GET /ws/NAME is answered with 101 and listens to the Redis channel broadcast:NAME; what a client sends is published
 * there. The first listener of a channel subscribes, the last one unsubscribes. One connection to Redis; a message is
 * framed once; all frames that one turn brought for a client go out in one send. No checks of what clients send, no
 * rules on duplicates, no timers, no limits, no log: a program to measure, not to use. 127.0.0.1 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINK_ROOM (1 << 20) /* bytes that one turn reads from Redis */
#define BUCKETS (1 << 16)   /* of the table of channels */
#define INPUT_ROOM (1 << 20)

struct buffer {
    uint8_t *data;
    size_t size, room;
};

struct channel {
    struct channel *next; /* in its bucket */
    struct client **listeners;
    uint32_t count, room;
    struct buffer batch; /* the frames of this turn */
    size_t name_size;
    char name[];
};

struct client {
    int fd;
    uint32_t index; /* among the channel's listeners */
    struct channel *channel; /* NULL before the handshake */
    struct buffer backlog; /* what the kernel did not take */
    struct buffer input; /* an unfinished head or frame */
};

static struct channel *buckets[BUCKETS];
static struct channel **touched; /* those with a batch */
static size_t touched_count, touched_room;
static struct buffer to_redis, from_redis;
static bool redis_blocked;
static int epoll, redis_fd, listener;
static uint8_t scratch[INPUT_ROOM];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *sure(void *memory)
{
    if (memory == NULL)
        fail("malloc");
    return memory;
}

static uint8_t *reserve(struct buffer *buffer, size_t size)
{
    if (buffer->size + size > buffer->room) {
        buffer->room = 2 * (buffer->size + size);
        buffer->data = sure(realloc(buffer->data, buffer->room));
    }
    return buffer->data + buffer->size;
}

static void append(struct buffer *buffer, const void *data, size_t size)
{
    memcpy(reserve(buffer, size), data, size);
    buffer->size += size;
}

static void drop_front(struct buffer *buffer, size_t size)
{
    buffer->size -= size;
    memmove(buffer->data, buffer->data + size, buffer->size);
}

static void release(struct buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

static void watch(int fd, int operation, uint32_t events, void *tag)
{
    struct epoll_event event = {.events = events, .data.ptr = tag};
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        fail("epoll_ctl");
}

/* ---------------------------------------------------------------- Redis, RESP3 on one connection */

static void command(const char *verb, const char *name, size_t name_size, const uint8_t *data, ssize_t size)
{
    char head[64];
    append(&to_redis, head, snprintf(head, sizeof head, "*%d\r\n$%zu\r\n%s\r\n$%zu\r\n", size < 0 ? 2 : 3, strlen(verb), verb, name_size));
    append(&to_redis, name, name_size);
    append(&to_redis, "\r\n", 2);
    if (size >= 0) {
        append(&to_redis, head, snprintf(head, sizeof head, "$%zd\r\n", size));
        append(&to_redis, data, size);
        append(&to_redis, "\r\n", 2);
    }
}

static void write_redis(void)
{
    if (to_redis.size && !redis_blocked) {
        ssize_t sent = send(redis_fd, to_redis.data, to_redis.size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            fail("Redis");
        if (sent > 0)
            drop_front(&to_redis, sent);
        redis_blocked = to_redis.size > 0;
        if (redis_blocked)
            watch(redis_fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT, &redis_fd);
    }
}

static uint32_t bucket_of(const char *name, size_t size)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return hash % BUCKETS;
}

static struct channel **find(const char *name, size_t size)
{
    struct channel **at = &buckets[bucket_of(name, size)];
    while (*at && ((*at)->name_size != size || memcmp((*at)->name, name, size)))
        at = &(*at)->next;
    return at;
}

static void message(const char *name, size_t name_size, const uint8_t *data, size_t size)
{
    struct channel *channel = *find(name, name_size);
    uint8_t head[10] = {0x81};
    int head_size = 2;
    if (channel == NULL)
        return;
    if (channel->batch.size == 0) {
        if (touched_count == touched_room) {
            touched_room = touched_room ? 2 * touched_room : 64;
            touched = sure(realloc(touched, touched_room * sizeof *touched));
        }
        touched[touched_count++] = channel;
    }
    if (size < 126) {
        head[1] = size;
    } else if (size < 65536) {
        head[1] = 126;
        head[2] = size >> 8;
        head[3] = size;
        head_size = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (uint64_t)size >> (56 - 8 * i);
        head_size = 10;
    }
    append(&channel->batch, head, head_size);
    append(&channel->batch, data, size);
}

/* One value of RESP3 at `at`: returns what follows it, NULL if it is not whole. A string is noted in `string`. */
static const uint8_t *value(const uint8_t *at, const uint8_t *end, const uint8_t **string, size_t *size)
{
    const uint8_t *line = memchr(at, '\n', end - at);
    long number;
    if (line == NULL)
        return NULL;
    number = strtol((const char *)at + 1, NULL, 10);
    line++;
    switch (*at) {
    case '$':
        if (number < 0)
            return line;
        if (end - line < number + 2)
            return NULL;
        *string = line;
        *size = number;
        return line + number + 2;
    case '%':
        number *= 2; /* fall through */
    case '*':
    case '>':
        for (; number > 0 && line; number--)
            line = value(line, end, string, size);
        return line;
    case '-':
        fprintf(stderr, "Redis: %.*s", (int)(line - at), at);
        exit(1);
    default:
        return line;
    }
}

static void read_redis(void)
{
    while (from_redis.size < LINK_ROOM) {
        size_t room = LINK_ROOM - from_redis.size;
        ssize_t size = recv(redis_fd, reserve(&from_redis, room), room, MSG_DONTWAIT);
        if (size == 0 || (size < 0 && errno != EAGAIN))
            fail("Redis");
        if (size < 0)
            break;
        from_redis.size += size;
        if ((size_t)size < room)
            break;
    }
    const uint8_t *at = from_redis.data, *end = at + from_redis.size, *next;
    while (at < end) {
        const uint8_t *kind = NULL, *name = NULL, *data = NULL;
        size_t kind_size = 0, name_size = 0, size = 0;
        if (*at == '>' && end - at > 4 && at[1] == '3') {
            if ((next = value(at + 4, end, &kind, &kind_size)) == NULL || next == end ||
                (next = value(next, end, &name, &name_size)) == NULL || next == end ||
                (next = value(next, end, &data, &size)) == NULL)
                break;
            if (kind_size == 7 && memcmp(kind, "message", 7) == 0)
                message((const char *)name, name_size, data, size);
        } else if ((next = value(at, end, &data, &size)) == NULL) {
            break;
        }
        at = next;
    }
    drop_front(&from_redis, at - from_redis.data);
    if (from_redis.size == LINK_ROOM) {
        fprintf(stderr, "a message is longer than %d bytes\n", LINK_ROOM);
        exit(1);
    }
}

/* ---------------------------------------------------------------- clients */

static void join(struct client *client, const char *name, size_t name_size)
{
    static const char prefix[] = "broadcast:";
    char full[512];
    size_t size = sizeof prefix - 1 + name_size;
    if (size > sizeof full)
        return;
    memcpy(full, prefix, sizeof prefix - 1);
    memcpy(full + sizeof prefix - 1, name, name_size);
    struct channel **at = find(full, size), *channel = *at;
    if (channel == NULL) {
        channel = *at = sure(calloc(1, sizeof *channel + size));
        channel->name_size = size;
        memcpy(channel->name, full, size);
        command("SUBSCRIBE", full, size, NULL, -1);
    }
    if (channel->count == channel->room) {
        channel->room = channel->room ? 2 * channel->room : 1;
        channel->listeners = sure(realloc(channel->listeners, channel->room * sizeof *channel->listeners));
    }
    client->channel = channel;
    client->index = channel->count;
    channel->listeners[channel->count++] = client;
}

static void leave(struct client *client)
{
    struct channel *channel = client->channel;
    if (channel == NULL)
        return;
    struct client *last = channel->listeners[--channel->count];
    channel->listeners[client->index] = last;
    last->index = client->index;
    if (channel->count == 0) {
        command("UNSUBSCRIBE", channel->name, channel->name_size, NULL, -1);
        for (size_t i = 0; i < touched_count; i++)
            if (touched[i] == channel)
                touched[i] = touched[--touched_count];
        *find(channel->name, channel->name_size) = channel->next;
        release(&channel->batch);
        free(channel->listeners);
        free(channel);
    }
}

static void drop(struct client *client)
{
    leave(client);
    close(client->fd);
    release(&client->backlog);
    release(&client->input);
    free(client);
}

static void write_client(struct client *client, const uint8_t *data, size_t size)
{
    if (client->backlog.size == 0) {
        ssize_t sent = send(client->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return; /* its end comes as an event */
        if (sent > 0) {
            data += sent;
            size -= sent;
        }
        if (size)
            watch(client->fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT, client);
    }
    if (size)
        append(&client->backlog, data, size);
}

static void write_backlog(struct client *client)
{
    ssize_t sent = send(client->fd, client->backlog.data, client->backlog.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0)
        drop_front(&client->backlog, sent);
    if (client->backlog.size == 0) {
        release(&client->backlog);
        watch(client->fd, EPOLL_CTL_MOD, EPOLLIN, client);
    }
}

/* SHA-1 of a message that is shorter than two blocks (FIPS 180-4). */
static void sha1(const uint8_t *data, size_t size, uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    uint8_t blocks[128] = {0};
    size_t whole = size < 56 ? 64 : 128;
    memcpy(blocks, data, size);
    blocks[size] = 0x80;
    blocks[whole - 2] = size * 8 >> 8;
    blocks[whole - 1] = size * 8;
#define ROL(x, n) ((x) << (n) | (x) >> (32 - (n)))
    for (const uint8_t *block = blocks; block < blocks + whole; block += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
        for (int i = 16; i < 80; i++)
            w[i] = ROL(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], t;
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
            static const uint32_t k[4] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
            t = ROL(a, 5) + f + e + k[i / 20] + w[i];
            e = d, d = c, c = ROL(b, 30), b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static void base64(const uint8_t *data, size_t size, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        uint32_t three = data[i] << 16 | (i + 1 < size ? data[i + 1] << 8 : 0) | (i + 2 < size ? data[i + 2] : 0);
        *out++ = digits[three >> 18];
        *out++ = digits[three >> 12 & 63];
        *out++ = i + 1 < size ? digits[three >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[three & 63] : '=';
    }
    *out = 0;
}

/* The head of a request is whole: answer it. Returns false where it is no handshake. */
static bool handshake(struct client *client, const char *head)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455 §1.3 */
    const char *key = strcasestr(head, "\r\nSec-WebSocket-Key:");
    uint8_t text[60], digest[20];
    char accept[32], answer[256];
    if (strncmp(head, "GET /ws/", 8) || key == NULL)
        return false;
    key += 20;
    key += strspn(key, " ");
    memcpy(text, key, 24);
    memcpy(text + 24, guid, 36);
    sha1(text, 60, digest);
    base64(digest, 20, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    write_client(client, (uint8_t *)answer, size);
    join(client, head + 8, strcspn(head + 8, "? "));
    return client->channel != NULL;
}

/* One frame of a client: returns its size, 0 if it is not whole, -1 at the end. */
static ssize_t frame(struct client *client, uint8_t *at, size_t size)
{
    uint64_t length;
    size_t head = 6;
    if (size < 6)
        return 0;
    length = at[1] & 127;
    if (length == 126) {
        length = at[2] << 8 | at[3];
        head = 8;
    } else if (length == 127) {
        if (size < 14)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | at[i];
        head = 14;
    }
    if (length > INPUT_ROOM - 14)
        return -1;
    if (size < head + length)
        return 0;
    uint8_t *key = at + head - 4, *payload = at + head;
    for (size_t i = 0; i < length; i++)
        payload[i] ^= key[i & 3];
    switch (at[0] & 15) {
    case 1:
    case 2:
        command("PUBLISH", client->channel->name, client->channel->name_size, payload, length);
        break;
    case 8:
        return -1;
    case 9:
        payload[-2] = 0x8a;
        payload[-1] = length;
        write_client(client, payload - 2, length + 2);
    }
    return head + length;
}

static void read_client(struct client *client)
{
    memcpy(scratch, client->input.data, client->input.size);
    ssize_t size = recv(client->fd, scratch + client->input.size, sizeof scratch - 1 - client->input.size, MSG_DONTWAIT);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN)
            drop(client);
        return;
    }
    size += client->input.size;
    client->input.size = 0;
    ssize_t at = 0, used = 1;
    if (client->channel == NULL) {
        scratch[size] = 0;
        char *end = strstr((char *)scratch, "\r\n\r\n");
        if (end != NULL && !handshake(client, (char *)scratch)) {
            drop(client);
            return;
        }
        at = end == NULL ? 0 : end + 4 - (char *)scratch;
    }
    if (client->channel != NULL)
        for (; at < size && (used = frame(client, scratch + at, size - at)) > 0; at += used)
            ;
    if (used < 0)
        drop(client);
    else if (at < size)
        append(&client->input, scratch + at, size - at);
    else
        release(&client->input);
}

static void accept_clients(void)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *client = sure(calloc(1, sizeof *client));
        client->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd, EPOLL_CTL_ADD, EPOLLIN, client);
    }
}

static void send_batches(void)
{
    for (size_t i = 0; i < touched_count; i++) {
        struct channel *channel = touched[i];
        for (uint32_t k = 0; k < channel->count; k++)
            write_client(channel->listeners[k], channel->batch.data, channel->batch.size);
        channel->batch.size = 0;
    }
    touched_count = 0;
}

int main(int count, char **arguments)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit limit;
    int on = 1;
    if (count != 3) {
        fprintf(stderr, "usage: ceiling PORT REDIS_PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(EPOLL_CLOEXEC);

    address.sin_port = htons(atoi(arguments[2]));
    redis_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(redis_fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("Redis");
    setsockopt(redis_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(redis_fd, EPOLL_CTL_ADD, EPOLLIN, &redis_fd);
    append(&to_redis, "HELLO 3\r\n", 9);

    address.sin_port = htons(atoi(arguments[1]));
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0)
        fail("listen");
    watch(listener, EPOLL_CTL_ADD, EPOLLIN, &listener);

    write_redis();
    for (;;) {
        static struct epoll_event events[1024];
        int ready = epoll_wait(epoll, events, 1024, -1);
        for (int i = 0; i < ready; i++) {
            void *tag = events[i].data.ptr;
            if (tag == &listener) {
                accept_clients();
            } else if (tag == &redis_fd) {
                if (events[i].events & EPOLLOUT) {
                    redis_blocked = false;
                    watch(redis_fd, EPOLL_CTL_MOD, EPOLLIN, &redis_fd);
                }
                if (events[i].events & ~EPOLLOUT)
                    read_redis();
            } else {
                struct client *client = tag;
                if (events[i].events & EPOLLOUT)
                    write_backlog(client);
                if (events[i].events & ~EPOLLOUT)
                    read_client(client);
            }
        }
        write_redis();
        send_batches();
    }
}
