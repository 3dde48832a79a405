"""The numbers and fixed strings of RFC 6455, each with its section."""

from base64 import b64encode
from enum import IntEnum
from hashlib import sha1

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3
VERSION = 13  # §4.1
MAX_CONTROL_PAYLOAD = 125  # bytes, §5.5


class Opcode(IntEnum):
    """What a frame is (§5.2, §11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ends (§7.4.1 and the registry of §11.7); 4000–4999 are the application's."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the close frame had no code
    ABNORMAL = 1006  # never on the wire: there was no close frame
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


LOGGED_OUT = 4401  # ours: the login that the websocket was opened with has ended
RENEWED = 4501  # ours: the session has another key or another user now; the client comes back with what it has
KICKED = 4403  # ours: an administrator has closed it


def accept_key(key: str) -> str:
    """Return the value of ``Sec-WebSocket-Accept`` that answers ``Sec-WebSocket-Key`` (§4.2.2)."""
    return b64encode(sha1((key + GUID).encode()).digest()).decode()
