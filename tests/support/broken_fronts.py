"""What may stand in front of a site and does harm: small servers of the tests' own, each doing one thing wrong."""

import socket
import threading

from tests.support.wire import TIMEOUT


class Front:
    """
    Listens, and serves each connection in a thread of its own until :meth:`close`.

    A subclass says in :meth:`serve` how.
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT)
            self.open.append(connection)
            self._run(self._serve, connection)

    def _run(self, function: object, *arguments: object) -> None:
        self.threads.append(threading.Thread(target=function, args=arguments, daemon=True))  # type: ignore[arg-type]
        self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.serve(connection)
                # Closed only, it would not end as long as another thread waits for what it receives.
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side has gone

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
        for thread in self.threads:
            thread.join()


class Canned(Front):
    """Answers every request with the same bytes; None: with nothing, ever."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        if self.answer is None:
            connection.recv(1)  # until somebody gives up
        else:
            connection.sendall(self.answer)


class Collecting(Front):
    """
    Passes everything on to ``behind``, but collects what comes back behind the head of the answer.

    Args:
        size: Bytes that it waits for; 0: it closes the connection instead.
    """

    def __init__(self, behind: tuple[str, int], size: int) -> None:
        self.behind = behind
        self.size = size
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(self.behind, TIMEOUT) as behind:
            self.open.append(behind)
            self._run(self._forward, connection, behind)
            head = b""
            while b"\r\n\r\n" not in head:
                data = behind.recv(1)
                if not data:  # somebody has connected, and asked nothing
                    return
                head += data
            connection.sendall(head)
            waiting = b""
            while self.size and (data := behind.recv(65536)):
                waiting += data
                if len(waiting) >= self.size:
                    connection.sendall(waiting)
                    waiting = b""

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of them has gone
