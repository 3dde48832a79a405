from django.core.exceptions import PermissionDenied
from ws4redis.subscriber import RedisSubscriber


def get_allowed_channels(request, channels):
    if not request.user.is_authenticated:
        raise PermissionDenied("Not allowed to subscribe nor to publish on the Websocket!")
    return set(channels).intersection(["subscribe-broadcast", "subscribe-user", "publish-broadcast"])


class Subscriber(RedisSubscriber):
    def publish_message(self, message, expire=None):
        return super().publish_message(message.upper(), expire)
