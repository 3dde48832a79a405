"""What lies between a site and its Redis, and can be cut: a proxy that swallows packets without a FIN or RST."""

import contextlib
import socket
import threading


class Cable:
    """
    Forwards connections to ``target``, which may be changed for those to come.

    :meth:`cut` is a network that has gone: nothing passes any more, and nobody is told. What was connected then,
    or connects meanwhile, stays as it is for ever; :meth:`mend` is for connections made afterwards.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.connections = 0  # ever
        self._gone = threading.Event()  # of the present state; a new one for each
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = ("127.0.0.1", self.port)
        self._run(self._accept)

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._gone.set()

    def mend(self) -> None:
        """Let through what is connected from now on."""
        self._gone = threading.Event()

    def _run(self, function: object, *arguments: object) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments, daemon=True))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(near)
            gone = self._gone
            if gone.is_set():
                continue
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            self._sockets.append(far)
            self._run(self._pump, near, far, gone)
            self._run(self._pump, far, near, gone)

    def _pump(self, source: socket.socket, sink: socket.socket, gone: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if gone.is_set():
                    return
                sink.sendall(data)
        if not gone.is_set():
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._gone.set()
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()
