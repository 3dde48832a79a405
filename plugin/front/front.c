/*
 * For a uWSGI that faces the Internet with http-socket, as the emperor does: a request reaches uWSGI when it is whole.
 *
 * By itself each thread of uWSGI reads one request head, however long a client takes for it, and a worker behind it
 * reads one body. Here one thread, the porter (porter.c), accepts all clients and waits for all of them at once:
 *
 * - A head has to be whole front-head-timeout seconds after the client has connected. Until then it stays in the
 *   kernel, and costs a descriptor. Where there are too many, the oldest goes.
 * - A body that does not fit into uWSGI's buffer together with its head is kept in a file without a name, with the
 *   head in front. A body may pause for front-body-timeout seconds, and has to come at front-body-rate bytes a second.
 *   All files together take front-body-space MiB; beyond that, the largest that is still growing goes.
 *
 * What is whole is handed to uWSGI's own loop as if it had been accepted in that moment. uWSGI parses it and chooses a
 * route, and its offload thread sends what is in the file before it moves bytes to and fro.
 *
 * It replaces nothing of uWSGI but function pointers that uWSGI has for such purposes, and the descriptor that its
 * loop waits for.
 */
#include "front.h"
#include <sys/eventfd.h>
#include <sys/sendfile.h>

struct settings front = {.head_timeout = 10, .body_timeout = 30, .body_rate = 500, .body_space = 1024};

static struct uwsgi_option options[] = {
	{"front-head-timeout", required_argument, 0, "seconds in which a request head has to be whole (10)", uwsgi_opt_set_int, &front.head_timeout, 0},
	{"front-body-timeout", required_argument, 0, "seconds that a request body may pause (30)", uwsgi_opt_set_int, &front.body_timeout, 0},
	{"front-body-rate", required_argument, 0, "bytes a second at which a request body has to come (500)", uwsgi_opt_set_int, &front.body_rate, 0},
	{"front-body-space", required_argument, 0, "MiB that all bodies together may take in files (1024)", uwsgi_opt_set_int, &front.body_space, 0},
	{"front-directory", required_argument, 0, "where these files are ($TMPDIR, or /tmp)", uwsgi_opt_set_str, &front.directory, 0},
	{0, 0, 0, 0, 0, 0, 0},
};

#define DOORS 16

static struct door doors[DOORS];
static int doors_count;
static struct client **filed;	/* by descriptor: clients whose file is not with an offload thread yet */

/* ---------------------------------------------------------------- in uWSGI's loop */

static int take(struct wsgi_request *req, int event) {
	struct door *door;
	struct client *client;
	uint64_t one;
	int fd;

	for (door = doors; door->event != event; door++);
	if (read(event, &one, sizeof(one)) != sizeof(one)) return -1;
	pthread_mutex_lock(&door->lock);
	client = door->first;
	door->first = client->next;
	if (!door->first) door->last = NULL;
	pthread_mutex_unlock(&door->lock);

	fd = client->fd;
	req->c_len = client->address_size;
	memcpy(&req->client_addr, &client->address, UMIN(sizeof(req->client_addr), sizeof(client->address)));
	if (client->file >= 0) filed[fd] = client;
	else porter_forget(client);
	return fd;
}

static struct door *door_of(struct wsgi_request *req) {
	struct door *door;

	for (door = doors; door->event != req->socket->fd; door++);
	return door;
}

/* uWSGI's parser reads from the request's descriptor: as much as its buffer holds, and the rest stays in the file. */
static int parse(struct wsgi_request *req) {
	struct client *client = filed[req->fd];
	int fd = req->fd, result;

	if (!client) return door_of(req)->proto(req);
	lseek(client->file, 0, SEEK_SET);
	req->fd = client->file;
	result = door_of(req)->proto(req);
	req->fd = fd;
	return result == UWSGI_OK ? UWSGI_OK : -1;	/* it is whole, and does not become more */
}

/* For a request that is not offloaded. */
static ssize_t read_body(struct wsgi_request *req, char *buffer, size_t size) {
	struct client *client = filed[req->fd];
	int fd = req->fd;
	ssize_t result;

	if (client) req->fd = client->file;
	result = door_of(req)->proto_read_body(req, buffer, size);
	req->fd = fd;
	return result;
}

static void close_client(struct wsgi_request *req) {
	struct client *client = filed[req->fd];

	filed[req->fd] = NULL;
	door_of(req)->proto_close(req);
	if (!client) return;
	close(client->file);
	porter_forget(client);
}

