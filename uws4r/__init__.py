"""
WebSockets for Django sites on uWSGI, with Redis as the message queue.

The modules in reading order, from the wire to the web; each imports only from those above it:

``rfc6455`` numbers of the protocol · ``errors`` · ``_frames`` codec, names, duplicates ·
``channels`` who is addressed · ``conf`` settings · ``redis_store``, ``publisher``, ``subscriber``
the API of a site · ``_connection`` one client · ``link`` the one Redis connection, ``connector`` makes it ·
``_hub``, ``hub`` who listens to what · ``engines`` how a hub waits · ``access``, ``handshake``,
``application``, ``wsgi`` from a request to a websocket · ``apps``, ``signals`` the Django app.
"""

__version__ = "0.1.0"
