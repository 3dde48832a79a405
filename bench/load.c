/*
 * A load generator for websockets: options, phases, the event loop. `load --help` says what it does.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

static const char usage[] =
    "usage: load --url ws://HOST[:PORT]/PATH [OPTION]…\n"
    "\n"
    "Opens websockets, publishes messages through Redis, checks each one that arrives, and prints what it took.\n"
    "Exit status: 0 all is well, 1 something was lost, doubled, out of order, corrupt, closed or refused, 2 no run.\n"
    "\n"
    "  --mode MODE        fanout     all clients listen to one channel (or to --channels of them, in turn)\n"
    "                     spread     each client listens to a channel of its own\n"
    "                     echo       each client sends, and waits until its message comes back\n"
    "                     idle       clients that only are there: memory\n"
    "                     handshake  open and close, as fast as it goes\n"
    "  --url URL          {i} in its path is replaced with the client's number; spread, echo: its channel's\n"
    "  --clients N        (100)\n"
    "  --size N[,N…]      bytes of a message, 56 at least (128)\n"
    "  --window N[,N…]    messages in flight on a channel: the next one goes out when all listeners have the one\n"
    "                     so many before it (1). Of several sizes and windows each pair is measured\n"
    "  --rate N           messages a second in all, whatever is in flight; latency counts from when one was due\n"
    "  --seconds S        of each measurement (5)\n"
    "  --redis URL        redis://[user:password@]HOST[:PORT]; fanout and spread publish there\n"
    "  --channel NAME     where to; {i} is replaced with the channel's number (broadcast:bench, broadcast:bench{i})\n"
    "  --post URL         publish by POST instead; {channel} is replaced\n"
    "  --channels N       of fanout (1)\n"
    "  --cookie TEXT      of each handshake; --cookies FILE: one a line, client i sends the i-th\n"
    "  --header LINE      a further one of each handshake; may be given again\n"
    "  --parallel N       handshakes under way (64)\n"
    "  --warm N           idle: so many clients first, before memory is looked at (20)\n"
    "  --churn N          so many connections a second come and go meanwhile, with --churn-path PATH;\n"
    "                     --churn-hold S: stay so long (1); --churn-names N: {i} starts again after so many (10000)\n"
    "  --pid NAME=PID     a process of the server's: its CPU and memory; may be given again. The one named\n"
    "                     `server` gives the CPU time of a delivery\n"
    "  --patience S       without any progress, until what is missing counts as lost (5)\n"
    "  --json FILE        write the figures there; - for standard output, with nothing else\n";

static struct options options = {
    .clients = 100, .channels = 1, .sizes = {128}, .windows = {1}, .size_count = 1, .window_count = 1, .seconds = 5,
    .warm = 20, .parallel = 64, .patience = 5, .hold = 1, .churn_names = 10000,
};
static struct client *clients;
static struct client *churners; /* a ring: the oldest is closed when its time is over */
static uint32_t churner_room, churner_first, churner_count, churned;
static uint32_t pending; /* handshakes under way */
static int timer_fd = -1;

/* ---------------------------------------------------------------- options */

static uint32_t numbers(const char *text, uint32_t *out)
{
    uint32_t count = 0;
    char *end;
    do {
        if (count == 16)
            fail("at most 16 values: %s", text);
        out[count++] = strtoul(text, &end, 10);
        if (end == text || (*end && *end != ','))
            fail("not a number: %s", text);
        text = end + 1;
    } while (*end);
    return count;
}

static void add_cookie(const char *text)
{
    options.cookies = sure(realloc(options.cookies, (options.cookie_count + 1) * sizeof *options.cookies));
    options.cookies[options.cookie_count++] = sure(strdup(text));
}

static void read_cookies(const char *path)
{
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail("%s: %s", path, strerror(errno));
    while (getline(&line, &room, file) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (*line)
            add_cookie(line);
    }
    free(line);
    fclose(file);
}

static void add_process(char *text)
{
    char *pid = strchr(text, '=');
    if (pid == NULL || process_count == 16)
        fail("--pid NAME=PID, at most 16 of them: %s", text);
    *pid = 0;
    processes[process_count++] = (struct process){.name = text, .pid = atoi(pid + 1)};
    if (pss_of(atoi(pid + 1)) == 0)
        fail("process %s (%s) is not there, or not ours to look at", pid + 1, text);
}

