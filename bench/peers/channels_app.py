"""Channels: a consumer in a group, the pub/sub layer of channels_redis; an ASGI application for uvicorn."""

import os

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings
from django.urls import path


class Layer(RedisPubSubChannelLayer):
    """Takes payloads as they are published, so that all peers get the same; cheaper than its own msgpack."""

    def deserialize(self, message):
        return {"type": "push", "text": message.decode()}

    def serialize(self, message):
        return message["text"].encode()


class Consumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.group = self.scope["url_route"]["kwargs"]["name"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send(self.group, {"type": "push", "text": text_data})

    async def push(self, message):
        await self.send(text_data=message["text"])


settings.configure(
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_app.Layer",
            "CONFIG": {"hosts": [f"redis://127.0.0.1:{os.environ['REDIS_PORT']}"], "prefix": "bench"},
        }
    }
)
django.setup()
application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/<name>", Consumer.as_asgi())])})
