"""A site written for django-websocket-redis; a test switches it to uws4r as the documentation says."""