static void cut_url(char *url)
{
    char *path, *port;
    if (strncmp(url, "ws://", 5))
        fail("%s: only ws:// is spoken here; for wss:// measure what is behind the TLS, or put a tunnel in front", url);
    url += 5;
    path = strchr(url, '/');
    options.path = path ? strdup(path) : "/";
    if (path)
        *path = 0;
    options.host = url;
    options.port = "80";
    if ((port = strrchr(url, ':')) != NULL) {
        *port = 0;
        options.port = port + 1;
    }
}

static void read_options(int count, char **arguments)
{
    enum { MODE, URL, CLIENTS, SIZE, WINDOW, RATE, SECONDS, REDIS, CHANNEL, POST, CHANNELS, COOKIE, COOKIES, HEADER_LINE,
           PARALLEL, WARM, CHURN, CHURN_PATH, CHURN_HOLD, CHURN_NAMES, PID, PATIENCE, JSON, HELP };
    static const char *names[] = {"mode", "url", "clients", "size", "window", "rate", "seconds", "redis", "channel",
                                  "post", "channels", "cookie", "cookies", "header", "parallel", "warm", "churn",
                                  "churn-path", "churn-hold", "churn-names", "pid", "patience", "json", "help"};
    static const char *modes[] = {"fanout", "spread", "echo", "idle", "handshake"};
    struct option known[HELP + 2] = {0};
    char *headers;
    int option;
    for (int i = 0; i <= HELP; i++)
        known[i] = (struct option){names[i], i == HELP ? no_argument : required_argument, NULL, i};
    while ((option = getopt_long(count, arguments, "", known, NULL)) >= 0) {
        switch (option) {
        case MODE:
            for (options.mode = 0; options.mode < 5 && strcmp(modes[options.mode], optarg); options.mode++)
                ;
            if (options.mode == 5)
                fail("no such mode: %s", optarg);
            break;
        case URL: options.url = strdup(optarg); cut_url(optarg); break;
        case CLIENTS: options.clients = atoi(optarg); break;
        case SIZE: options.size_count = numbers(optarg, options.sizes); break;
        case WINDOW: options.window_count = numbers(optarg, options.windows); break;
        case RATE: options.rate = atof(optarg); break;
        case SECONDS: options.seconds = atof(optarg); break;
        case REDIS: options.redis = optarg; break;
        case CHANNEL: options.channel = optarg; break;
        case POST: options.post = optarg; break;
        case CHANNELS: options.channels = atoi(optarg); break;
        case COOKIE: add_cookie(optarg); break;
        case COOKIES: read_cookies(optarg); break;
        case HEADER_LINE:
            if (asprintf(&headers, "%s%s\r\n", options.headers ? options.headers : "", optarg) < 0)
                fail("no memory");
            options.headers = headers;
            break;
        case PARALLEL: options.parallel = atoi(optarg); break;
        case WARM: options.warm = atoi(optarg); break;
        case CHURN: options.churn = atof(optarg); break;
        case CHURN_PATH: options.churn_path = optarg; break;
        case CHURN_HOLD: options.hold = atof(optarg); break;
        case CHURN_NAMES: options.churn_names = atoi(optarg); break;
        case PID: add_process(optarg); break;
        case PATIENCE: options.patience = atof(optarg); break;
        case JSON: options.json = optarg; break;
        case HELP: fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    }
    if (options.url == NULL || optind < count) {
        fputs(usage, stderr);
        exit(2);
    }
    if (options.clients == 0 || options.channels == 0 || options.parallel == 0)
        fail("--clients, --channels and --parallel are 1 at least");
    for (uint32_t i = 0; i < options.size_count; i++)
        if (options.sizes[i] < HEADER || options.sizes[i] > 1 << 19)
            fail("--size is %d to %d", HEADER, 1 << 19);
    for (uint32_t i = 0; i < options.window_count; i++)
        if (options.windows[i] == 0)
            fail("--window is 1 at least");
    if (options.mode != FANOUT)
        options.channels = options.clients;
    if (options.mode != IDLE)
        options.warm = 0;
    if (options.mode <= SPREAD && !options.redis && !options.post)
        fail("where to publish? --redis or --post");
    if (options.churn > 0 && !options.churn_path)
        fail("--churn needs --churn-path");
    if (!options.channel)
        options.channel = options.channels > 1 ? "broadcast:bench{i}" : "broadcast:bench";
}

/* ---------------------------------------------------------------- the event loop */

static void set_timer(uint64_t ns)
{
    struct itimerspec value = {{ns / 1000000000, ns % 1000000000}, {ns / 1000000000, ns % 1000000000}};
    timerfd_settime(timer_fd, 0, &value, NULL);
}

static void ended(struct client *client)
{
    failures.closed++;
    if (client->stream) {
        give_up(client);
        client->stream->listeners--;
    }
}

/* Handle what is there; waits for it, but not beyond a tick of the timer. */
static void turn(void)
{
    static struct epoll_event events[1024];
    uint64_t ticks;
    publisher_flush();
    int ready = epoll_wait(epoll, events, 1024, 100);
    for (int i = 0; i < ready; i++) {
        void *tag = events[i].data.ptr;
        if (tag == NULL) {
            publisher_event(events[i].events);
        } else if (tag == &timer_fd) {
            if (read(timer_fd, &ticks, sizeof ticks) < 0)
                continue;
        } else {
            struct client *client = tag;
            enum state before = client->state;
            if (before == CLOSED)
                continue;
            bool alive = client_event(client, events[i].events);
            if (before != OPEN && (client->state == OPEN || !alive) && !client->churn)
                pending--;
            if (before == OPEN && !alive)
                ended(client);
        }
    }
    clock_now = now_ns();
}

static void churn_on(double seconds)
{
    if (options.churn <= 0)
        return;
    while (churner_count && (churners[churner_first].state == CLOSED ||
                             clock_now - churners[churner_first].began > options.hold * 1e9)) {
        client_close(&churners[churner_first]);
        churner_first = (churner_first + 1) % churner_room;
        churner_count--;
    }
    while (churned < (uint32_t)(seconds * options.churn) && churner_count < churner_room) {
        struct client *client = &churners[(churner_first + churner_count++) % churner_room];
        memset(client, 0, sizeof *client);
        client->churn = true;
        client->number = churned++ % options.churn_names;
        client_open(client, options.churn_path);
    }
}

static void open_clients(uint32_t from, uint32_t to)
{
    uint32_t next = from;
    while (next < to || pending) {
        while (next < to && pending < options.parallel) {
            struct client *client = &clients[next];
            client->number = next++;
            if (options.mode <= ECHO)
                client->stream = &streams[client->number % stream_count];
            pending++;
            client_open(client, options.path);
        }
        last_progress = last_progress ? last_progress : clock_now;
        turn();
        if (clock_now - last_progress > 30e9)
            fail("no handshake was answered for 30 s: %u are open, %u wait", open_count, pending);
        if (failures.refused)
            fail("%u of %u clients are open, one was refused: no run", open_count, to);
    }
}

/* Publish until every client has got one: from then on all of them listen. */
static void warm_up(void)
{
    uint64_t sent = 0, began = clock_now;
    for (uint32_t number = 0;;) {
        uint32_t waiting = 0;
        for (uint32_t i = 0; i < options.clients; i++)
            waiting += clients[i].warm != number || clients[i].state != OPEN;
        if (waiting == 0 && number)
            return;
        if (clock_now - began > 2 * options.patience * 1e9)
            fail("after %.0f s %u of %u clients have not got what was published on %s", 2 * options.patience, waiting,
                 options.clients, options.mode == ECHO ? "their own channel" : options.channel);
        if (number == 0 || clock_now - sent > 200000000) {
            number++;
            sent = clock_now;
            for (uint32_t i = 0; i < stream_count; i++) {
                size_t size;
                const uint8_t *payload = stream_warm_up(&streams[i], number, &size);
                if (options.mode == ECHO)
                    client_send(&clients[i], 1, payload, size);
                else
                    publish(&streams[i], payload, size);
            }
        }
        turn();
    }
}

static void publish_one(struct stream *stream, uint64_t at)
{
    const uint8_t *payload = stream_message(stream, at, NULL);
    if (options.mode == ECHO)
        client_send(&clients[stream - streams], 1, payload, stream_size());
    else
        publish(stream, payload, stream_size());
}

static void publish_by_window(uint32_t window)
{
    uint32_t count = ready_count; /* a client that ends while it sends may add to them */
    for (uint32_t i = 0; i < count; i++) {
        struct stream *stream = ready_streams[i];
        stream->queued = false;
        while (stream->listeners && stream->next - stream->base < window)
            publish_one(stream, now_ns());
    }
    ready_count -= count;
    memmove(ready_streams, ready_streams + count, ready_count * sizeof *ready_streams);
}

static void publish_by_rate(uint64_t began)
{
    static uint32_t turn_of;
    uint64_t due = (uint64_t)((clock_now - began) / 1e9 * options.rate);
    for (uint32_t full = 0; messages < due && full < stream_count; turn_of++) {
        struct stream *stream = &streams[turn_of % stream_count];
        if (stream->listeners == 0 || stream->next - stream->base >= stream_slots()) {
            full++;
            continue;
        }
        full = 0;
        publish_one(stream, began + (uint64_t)(messages / options.rate * 1e9));
    }
    ready_count = 0;
    for (uint32_t i = 0; i < stream_count; i++)
        streams[i].queued = false;
}

/* ---------------------------------------------------------------- phases */

static void measure(uint32_t size, uint32_t window)
{
    uint32_t slots = window;
    if (options.rate > 0) /* what a client may be behind */
        slots = options.mode == FANOUT && options.channels == 1 ? (64 << 20) / size : 64;
    streams_begin(size, slots);
    for (uint32_t i = 0; i < options.clients; i++)
        clients[i].next = 0;
    uint64_t began = clock_now = last_progress = now_ns(), end = began + (uint64_t)(options.seconds * 1e9), last = began;
    churned = 0;
    look_at_cpu();
    own_cpu();
    all_cpu();
    if (options.rate > 0 || options.churn > 0)
        set_timer(1000000);
    for (;;) {
        if (clock_now < end) {
            if (options.rate > 0)
                publish_by_rate(began);
            else
                publish_by_window(window);
            churn_on((clock_now - began) / 1e9);
        } else if (outstanding == 0 && publisher_idle()) {
            break;
        }
        uint64_t before = deliveries;
        turn();
        if (deliveries != before)
            last = last_progress = clock_now;
        if (outstanding && clock_now - last_progress > options.patience * 1e9) {
            for (uint32_t i = 0; i < options.clients; i++)
                if (clients[i].state == OPEN)
                    give_up(&clients[i]);
            end = clock_now;
        }
        if (open_count == 0)
            break;
    }
    if (options.rate > 0 || options.churn > 0)
        set_timer(0);
    look_at_cpu();
    double seconds = ((last > began ? last : clock_now) - began) / 1e9, own = own_cpu(), all = all_cpu();
    double wall = (clock_now - began) / 1e9, each = deliveries ? server_cpu() / deliveries * 1e6 : 0;
    for (; churner_count; churner_count--, churner_first = (churner_first + 1) % churner_room)
        client_close(&churners[churner_first]);
    printf("%u clients, %u bytes, ", options.clients, size);
    if (options.rate > 0)
        printf("%.0f messages/s", options.rate);
    else
        printf("window %u", window);
    printf(": %.0f deliveries/s (%lu messages, %lu deliveries, %.2f s)\n", deliveries / seconds, messages, deliveries, seconds);
    fprintf(json, "{\"clients\": %u, \"size\": %u, \"window\": %u, \"rate\": %.1f, \"seconds\": %.4f, \"messages\": %lu, "
            "\"deliveries\": %lu, \"deliveries_per_s\": %.1f, \"us_per_delivery\": %.4f, \"churned\": %u, ",
            options.clients, size, options.rate > 0 ? 0 : window, options.rate, seconds, messages, deliveries,
            deliveries / seconds, each, churned);
    report_latencies("latency_ms", &latencies);
    report_failures();
    report_processes(wall, own, all);
    fprintf(json, "}");
    if (server_cpu() > 0)
        printf("  server: %.3f µs for each delivery\n", each);
    if (foreign)
        printf("  besides: %lu messages of others\n", foreign);
}

static void stay_idle(void)
{
    uint64_t began = clock_now = now_ns();
    look_at_cpu();
    own_cpu();
    all_cpu();
    while (clock_now - began < options.seconds * 1e9)
        turn();
    look_at_cpu();
    printf("%u idle clients, %.1f s\n", options.clients, options.seconds);
    fprintf(json, "{\"clients\": %u, \"seconds\": %.1f, \"pings\": %lu, \"kib_per_client\": {", options.clients,
            options.seconds, pings);
    for (uint32_t i = 0; i < process_count; i++) {
        double each = (double)(pss_of(processes[i].pid) - processes[i].pss_before) / options.clients;
        fprintf(json, "%s\"%s\": %.3f", i ? ", " : "", processes[i].name, each);
        printf("  %s: %.3f KiB for each client\n", processes[i].name, each);
    }
    fprintf(json, "}, ");
    report_failures();
    report_processes(options.seconds, own_cpu(), all_cpu());
    fprintf(json, "}");
}

static void shake_hands(void)
{
    uint64_t began = clock_now = last_progress = now_ns(), end = began + (uint64_t)(options.seconds * 1e9);
    uint32_t number = 0;
    histogram_clear(&handshakes);
    look_at_cpu();
    own_cpu();
    all_cpu();
    while (clock_now < end || pending) {
        for (uint32_t i = 0; i < options.parallel && clock_now < end; i++) {
            struct client *client = &clients[i];
            if (client->state == OPEN)
                client_close(client);
            if (client->state == CLOSED) {
                client->number = number++;
                client_open(client, options.path);
                pending++;
            }
        }
        turn();
        if (clock_now - last_progress > options.patience * 1e9) {
            failures.refused += pending;
            break;
        }
    }
    look_at_cpu();
    double seconds = (clock_now - began) / 1e9;
    printf("%.0f handshakes/s, %u under way\n", handshakes.count / seconds, options.parallel);
    fprintf(json, "{\"parallel\": %u, \"seconds\": %.4f, \"handshakes\": %lu, \"handshakes_per_s\": %.1f, ",
            options.parallel, seconds, handshakes.count, handshakes.count / seconds);
    report_latencies("latency_ms", &handshakes);
    report_failures();
    report_processes(seconds, own_cpu(), all_cpu());
    fprintf(json, "}");
}

int main(int count, char **arguments)
{
    struct rlimit limit;
    uint64_t began;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    told = &options;
    read_options(count, arguments);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    uint32_t room = (options.mode == HANDSHAKE ? options.parallel : options.clients + options.warm);
    churner_room = 1 + (uint32_t)(options.churn * (options.hold + 1));
    if (room + churner_room + 32 > limit.rlim_max)
        fail("this needs %u descriptors and the limit is %lu (ulimit -n)", room + churner_room + 32, limit.rlim_max);
    if (!options.json)
        options.json = "/dev/null";
    if (strcmp(options.json, "-") == 0) {
        json = fdopen(dup(1), "w");
        if (!freopen("/dev/null", "w", stdout))
            fail("/dev/null: %s", strerror(errno));
    } else {
        json = fopen(options.json, "w");
    }
    if (json == NULL)
        fail("%s: %s", options.json, strerror(errno));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    watch(timer_fd, EPOLL_CTL_ADD, EPOLLIN, &timer_fd);
    clients = sure(calloc(room, sizeof *clients));
    churners = sure(calloc(churner_room, sizeof *churners));
    clock_now = now_ns();

    fprintf(json, "{");
    if (options.mode != HANDSHAKE) {
        if (options.mode <= ECHO) {
            streams_prepare(options.channels, options.channel);
            streams_begin(HEADER, 1);
            if (options.mode != ECHO)
                publisher_open(&options);
        }
        if (options.warm) {
            open_clients(options.clients, options.clients + options.warm);
            for (began = clock_now; clock_now - began < 1000000000;)
                turn();
        }
        for (uint32_t i = 0; i < process_count; i++)
            processes[i].pss_before = pss_of(processes[i].pid);
        began = now_ns();
        open_clients(0, options.clients);
        double seconds = (now_ns() - began) / 1e9;
        fprintf(json, "\"connect\": {\"clients\": %u, \"seconds\": %.4f, \"per_s\": %.1f}, ", options.clients, seconds,
                options.clients / seconds);
        printf("%u clients open after %.2f s (%.0f a second)\n", options.clients, seconds, options.clients / seconds);
    }
    fprintf(json, "\"cases\": [");
    if (options.mode == HANDSHAKE) {
        shake_hands();
    } else if (options.mode == IDLE) {
        stay_idle();
    } else {
        for (uint32_t i = 0; i < stream_count; i++)
            streams[i].listeners = 0;
        for (uint32_t i = 0; i < options.clients; i++)
            clients[i].stream->listeners++;
        warm_up();
        for (uint32_t s = 0; s < options.size_count; s++) {
            for (uint32_t w = 0; w < options.window_count; w++) {
                if (s || w)
                    fprintf(json, ", ");
                measure(options.sizes[s], options.windows[w]);
            }
        }
    }
    fprintf(json, "]}\n");
    fclose(json);
    return any_failure;
}