/* ---------------------------------------------------------------- in uWSGI's offload threads */

#define BODY 100	/* a status that uWSGI's engine does not have */

static struct uwsgi_offload_engine uwsgis;

static void sent(struct uwsgi_offload_request *task) {
	if (task->data) porter_forget(task->data);
	task->data = NULL;
}

static int prepare(struct wsgi_request *req, struct uwsgi_offload_request *task) {
	struct client *client = req->fd < (int) uwsgi.max_fd ? filed[req->fd] : NULL;
	int result = uwsgis.prepare_func(req, task);

	if (!client || result) return result;
	filed[req->fd] = NULL;
	task->fd2 = client->file;	/* which uWSGI closes */
	task->data = client;
	task->free = sent;
	return 0;
}

static int transfer(struct uwsgi_thread *thread, struct uwsgi_offload_request *task, int fd) {
	ssize_t size;

	if (task->fd2 < 0 || !task->data) return uwsgis.event_func(thread, task, fd);
	if (task->status != BODY) {
		int result = uwsgis.event_func(thread, task, fd);

		if (result || task->status != 2) return result;
		/* The head is out, and bytes would go to and fro: first the file. */
		if (event_queue_del_fd(thread->queue, task->s, event_queue_read())) return -1;
		if (event_queue_fd_read_to_write(thread->queue, task->fd)) return -1;
		task->status = BODY;
		return 0;
	}
	size = sendfile(task->fd, task->fd2, NULL, 1 << 17);
	if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR))) return 0;
	/* It is sent, or the worker does not want it and has answered already. */
	close(task->fd2);
	task->fd2 = -1;
	sent(task);
	if (event_queue_fd_write_to_read(thread->queue, task->fd)) return -1;
	if (event_queue_add_fd_read(thread->queue, task->s)) return -1;
	task->status = 2;
	return 0;
}

/* ---------------------------------------------------------------- start */

static void check_version(void) {
	/* The layouts of uWSGI's structures depend on it. */
	if (!strcmp(uwsgi.magic_table['V'] ? uwsgi.magic_table['V'] : "?", UWSGI_VERSION)) return;
	uwsgi_log("uws4r_front_plugin.so was built for uWSGI %s, and this is another: build it again (python plugin/build.py --front)\n", UWSGI_VERSION);
	exit(1);
}

static int check_options(void) {
	if (front.head_timeout > 0 && front.body_timeout > 0 && front.body_rate >= 0 && front.body_space > 0) return 0;
	uwsgi_log("front-head-timeout, front-body-timeout and front-body-space have to be 1 or more, front-body-rate 0 or more\n");
	exit(1);
}

static void fail(void) {
	uwsgi_error("uws4r_front");
	exit(1);
}

static void open_doors(void) {
	struct uwsgi_socket *sock;

	if (!uwsgi.mywid) return;	/* a mule, or the spooler */
	for (sock = uwsgi.sockets; sock && doors_count < DOORS; sock = sock->next) {
		struct door *door = &doors[doors_count];

		if (!sock->proto_name || strcmp(sock->proto_name, "http") || sock->fd < 0) continue;
		door->listener = sock->fd;
		door->event = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
		pthread_mutex_init(&door->lock, NULL);
		if (door->event < 0) fail();
		door->proto = sock->proto;
		door->proto_read_body = sock->proto_read_body;
		door->proto_close = sock->proto_close;
		sock->proto = parse;
		sock->proto_accept = take;
		sock->proto_read_body = read_body;
		sock->proto_close = close_client;
		sock->fd = door->event;
		doors_count++;
	}
	if (!doors_count) return;
	if (!front.directory) front.directory = getenv("TMPDIR");
	if (!front.directory) front.directory = "/tmp";
	filed = uwsgi_calloc(sizeof(*filed) * uwsgi.max_fd);
	uwsgis = *uwsgi.offload_engine_transfer;
	uwsgi.offload_engine_transfer->prepare_func = prepare;
	uwsgi.offload_engine_transfer->event_func = transfer;
	if (porter_start(doors, doors_count)) fail();
}

struct uwsgi_plugin uws4r_front_plugin = {
	.name = "uws4r_front",
	.options = options,
	.on_load = check_version,
	.init = check_options,
	.post_fork = open_doors,
};
