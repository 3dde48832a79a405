/*
 * uWSGI's async engine, made fit for native mode: loaded after uWSGI's greenlet plugin, whose companion it is.
 *
 * - The GIL is given back while the loop waits. The greenlet plugin takes it before the first request and keeps it,
 *   so that no other thread of Python ever runs.
 * - A signal that ends the worker waits until its requests do.
 * - A request slot is clean when a client gets it. uWSGI returns slots to its pool with what a client has sent of
 *   its head in them, and puts that in front of what the next one sends.
 * - uwsgi.atexit is called at the end of a worker, which uWSGI leaves out in async mode.
 * - Python gets the module `uwsgi.uws4r`: slot(), wake(), early().
 *
 * It replaces nothing of uWSGI but function pointers that uWSGI has for such purposes.
 */
#include <uwsgi_python.h>

extern struct uwsgi_server uwsgi;
extern struct uwsgi_python up;

/* ---------------------------------------------------------------- the GIL */

static void (*switch_to_request)(void);	/* the greenlet plugin's schedule_to_req */

/*
 * The loop runs its requests one after the other, in rounds. In a round, this thread holds the GIL from the first
 * request to the last one: a greenlet that had given it back could be neither switched to nor freed. So all of
 * uWSGI's taking and giving back, which is nested there, is void; outside of a round (start, fork, uWSGI's signals,
 * the parsers of its protocols) it is the Python plugin's own.
 */
static __thread int in_round;

/*
 * uWSGI's handlers of these signals call exit() on the spot, which waits for ever on a lock that the interrupted code
 * holds. So they wait for the end of the round. (Not blocked: the children that a view starts would inherit that.)
 */
static const int ends[] = {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR2};
static struct sigaction uwsgis[NSIG];
static volatile sig_atomic_t signal_waits;

static void hold(int number) {
	/* A child of a view has no round to end, and a handler of its own only after exec(). */
	if (in_round && getpid() == uwsgi.mypid) signal_waits = number;
	else uwsgis[number].sa_handler(number);
}

static void hold_signals(void) {
	struct sigaction ours;
	size_t i;

	for (i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		if (sigaction(ends[i], NULL, &ours) || ours.sa_handler == SIG_DFL || ours.sa_handler == SIG_IGN) continue;
		uwsgis[ends[i]] = ours;
		ours.sa_handler = hold;
		sigaction(ends[i], &ours, NULL);
	}
}

static void begin_round(void) {
	static int first = 1;

	if (first) hold_signals();	/* uWSGI has set its own by now */
	first = 0;
	in_round = 1;	/* first of all, as waiting for the GIL takes a lock */
	gil_real_get();
}

static void end_round(void) {
	int number;

	gil_real_release();
	in_round = 0;
	number = signal_waits;
	signal_waits = 0;
	if (number) raise(number);
}

static void take_gil(void) {
	if (!in_round) gil_real_get();
}

static void give_gil_back(void) {
	if (!in_round) gil_real_release();
}

static int ends_round(struct wsgi_request *req) {
	struct uwsgi_async_request *last = uwsgi.async_runqueue_last;
	return !last || last->wsgi_req == req;
}

static void run_request(void) {
	struct wsgi_request *req = uwsgi.wsgi_req;
	int last = ends_round(req);	/* asked before: afterwards the request may be gone */

	/* A request whose head took too long: its descriptor, closed in a moment, must not lead to it any more. */
	if (uwsgi.async_proto_fd_table[req->fd] == req) uwsgi.async_proto_fd_table[req->fd] = NULL;

	if (!in_round) begin_round();
	switch_to_request();
	if (last) end_round();
}

/* ---------------------------------------------------------------- slots */

/* A request that ends before its head is whole goes back to the pool as it is, and the pool is a stack. */
static int accept_into_clean_slot(struct wsgi_request *req, int fd) {
	if (req->proto_parser_pos || req->proto_parser_buf) {
		int slot = req->async_id;
		struct uwsgi_socket *sock = req->socket;

		free(req->proto_parser_buf);
		req->uh->pktsize = 0;
		memset(req, 0, sizeof(struct wsgi_request));
		wsgi_req_setup(req, slot, sock);
	}
	return uwsgi_proto_base_accept(req, fd);
}

/* ---------------------------------------------------------------- what Python can call */

static PyObject *slot(PyObject *self, PyObject *none) {
	return PyLong_FromLong(current_wsgi_req()->async_id);
}

