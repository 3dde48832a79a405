/*
 * The porter: one thread that accepts all clients, waits for all of them at once, and hands over those whose request is
 * whole. What becomes of these is front.c's business.
 */
#include "front.h"
#include <sys/epoll.h>

#define CHUNK 65536	/* bytes of a body, at a time */
#define SHUT 100	/* milliseconds for which nobody is accepted when there are no descriptors */
#define REPORT 10000	/* milliseconds between two lines in the log */

/* Oldest first. */
static struct list {
	struct client *first, *last;
	size_t count, limit;
} heads, bodies;

static struct door *doors;
static int doors_count, doors_are_shut;
static int epoll = -1;
static char *room;	/* for what is read, in one step: a head, or a CHUNK */
static size_t spooled;	/* bytes in files; atomic, as the offload threads count down */

static struct {
	uint64_t last;
	unsigned late, slow, crowded, large;
} report;

static uint64_t now(void) {
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ULL + time.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- lists */

static void append(struct list *list, struct client *client) {
	client->list = list;
	client->prev = list->last;
	client->next = NULL;
	if (list->last) list->last->next = client;
	else list->first = client;
	list->last = client;
	list->count++;
}

static void take_out(struct client *client) {
	struct list *list = client->list;

	if (!list) return;
	if (client->prev) client->prev->next = client->next;
	else list->first = client->next;
	if (client->next) client->next->prev = client->prev;
	else list->last = client->prev;
	list->count--;
	client->list = NULL;
}

/* ---------------------------------------------------------------- the end of a client */

static struct client *dropped;	/* an event of theirs may be among those that the porter is at */

static void drop(struct client *client) {
	take_out(client);
	close(client->fd);
	client->fd = -1;
	if (client->file >= 0) {
		close(client->file);
		__atomic_sub_fetch(&spooled, client->size, __ATOMIC_RELAXED);
	}
	client->next = dropped;
	dropped = client;
}

static void free_dropped(void) {
	struct client *client;

	while ((client = dropped)) {
		dropped = client->next;
		free(client);
	}
}

/* One that was handed over; its descriptors are uWSGI's. */
void porter_forget(struct client *client) {
	if (client->file >= 0) __atomic_sub_fetch(&spooled, client->size, __ATOMIC_RELAXED);
	free(client);
}

static void refuse(struct client *client, const char *status) {
	char answer[128];
	int i, size = snprintf(answer, sizeof(answer), "HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status);

	if (send(client->fd, answer, size, MSG_DONTWAIT | MSG_NOSIGNAL) == size) {
		/* What is closed with bytes unread is reset, and the answer is lost. */
		shutdown(client->fd, SHUT_WR);
		for (i = 0; i < 16 && recv(client->fd, room, CHUNK, MSG_DONTWAIT) > 0; i++);
	}
	drop(client);
}

/* For one more. The oldest has had the most time. */
static void make_room(struct list *list) {
	if (list->count < list->limit) return;
	report.crowded++;
	drop(list->first);
}

static void tell(uint64_t time) {
	if (!(report.late + report.slow + report.crowded + report.large) || time - report.last < REPORT) return;
	uwsgi_log("uws4r_front: requests given up: %u heads not whole after %d s, %u bodies too slow, %u too many at a time, "
		"%u for which there was no space\n", report.late, front.head_timeout, report.slow, report.crowded, report.large);
	report.late = report.slow = report.crowded = report.large = 0;
	report.last = time;
}

/* ---------------------------------------------------------------- the porter */

static void hand_over(struct client *client) {
	struct door *door = client->door;
	uint64_t one = 1;

	take_out(client);
	if (client->watched) epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
	client->next = NULL;
	pthread_mutex_lock(&door->lock);
	if (door->last) door->last->next = client;
	else door->first = client;
	door->last = client;
	pthread_mutex_unlock(&door->lock);
	if (write(door->event, &one, sizeof(one)) != sizeof(one)) uwsgi_error("uws4r_front: write()");
}

static int watch(struct client *client, uint32_t events) {
	struct epoll_event event = {.events = events | EPOLLIN | EPOLLRDHUP, .data.ptr = client};

	if (!epoll_ctl(epoll, client->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, client->fd, &event)) {
		client->watched = 1;
		return 0;
	}
	drop(client);
	return -1;
}

/*
 * The Content-Length of a head that ends with an empty line, 0 where there is none, -1 where it is not one number.
 * What counts as this header is what uWSGI takes for it: an underscore is a hyphen.
 */
static ssize_t content_length(const char *head, size_t size) {
	static const char name[] = "content-length:";
	const char *line = head, *end, *stop = head + size;
	ssize_t length = -1;
	size_t i;

	for (; (end = memmem(line, stop - line, "\r\n", 2)) && end != line; line = end + 2) {
		if (end - line < (ssize_t) sizeof(name) - 1) continue;
		for (i = 0; i < sizeof(name) - 1; i++) {
			char c = line[i] == '_' ? '-' : line[i] >= 'A' && line[i] <= 'Z' ? line[i] | 0x20 : line[i];
			if (c != name[i]) break;
		}
		if (i < sizeof(name) - 1) continue;
		if (length >= 0 || end[2] == ' ' || end[2] == '\t') return -1;
		while (line + i < end && line[i] == ' ') i++;
		if (line + i == end || end - line - i > 15) return -1;
		for (length = 0; line + i < end; i++) {
			if (line[i] < '0' || line[i] > '9') return -1;
			length = length * 10 + line[i] - '0';
		}
	}
	return length < 0 ? 0 : length;
}

static int expects_100(const char *head, size_t size) {
	const char *line = head, *end, *stop = head + size;

	for (; (end = memmem(line, stop - line, "\r\n", 2)) && end != line; line = end + 2) {
		if (!strncasecmp(line, "expect: 100-continue\r\n", 22)) return 1;
	}
	return 0;
}

static void spool(struct client *client);

/* The head is not whole, or what comes behind it fits into uWSGI's buffer: nothing is taken from the kernel. */
static void look(struct client *client, int has_ended) {
	ssize_t size = recv(client->fd, room, uwsgi.buffer_size, MSG_PEEK | MSG_DONTWAIT);
	const char *end;
	ssize_t length;

	if (size <= 0 && !(size < 0 && (errno == EAGAIN || errno == EINTR) && !has_ended)) {
		drop(client);
		return;
	}
	if (size < 0) size = 0;
	if (!client->whole) {
		if (!(end = memmem(room, size, "\r\n\r\n", 4))) {
			if (size == uwsgi.buffer_size) refuse(client, "431 Request Header Fields Too Large");
			else if (has_ended) drop(client);
			else if (!client->watched) watch(client, EPOLLET);
			return;
		}
		end += 4;
		length = content_length(room, end - room);
		if (length < 0) {
			refuse(client, "400 Bad Request");
			return;
		}
		client->whole = end - room + length;
		if (client->whole > (size_t) size) {
			if ((size_t) length > ((size_t) front.body_space << 20)) {
				refuse(client, "413 Content Too Large");
				return;
			}
			if (expects_100(room, end - room)) send(client->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_DONTWAIT | MSG_NOSIGNAL);
			take_out(client);
			make_room(&bodies);
			append(&bodies, client);
			client->since = client->last = now();
		}
	}
	if ((size_t) size >= client->whole) {
		hand_over(client);
		return;
	}
	if (client->whole > uwsgi.buffer_size) {
		client->file = open(front.directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (client->file < 0) {
			uwsgi_error_open(front.directory);
			refuse(client, "503 Service Unavailable");
		}
		else if (!watch(client, 0)) spool(client);
		return;
	}
	if (has_ended) {
		drop(client);
		return;
	}
	if ((size_t) size > client->size) client->last = now();
	client->size = size;
	if (!client->watched) watch(client, EPOLLET);
}

/* The largest of those that are still growing. */
static struct client *largest(void) {
	struct client *client, *found = NULL;

	for (client = bodies.first; client; client = client->next) {
		if (client->file >= 0 && (!found || client->size > found->size)) found = client;
	}
	return found;
}

static void spool(struct client *client) {
	int i;

	/* Others wait: a chunk or four, and on in the next round. */
	for (i = 0; i < 4; i++) {
		ssize_t size = recv(client->fd, room, UMIN(CHUNK, client->whole - client->size), MSG_DONTWAIT);

		if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
		if (size <= 0) {
			drop(client);
			return;
		}
		if (write(client->file, room, size) != size) {
			uwsgi_error("uws4r_front: write()");
			refuse(client, "503 Service Unavailable");
			return;
		}
		client->size += size;
		client->last = now();
		__atomic_add_fetch(&spooled, size, __ATOMIC_RELAXED);
		if (client->size == client->whole) {
			hand_over(client);
			return;
		}
		if (__atomic_load_n(&spooled, __ATOMIC_RELAXED) > (size_t) front.body_space << 20) {
			struct client *found = largest();

			report.large++;
			refuse(found, "503 Service Unavailable");
			if (found == client) return;
		}
	}
}

static void shut_doors(int shut) {
	int i;

	for (i = 0; i < doors_count; i++) {
		struct epoll_event event = {.events = shut ? 0 : EPOLLIN, .data.ptr = &doors[i]};
		epoll_ctl(epoll, EPOLL_CTL_MOD, doors[i].listener, &event);
	}
	doors_are_shut = shut;
}

static void open_door(struct door *door) {
	int i;

	for (i = 0; i < 64; i++) {
		struct sockaddr_storage address;
		socklen_t size = sizeof(address);
		int fd = accept4(door->listener, (struct sockaddr *) &address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct client *client;

		if (fd < 0) {
			if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) return;
			if (!heads.first) {
				shut_doors(1);
				return;
			}
			report.crowded++;
			drop(heads.first);
			continue;
		}
		make_room(&heads);
		client = uwsgi_calloc(sizeof(struct client));
		client->door = door;
		client->fd = fd;
		client->file = -1;
		client->address = address;
		client->address_size = size;
		client->since = now();
		append(&heads, client);
		look(client, 0);
	}
}

/* Milliseconds until somebody's time is over; of bodies it is looked at every second. */
static int end_the_late(void) {
	uint64_t time = now(), late = front.head_timeout * 1000ULL;
	struct client *client, *next;

	while ((client = heads.first) && time - client->since >= late) {
		if (recv(client->fd, room, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
			report.late++;
			refuse(client, "408 Request Timeout");
		}
		else drop(client);	/* it has said nothing: browsers connect in advance */
	}
	for (client = bodies.first; client; client = next) {
		uint64_t age = time - client->since, pause = front.body_timeout * 1000ULL;

		next = client->next;
		if (time - client->last < pause && (age < pause || client->size * 1000ULL >= (age - pause) * front.body_rate)) continue;
		report.slow++;
		refuse(client, "408 Request Timeout");
	}
	tell(time);
	if (doors_are_shut) return SHUT;
	if (bodies.first || report.late || report.slow || report.crowded || report.large) return 1000;
	return heads.first ? (int) (late - (time - heads.first->since)) + 1 : -1;
}

static void *porter(void *none) {
	struct epoll_event events[256];
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (;;) {
		int i, count = epoll_wait(epoll, events, 256, end_the_late());

		if (doors_are_shut) shut_doors(0);
		for (i = 0; i < count; i++) {
			struct door *door = events[i].data.ptr;
			struct client *client = events[i].data.ptr;

			if (door >= doors && door < doors + doors_count) open_door(door);
			else if (client->fd < 0) continue;
			else if (client->file >= 0) spool(client);
			else look(client, !!(events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)));
		}
		free_dropped();
	}
	return NULL;
}

int porter_start(struct door *first, int count) {
	pthread_t thread;
	int i, off = 0;

	doors = first;
	doors_count = count;
	/* A websocket takes two descriptors, and is what they are for. */
	heads.limit = uwsgi.max_fd / 4 + 1;
	bodies.limit = uwsgi.max_fd / 8 + 1;
	room = uwsgi_malloc(UMAX(CHUNK, uwsgi.buffer_size));
	epoll = epoll_create1(EPOLL_CLOEXEC);
	for (i = 0; i < count; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = &doors[i]};

		uwsgi_socket_nb(doors[i].listener);
		/* uWSGI leaves clients that have said nothing to the kernel, which has room for `listen` of them. */
		setsockopt(doors[i].listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &off, sizeof(off));
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, doors[i].listener, &event)) return -1;
	}
	errno = pthread_create(&thread, NULL, porter, NULL);
	return errno ? -1 : 0;
}
