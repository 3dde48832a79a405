/* One websocket of a client: it connects, shakes hands, and hands over what it receives. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

const struct options *told;
int epoll;
uint64_t clock_now;
struct histogram handshakes;
uint32_t open_count;
uint64_t pings;

/* ---------------------------------------------------------------- small tools */

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

void *sure(void *memory)
{
    if (memory == NULL)
        fail("no memory");
    return memory;
}

void append(struct buffer *buffer, const void *data, size_t size)
{
    if (buffer->size + size > buffer->room) {
        buffer->room = 2 * (buffer->size + size);
        buffer->data = sure(realloc(buffer->data, buffer->room));
    }
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

void drop_front(struct buffer *buffer, size_t size)
{
    buffer->size -= size;
    if (size && buffer->size)
        memmove(buffer->data, buffer->data + size, buffer->size);
}

void release(struct buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

char *numbered(const char *pattern, uint32_t number)
{
    const char *at = strstr(pattern, "{i}");
    char *text;
    if (at == NULL)
        return sure(strdup(pattern));
    if (asprintf(&text, "%.*s%u%s", (int)(at - pattern), pattern, number, at + 3) < 0)
        fail("no memory");
    return text;
}

void watch(int fd, int operation, uint32_t events, void *tag)
{
    struct epoll_event event = {.events = events, .data.ptr = tag};
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

int dial(const char *host, const char *port)
{
    static struct addrinfo *found; /* looked up once */
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int fd, on = 1, error;
    if (found == NULL && (error = getaddrinfo(host, port, &hints, &found)) != 0)
        fail("%s: %s", host, gai_strerror(error));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS)
        fail("cannot connect to %s:%s: %s", host, port, strerror(errno));
    return fd;
}

/* ---------------------------------------------------------------- a client */

/* The key of RFC 6455 §1.3 and its answer: it is the server that is to be measured. */
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==", answer[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

void client_open(struct client *client, const char *pattern)
{
    char *path = numbered(pattern, client->number), *request;
    const char *cookie = told->cookie_count ? told->cookies[client->number % told->cookie_count] : NULL;
    int size = asprintf(&request,
                        "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s%s%s%s\r\n",
                        path, told->host, told->port, key, cookie ? "Cookie: " : "", cookie ? cookie : "",
                        cookie ? "\r\n" : "", told->headers ? told->headers : "");
    if (size < 0)
        fail("no memory");
    client->began = now_ns();
    client->fd = dial(told->host, told->port);
    client->state = CONNECTING;
    client->slow = false;
    append(&client->output, request, size);
    free(request);
    free(path);
    watch(client->fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, client);
}

static void flush(struct client *client)
{
    while (client->output.size) {
        ssize_t sent = send(client->fd, client->output.data, client->output.size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return; /* EPOLLOUT or the end comes as an event */
        drop_front(&client->output, sent);
    }
    release(&client->output);
}

void client_send(struct client *client, uint8_t opcode, const uint8_t *payload, size_t size)
{
    static uint32_t random = 2463534242u;
    uint8_t head[14] = {0x80 | opcode}, piece[4096];
    size_t head_size = 2;
    if (size < 126) {
        head[1] = 0x80 | size;
    } else if (size < 65536) {
        head[1] = 0x80 | 126;
        head[2] = size >> 8;
        head[3] = size;
        head_size = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (uint64_t)size >> (56 - 8 * i);
        head_size = 10;
    }
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    memcpy(head + head_size, &random, 4);
    append(&client->output, head, head_size + 4);
    for (size_t at = 0; at < size;) {
        size_t count = size - at < sizeof piece ? size - at : sizeof piece;
        for (size_t i = 0; i < count; i++)
            piece[i] = payload[at + i] ^ head[head_size + (i & 3)];
        append(&client->output, piece, count);
        at += count;
    }
    if (client->state == OPEN)
        flush(client);
}

void client_close(struct client *client)
{
    if (client->state == CLOSED)
        return;
    close(client->fd);
    if (client->state == OPEN && !client->churn)
        open_count--;
    client->state = CLOSED;
    release(&client->output);
    release(&client->rest);
    release(&client->fragments);
}

static void refused(struct client *client, const char *why)
{
    static int said;
    failures.refused++;
    if (said++ < 3)
        fprintf(stderr, "load: a handshake was refused: %s\n", why);
    client_close(client);
}

/* The head of the answer may be whole now: returns what follows it, NULL if it is not. */
static const uint8_t *shaken(struct client *client, const uint8_t *data, size_t size, size_t *left)
{
    append(&client->rest, data, size);
    append(&client->rest, "", 1);
    client->rest.size--;
    char *head = (char *)client->rest.data, *end = strstr(head, "\r\n\r\n");
    if (end == NULL)
        return NULL;
    *end = 0;
    char *accept = strcasestr(head, "\r\nSec-WebSocket-Accept:");
    if (strncmp(head, "HTTP/1.1 101", 12) || accept == NULL ||
        strncmp(accept + 23 + strspn(accept + 23, " "), answer, sizeof answer - 1)) {
        char *line = strpbrk(head, "\r\n");
        if (line)
            *line = 0;
        refused(client, head);
        return NULL;
    }
    client->state = OPEN;
    if (!client->churn)
        open_count++;
    histogram_add(&handshakes, clock_now - client->began);
    *left = client->rest.size - (end + 4 - head);
    return (const uint8_t *)end + 4;
}

bool client_event(struct client *client, uint32_t events)
{
    static uint8_t data[RECEIVE];
    if (events & EPOLLOUT) {
        if (client->state == CONNECTING)
            client->state = SHAKING;
        flush(client);
    }
    while (client->state != CLOSED && events & ~EPOLLOUT) {
        ssize_t size = recv(client->fd, data, sizeof data, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN)
            break;
        if (size <= 0) {
            if (client->state != OPEN)
                refused(client, size < 0 ? strerror(errno) : "the connection was closed");
            else
                client_close(client);
            break;
        }
        clock_now = now_ns();
        last_progress = clock_now;
        if (client->state == OPEN) {
            received(client, data, size);
        } else {
            size_t left = 0;
            const uint8_t *more = shaken(client, data, size, &left);
            if (more) {
                struct buffer rest = client->rest;
                memset(&client->rest, 0, sizeof rest);
                if (left)
                    received(client, more, left);
                release(&rest);
            }
        }
        if ((size_t)size < sizeof data && !(events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)))
            break; /* edge-triggered: what comes later is an event of its own */
    }
    return client->state != CLOSED;
}
