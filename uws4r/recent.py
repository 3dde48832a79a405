"""The orders of the last minute, for clients whose handshakes were under way when they came."""

from collections import deque
from collections.abc import Iterator
from typing import Any

KEPT = 60.0  # seconds
MOST_ORDERS = 2000
MOST_NAMES = 100_000  # in all of them together; each takes some hundred bytes


class Recent:
    """
    Orders, oldest first, each with the ``received`` of the monotonic clock and the ``size`` of how many names it has.

    There are as many as fit: :attr:`forgotten` says since when all of them are here.
    """

    def __init__(self) -> None:
        self.forgotten = float("-inf")  # when the last one was received that is no longer here
        self._orders: deque[Any] = deque()
        self._names = 0

    def __len__(self) -> int:
        return len(self._orders)

    def keep(self, order: Any) -> None:
        """Keep an order, and forget those that are too old, or for which there is no room."""
        self._orders.append(order)
        self._names += order.size
        while (
            self._orders[0].received < order.received - KEPT
            or len(self._orders) > MOST_ORDERS
            or (self._names > MOST_NAMES and len(self._orders) > 1)
        ):
            oldest = self._orders.popleft()
            self._names -= oldest.size
            self.forgotten = oldest.received

    def since(self, began: float) -> Iterator[Any]:
        """Return the orders that were received then or later, the newest first."""
        for order in reversed(self._orders):
            if order.received < began:
                return
            yield order
