"""What has happened in this process and is worth a number: refusals and closes, by reason."""

import threading
from collections import Counter

MOST = 100  # different reasons of a kind; beyond it they are counted together

REFUSED = "refused"  # handshakes, by status and sentence
CLOSED = "closed"  # websockets, by close code and who closed
NOT_KEPT = "not_kept"  # messages of clients that were delivered and not kept, by the limit that they were over


class Counters:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {kind: Counter() for kind in (REFUSED, CLOSED, NOT_KEPT)}

    def add(self, kind: str, reason: str) -> None:
        """Count one; reasons that come without end do not take memory without end."""
        with self._lock:
            counts = self._counts[kind]
            counts[reason if reason in counts or len(counts) < MOST else "others"] += 1

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return the numbers by kind and reason, the most frequent first."""
        with self._lock:
            return {kind: dict(counts.most_common()) for kind, counts in self._counts.items()}


counters = Counters()
