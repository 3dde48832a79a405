/*
 * A load generator for websockets: what its parts know of each other.
 *
 * load.c          options, phases, the event loop
 * load_client.c   one websocket: handshake, frames
 * load_stream.c   what is published, and the check of what arrives
 * load_publish.c  how it is published: Redis, or HTTP for servers that have no other way
 * load_measure.c  latencies, CPU and memory of processes; what is printed, and written as JSON
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define HEADER 56      /* bytes of a message that say which one it is; no message is shorter */
#define RECEIVE (1 << 18)

enum mode { FANOUT, SPREAD, ECHO, IDLE, HANDSHAKE };

struct options {
    enum mode mode;
    const char *url, *host, *port, *path; /* the path with "{i}" for a number */
    const char *redis, *post;             /* where to publish: a Redis, or a URL to POST to */
    const char *channel;                  /* with "{i}" */
    const char *churn_path;
    const char *headers; /* further ones of each handshake */
    const char *json;
    char **cookies; /* client i sends the i-th, from the start again after the last */
    size_t cookie_count;
    uint32_t clients, channels, warm, parallel;
    uint32_t sizes[16], windows[16]; /* every combination is a case */
    uint32_t size_count, window_count;
    double rate;       /* messages a second; 0: as many as the window lets through */
    double seconds;    /* of a case */
    double patience;   /* without progress, until what is missing counts as lost */
    double churn;      /* connections a second that come and go meanwhile */
    double hold;       /* seconds that each of them stays */
    uint32_t churn_names; /* its numbers start again after so many */
};

struct failures {
    uint64_t lost, duplicated, disordered, corrupt, stray, closed, refused;
};

/* ---------------------------------------------------------------- load_measure.c */

#define BUCKETS (64 << 6)

struct histogram {
    uint64_t count, most, buckets[BUCKETS];
};

struct process {
    const char *name;
    int pid;
    double cpu;           /* seconds, at the last look */
    double used;          /* since the one before */
    long pss_before, pss; /* KiB */
};

extern struct process processes[16];
extern uint32_t process_count;

uint64_t now_ns(void);
void histogram_clear(struct histogram *histogram);
double histogram_at(const struct histogram *histogram, double part); /* milliseconds */
void look_at_cpu(void);
double own_cpu(void);      /* seconds since the call before */
double all_cpu(void);      /* the whole machine's, likewise */
long pss_of(int pid);

extern FILE *json;
extern bool any_failure;

double server_cpu(void); /* seconds, of all processes named `server`, by the last look_at_cpu */
void report_processes(double seconds, double own, double all);
void report_latencies(const char *name, const struct histogram *histogram);
void report_failures(void);

/* 64 steps to each power of two: 1.6 % off at most. */
static inline void histogram_add(struct histogram *histogram, uint64_t ns)
{
    uint32_t shift = ns < 64 ? 0 : 57 - __builtin_clzll(ns), bucket = (shift << 6) + (uint32_t)(ns >> shift);
    histogram->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    histogram->count++;
    if (ns > histogram->most)
        histogram->most = ns;
}

/* ---------------------------------------------------------------- load_stream.c */

/* The messages of one channel; the ring has the frames as every listener has to receive them. */
struct stream {
    char *channel;
    size_t channel_size;
    uint8_t *ring;
    uint64_t *published; /* when, by slot */
    uint32_t *missing;   /* how many listeners have not got it, by slot */
    uint64_t base;       /* oldest message that somebody has not got */
    uint64_t next;       /* number of the next one to publish */
    uint32_t listeners;
    bool queued; /* in the list of those that may publish */
};

struct client;

extern struct stream *streams;
extern uint32_t stream_count;
extern struct failures failures;
extern struct histogram latencies;
extern uint64_t deliveries, messages, foreign, outstanding, last_progress;
extern struct stream **ready_streams; /* have got through what was in flight */
extern uint32_t ready_count;

void streams_prepare(uint32_t count, const char *channel);
void streams_begin(uint32_t size, uint32_t slots);
const uint8_t *stream_message(struct stream *stream, uint64_t at, const uint8_t **frame); /* makes the next message */
const uint8_t *stream_warm_up(struct stream *stream, uint32_t number, size_t *size);
uint32_t stream_slots(void);
uint32_t stream_size(void);
void received(struct client *client, const uint8_t *data, size_t size);
void give_up(struct client *client); /* what it has not got is lost */

/* ---------------------------------------------------------------- load_publish.c */

void publisher_open(const struct options *options);
void publish(const struct stream *stream, const uint8_t *payload, size_t size);
void publisher_flush(void);
void publisher_event(uint32_t events);
bool publisher_idle(void);

/* ---------------------------------------------------------------- load_client.c */

enum state { CLOSED, CONNECTING, SHAKING, OPEN };

struct buffer {
    uint8_t *data;
    size_t size, room;
};

struct client {
    int fd;
    uint32_t number;
    enum state state;
    bool churn;   /* one of those that come and go */
    bool slow;    /* not byte by byte what was expected: `rest` has an unfinished frame */
    uint32_t warm; /* number of the last warm-up message received */
    struct stream *stream;
    uint64_t next;  /* number of the message expected */
    size_t part;    /* bytes of it that are here */
    struct buffer rest, output, fragments;
    uint64_t *gaps; /* numbers skipped, which may still come */
    uint32_t gap_count;
    uint64_t began; /* the handshake, nanoseconds */
};

extern const struct options *told;
extern int epoll;
extern uint64_t clock_now; /* nanoseconds, of the last look */
extern struct histogram handshakes;
extern uint32_t open_count;
extern uint64_t pings;

void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void *sure(void *memory);
void append(struct buffer *buffer, const void *data, size_t size);
void drop_front(struct buffer *buffer, size_t size);
void release(struct buffer *buffer);
char *numbered(const char *pattern, uint32_t number); /* with "{i}" replaced; the caller frees it */
int dial(const char *host, const char *port);         /* does not wait */
void watch(int fd, int operation, uint32_t events, void *tag);

void client_open(struct client *client, const char *path);
bool client_event(struct client *client, uint32_t events); /* false when it has ended */
void client_send(struct client *client, uint8_t opcode, const uint8_t *payload, size_t size);
void client_close(struct client *client);

#endif
