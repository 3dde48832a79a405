# Read by `uwsgi --build-plugin`. Needs nothing but the headers that uWSGI's own binary carries.
NAME = "uws4r_front"
CFLAGS = []
LDFLAGS = []
LIBS = []
GCC_LIST = ["front", "porter"]
