"""
Giving orders to all workers of a site, from any process of it: a request, a signal, ``manage.py``.

See ``control`` for what becomes of them. Needs neither uWSGI nor a hub.
"""

import json
import logging
import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import redis

from uws4r.conf import conf
from uws4r.errors import ConfigurationError
from uws4r.redis_clients import redis_client
from uws4r.refusals import explained

logger = logging.getLogger("uws4r.orders")


def control_channel() -> str:
    """Return the channel on which the workers of this site take orders."""
    prefix = conf.WS4REDIS_PREFIX
    return f"{prefix}:uws4r:control" if prefix else "uws4r:control"


def tell(**order: Any) -> None:
    """
    Give an order on behalf of something that must not fail because of it.

    Where Redis is away no worker can be told; what can be found out otherwise, the next look at the sessions will.
    """
    try:
        redis_client().publish(control_channel(), json.dumps(order))
    except (redis.RedisError, OSError, ConfigurationError) as error:
        logger.warning("no worker could be told to %s: %s", order.get("do"), explained(error))


def ask(timeout: float = 3.0, **order: Any) -> list[dict[str, Any]]:
    """
    Give an order, and return the answers of all workers.

    Args:
        timeout: Seconds after which no more answers are waited for.
    Raises:
        redis.RedisError: Redis cannot be reached.
        TimeoutError: Not all workers have answered; has those that have, as its second argument.
    """
    reply_to = f"{control_channel()}:{uuid4().hex}"
    client = redis_client()
    answers: list[dict[str, Any]] = []
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(reply_to)
        listener.get_message(timeout=timeout)  # subscribed
        workers = client.publish(control_channel(), json.dumps({**order, "reply_to": reply_to}))
        deadline = time.monotonic() + timeout
        for answer in _messages(listener, deadline) if workers else ():
            answers.append(json.loads(answer))
            if len(answers) >= workers:
                break
        if len(answers) < workers:
            raise TimeoutError(f"{workers - len(answers)} of {workers} workers have not answered", answers)
    return answers


def _messages(listener: Any, deadline: float) -> Iterable[bytes]:
    while (left := deadline - time.monotonic()) > 0:
        if (message := listener.get_message(timeout=left)) is not None:
            yield message["data"]
