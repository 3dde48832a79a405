"""
WebSockets for Django sites on uWSGI, with Redis as the message queue.

The modules in reading order, from the wire to the web; each imports only from those above it:

- ``rfc6455`` the protocol's numbers, ``errors``, ``refusals`` what an error of Redis means, ``greeting`` how a
  connection to it begins, ``quoting`` for the log, ``shares`` of addresses, ``_deflate`` compression, ``_decoder`` what
  clients send, ``_frames`` what goes out, names of channels, duplicates
- ``channels`` who is addressed, ``conf`` the settings
- ``redis_arguments`` in the settings, ``redis_clients`` made of them, ``threads`` for what may block, ``offloop`` the
  same for coroutines, ``redis_store``, ``publisher``, ``subscriber`` the API of a site, ``orders`` to all workers
- ``_connection`` one client, ``_channel`` one channel, ``_fanout`` who listens to what
- ``_pipeline`` what Redis is told and says, ``_intake`` whose input is read next, ``_hub`` the C loop
- ``link`` the one Redis connection, ``connector`` makes it
- ``attachment`` what a hub is told, ``counters``, ``_outbox`` what clients publish,
  ``heartbeat``, ``fetches`` what clients find when they come, ``keeping`` how much Redis keeps of what they publish,
  ``keeper`` keeps a hub linked
- ``hub`` decides, ``sessions`` whether logins still hold, ``recent`` orders, ``control`` carries them out
- ``shield`` against uWSGI's parser of frames, ``engines`` make a hub run, ``worker`` makes one
- ``_descriptors``, ``handshake``, ``detached`` from its request or ``native``: how a websocket opens; ``proxies``,
  ``cookies``, ``logins``, ``access``, ``admission``, ``mailbox`` for calls of the site's code, ``overrides``,
  ``application`` from a request to a websocket
- ``checks`` of the settings, ``uwsgi_server``, ``wsgi`` what uWSGI loads
- ``settings``, ``exceptions``, ``uwsgi_runserver``, ``wsgi_server`` names that ws4redis had
- ``wsgiref_server``, ``django_runserver``, ``embedded_redis``, ``management`` the websockets of ``manage.py runserver``
- ``probe`` a websocket client, ``diagnosis`` what its answers mean, ``claims`` of clients, ``redis_probe``, ``doctor``
  asks them all
- ``signals``, ``context_processors``, ``templatetags``, ``apps`` the Django app
- ``testing`` for the tests of a site, ``switch`` makes one of a site of ws4redis
"""

__version__ = "0.1.0"

try:
    from uws4r import _descriptors  # noqa: F401
except ImportError as error:  # with no other trouble whoever needs a compiled module meets it there
    if "interpreter" in str(error).lower():
        raise ImportError(
            "uws4r cannot be loaded by two applications of one uWSGI, unless they share an interpreter: set "
            "single-interpreter = true"
        ) from None
