"""
Publishes from a process of its own, as a Celery task would: Django's settings, and nothing of its web part.

    DJANGO_SETTINGS_MODULE=chat.settings python examples/publishing/worker.py "the report is ready"
"""

import sys

from uws4r.publisher import RedisPublisher


def announce(text: str) -> int:
    """Tell everybody in the lobby; in a site that uses Celery, put ``@shared_task`` here."""
    publisher = RedisPublisher(facility="lobby", broadcast=True)
    return publisher.publish_message({"from": "the worker", "text": text})


if __name__ == "__main__":
    announce(" ".join(sys.argv[1:]) or "hello from a worker")
