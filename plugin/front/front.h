/*
 * What the porter (porter.c), which accepts clients and waits for them, and uWSGI's side (front.c) have in common.
 */
#include <uwsgi.h>

extern struct uwsgi_server uwsgi;

struct settings {
	int head_timeout, body_timeout;	/* seconds */
	int body_rate;	/* bytes a second, on average, once body_timeout is over */
	int body_space;	/* MiB */
	char *directory;	/* for files */
};

/* A socket on which uWSGI listens for HTTP. */
struct door {
	int listener;
	int event;	/* is ready as often as there are whole requests; uWSGI's loop waits for it */
	struct client *first, *last;	/* the whole requests */
	pthread_mutex_t lock;	/* of these two */
	/* uWSGI's own: */
	int (*proto)(struct wsgi_request *);
	ssize_t (*proto_read_body)(struct wsgi_request *, char *, size_t);
	void (*proto_close)(struct wsgi_request *);
};

struct client {
	struct client *prev, *next;
	struct list *list;
	struct door *door;
	int fd;
	int file;	/* with all that has come, head included; -1: that is still in the kernel */
	int watched;	/* is in the porter's epoll set */
	uint64_t since, last;	/* milliseconds: when it connected, or its head was whole; when its body grew */
	size_t size, whole;	/* bytes that are here, and of all; the latter is 0 until the head is whole */
	socklen_t address_size;
	struct sockaddr_storage address;
};

extern struct settings front;

/* Begin to accept the clients of these doors, in a thread of its own. 0, or -1 with errno. */
int porter_start(struct door *first, int count);

/* The end of a client that was handed over; its descriptors are the caller's. In any thread. */
void porter_forget(struct client *client);