/* Make another request, which waits in uwsgi.suspend(), go on in the next round; uwsgi.ready_fd() is -1 for it then. */
static PyObject *wake(PyObject *self, PyObject *number) {
	long id = PyLong_AsLong(number);
	struct uwsgi_async_request *entry;
	struct wsgi_request *req;

	if (id == -1 && PyErr_Occurred()) return NULL;
	if (id < 0 || id >= uwsgi.async) return PyErr_Format(PyExc_ValueError, "there is no slot %ld", id);
	req = &uwsgi.workers[uwsgi.mywid].cores[id].req;
	/* uWSGI takes the present one off its queue when it waits, whatever stands there. */
	if (req == current_wsgi_req()) return PyErr_Format(PyExc_ValueError, "slot %ld is that of the present request", id);
	for (entry = uwsgi.async_runqueue; entry; entry = entry->next) {
		if (entry->wsgi_req == req) Py_RETURN_NONE;	/* it goes on anyway */
	}
	async_reset_request(req);
	req->async_ready_fd = 0;
	entry = uwsgi_malloc(sizeof(struct uwsgi_async_request));
	entry->wsgi_req = req;
	entry->next = NULL;
	entry->prev = uwsgi.async_runqueue_last;
	if (uwsgi.async_runqueue_last) uwsgi.async_runqueue_last->next = entry;
	else uwsgi.async_runqueue = entry;
	uwsgi.async_runqueue_last = entry;
	Py_RETURN_NONE;
}

/*
 * Take what the client has sent together with its head away from uWSGI. Left where it is, it would be the first that
 * uwsgi.websocket_recv_nb() parses.
 */
static PyObject *early(PyObject *self, PyObject *none) {
	struct wsgi_request *req = current_wsgi_req();
	size_t size = req->proto_parser_remains;

	req->proto_parser_remains = 0;
	return PyBytes_FromStringAndSize(size ? req->proto_parser_remains_buf : "", size);
}

static PyMethodDef functions[] = {
	{"slot", slot, METH_NOARGS, "Return the number of the slot that the present request has."},
	{"wake", wake, METH_O, "Make another request, by its slot, go on, which waits in uwsgi.suspend()."},
	{"early", early, METH_NOARGS, "Return what came with the head of the present request, for it and nobody else."},
	{NULL, NULL, 0, NULL}
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "uwsgi.uws4r", NULL, -1, functions, NULL, NULL, NULL, NULL};

/* ---------------------------------------------------------------- start and end */

static void refuse(const char *what, const char *built, const char *running) {
	uwsgi_log("uws4r_plugin.so was built for %s %s, and this is %s: build it again (./build.sh native)\n", what, built, running);
	exit(1);
}

static void preinit_apps(void) {
	char built[16];
	int length = snprintf(built, sizeof(built), "%d.%d", PY_MAJOR_VERSION, PY_MINOR_VERSION);
	PyObject *python, *version;

	/* The layouts of uWSGI's structures depend on both. */
	if (strncmp(Py_GetVersion(), built, length) || Py_GetVersion()[length] != '.') refuse("Python", built, Py_GetVersion());
	version = PyDict_GetItemString(up.embedded_dict, "version");
	if (!version || strcmp(PyBytes_AsString(version), UWSGI_VERSION)) refuse("uWSGI", UWSGI_VERSION, "another");

	python = PyModule_Create(&module);
	if (!python || PyModule_AddIntConstant(python, "max_fd", uwsgi.max_fd) ||
		PyDict_SetItemString(up.embedded_dict, "uws4r", python)) {
		PyErr_Print();
		exit(1);
	}
	Py_DECREF(python);
}

static void init_apps(void) {
	struct uwsgi_socket *sock;

	/* The sockets of protocols that are spoken without TLS; uWSGI's own accept() of TLS does more. */
	for (sock = uwsgi.sockets; sock; sock = sock->next) {
		if (sock->proto_accept == uwsgi_proto_base_accept) sock->proto_accept = accept_into_clean_slot;
	}
	if (uwsgi.async < 2) return;
	if (!uwsgi.schedule_to_req || up.gil_get == gil_real_get || up.gil_release == gil_real_release) {
		uwsgi_log("uws4r_plugin.so needs greenlet = true, and the greenlet plugin before it, built for Python %d.%d (./build.sh native)\n",
			PY_MAJOR_VERSION, PY_MINOR_VERSION);
		exit(1);
	}
	/* The greenlet plugin has taken the GIL in its own way, and put something of its own where the thread state belongs. */
	PyGILState_Release((PyGILState_STATE) (long) pthread_getspecific(up.upt_gil_key));
	pthread_setspecific(up.upt_gil_key, up.main_thread);
	up.gil_get = take_gil;
	up.gil_release = give_gil_back;
	switch_to_request = uwsgi.schedule_to_req;
	uwsgi.schedule_to_req = run_request;
}

/* Mostly in the handler of a signal that ends the worker, between two rounds or in another thread. */
static void at_exit(void) {
	PyObject *hook, *result;

	if (!uwsgi.mywid || !switch_to_request || in_round) return;
	PyGILState_Ensure();
	hook = PyDict_GetItemString(up.embedded_dict, "atexit");
	if (!hook) return;
	result = PyObject_CallObject(hook, NULL);
	if (!result) PyErr_Print();
	Py_XDECREF(result);
}

struct uwsgi_plugin uws4r_plugin = {
	.name = "uws4r",
	.preinit_apps = preinit_apps,
	.init_apps = init_apps,
	.atexit = at_exit,
};
