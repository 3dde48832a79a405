/* How messages are published: PUBLISH to Redis, or POST for servers that have no other way; both pipelined. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct client connection; /* what epoll reports for it */
static struct buffer output, input;
static uint64_t unanswered;
static bool blocked;
static bool posts;
static char *post_path, *post_host;

static void flush_and_wait(void)
{
    while (output.size) {
        struct pollfd wait = {.fd = connection.fd, .events = POLLOUT};
        publisher_flush();
        if (output.size)
            poll(&wait, 1, 1000);
    }
}

static void read_line(char *line, size_t room)
{
    size_t size = 0;
    while (size + 1 < room && read(connection.fd, line + size, 1) == 1 && line[size++] != '\n')
        ;
    line[size] = 0;
}

static int connect_to(char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    int fd = -1, on = 1, error = getaddrinfo(host, port, &hints, &found);
    if (error)
        fail("%s: %s", host, gai_strerror(error));
    for (at = found; at && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) < 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd < 0)
        fail("cannot connect to %s:%s to publish: %s", host, port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* scheme://[user:password@]host[:port][/rest], cut up in place */
static void cut(char *url, char **user, char **password, char **host, const char **port, char **rest)
{
    char *at, *colon;
    *user = *password = NULL;
    *host = strstr(url, "://");
    if (*host == NULL)
        fail("not a URL: %s", url);
    *host += 3;
    *rest = strchr(*host, '/');
    if (*rest)
        *(*rest)++ = 0;
    if ((at = strrchr(*host, '@')) != NULL) {
        *at = 0;
        *user = *host;
        *host = at + 1;
        if ((colon = strchr(*user, ':')) != NULL) {
            *colon = 0;
            *password = colon + 1;
        }
    }
    if ((colon = strrchr(*host, ':')) != NULL) {
        *colon = 0;
        *port = colon + 1;
    }
}

void publisher_open(const struct options *options)
{
    char *user, *password, *host, *rest, head[1024], line[256];
    const char *port = options->post ? "80" : "6379";
    char *url = sure(strdup(options->post ? options->post : options->redis));
    posts = options->post != NULL;
    if (strncmp(url, posts ? "http://" : "redis://", posts ? 7 : 8))
        fail("%s: only %s:// is supported", url, posts ? "http" : "redis");
    cut(url, &user, &password, &host, &port, &rest);
    connection.fd = connect_to(host, port);
    if (posts) {
        post_path = rest ? rest : "";
        post_host = host;
    } else {
        if (password)
            append(&output, head, snprintf(head, sizeof head, *user ? "AUTH %s %s\r\n" : "AUTH %s%s\r\n", user, password));
        append(&output, "PING\r\n", 6);
        flush_and_wait();
        for (int i = password ? 2 : 1; i; i--) {
            read_line(line, sizeof line);
            if (*line != '+')
                fail("Redis: %s", line);
        }
    }
    watch(connection.fd, EPOLL_CTL_ADD, EPOLLIN, NULL);
}

void publish(const struct stream *stream, const uint8_t *payload, size_t size)
{
    char head[1024];
    if (posts) {
        char *path = sure(strdup(post_path)), *at = strstr(path, "{channel}");
        if (at == NULL)
            fail("--post needs {channel} in its URL");
        *at = 0;
        append(&output, head, snprintf(head, sizeof head, "POST /%s%s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain\r\n"
                                       "Content-Length: %zu\r\n\r\n", path, stream->channel, at + 9, post_host, size));
        free(path);
        append(&output, payload, size);
    } else {
        append(&output, head, snprintf(head, sizeof head, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%zu\r\n",
                                       stream->channel_size, stream->channel, size));
        append(&output, payload, size);
        append(&output, "\r\n", 2);
    }
    unanswered++;
}

void publisher_flush(void)
{
    if (output.size == 0 || blocked)
        return;
    ssize_t sent = send(connection.fd, output.data, output.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("publishing: %s", strerror(errno));
    if (sent > 0)
        drop_front(&output, sent);
    if (output.size) {
        blocked = true;
        watch(connection.fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT, NULL);
    }
}

static void read_replies(void)
{
    static const char sign[] = "HTTP/1.1 "; /* a body need not end with a line's end, so it may be anywhere */
    char *line = (char *)input.data, *end = line + input.size, *next;
    while (line < end) {
        if (posts) {
            line = memmem(line, end - line, sign, sizeof sign - 1);
            if (line == NULL || end - line < 12)
                break;
            if (line[9] != '2')
                fail("publishing: %.12s", line);
            next = line + 12;
        } else {
            next = memchr(line, '\n', end - line);
            if (next == NULL)
                break;
            if (*line != ':')
                fail("Redis: %.*s", (int)(next - line), line);
            next++;
        }
        unanswered--;
        line = next;
    }
    if (line == NULL) /* nothing of interest, but for what may be the beginning of a sign */
        line = end - (end - (char *)input.data < 12 ? end - (char *)input.data : 12);
    drop_front(&input, line - (char *)input.data);
}

void publisher_event(uint32_t events)
{
    static uint8_t data[1 << 16];
    if (events & EPOLLOUT) {
        blocked = false;
        watch(connection.fd, EPOLL_CTL_MOD, EPOLLIN, NULL);
        publisher_flush();
    }
    if (events & ~EPOLLOUT) {
        ssize_t size = recv(connection.fd, data, sizeof data, MSG_DONTWAIT);
        if (size == 0 || (size < 0 && errno != EAGAIN))
            fail("the connection to publish by has ended");
        if (size > 0) {
            append(&input, data, size);
            read_replies();
        }
    }
}

bool publisher_idle(void)
{
    return unanswered == 0;
}
