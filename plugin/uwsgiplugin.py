# Read by `uwsgi --build-plugin`. UWSGI_SOURCE is where uWSGI's own sources are.
import os
import sysconfig

NAME = "uws4r"
CFLAGS = [
    "-I" + os.path.join(os.environ["UWSGI_SOURCE"], "plugins", "python"),
    "-I" + sysconfig.get_path("include"),
    "-I" + sysconfig.get_path("platinclude"),
]
LDFLAGS = []
LIBS = []
GCC_LIST = ["uws4r"]
