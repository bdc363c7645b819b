"""A small TCP proxy between the service and a server, which fails in the way that a test asks."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards a free port of the loopback interface to ``target``, a host and a port.

    ``look`` is called with the direction and the bytes of everything that passes. ``mode`` is

    - ``pass``: forwards everything;
    - ``refuse``: does not listen;
    - ``black_hole``: accepts connections and never answers;
    - ``delay``: holds back each piece of an answer for ``late`` seconds;
    - ``throttle``: forwards 2 kB/s in each direction;
    - ``cut``: closes the connection after ``cut_after`` bytes of the client;
    - ``cut_answer``: forwards the whole request, and closes the connection in place of its answer;
    - ``garbage``: answers with bytes that are no answer.
    """

    def __init__(self, target):
        self.target = target
        self.cut_after = 1000
        self.late = (
            3  # the service waits for Redis for 0.5 s, for the store for S3_PUT_TIMEOUT, 8 s
        )
        self.look = lambda direction, data: None
        self._mode = "pass"
        self._open = set()
        self._lock = threading.Lock()
        self._listener = None
        self.port = 0
        self._listen()

    @property
    def mode(self):
        return self._mode

    @mode.setter
    def mode(self, mode):
        """Set the mode, and close open connections: kept-alive ones would keep the old mode."""
        self._mode = mode
        if mode == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        self._break_all()

    def close(self):
        self._stop_listening()
        self._break_all()

    def _listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self):
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _break_all(self):
        with self._lock:
            broken, self._open = self._open, set()
        for each in broken:
            _hang_up(each)

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client, self._mode), daemon=True).start()

    def _serve(self, client, mode):
        if mode == "black_hole":
            return
        if mode == "garbage":
            with contextlib.suppress(OSError):
                client.recv(1)
                client.sendall(b"%$!garbage\x00\xff\r\n\r\n" * 20)
            _hang_up(client)
            return
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            _hang_up(client)
            return
        server.settimeout(None)
        with self._lock:
            self._open.add(server)
        answers = threading.Thread(
            target=self._forward, args=(server, client, mode, "answer"), daemon=True
        )
        answers.start()
        self._forward(client, server, mode, "request")

    def _forward(self, source, sink, mode, direction):
        passed = 0
        try:
            while data := source.recv(2048 if mode == "throttle" else 65536):
                passed += len(data)
                self.look(direction, data)
                if mode == "cut" and direction == "request" and passed > self.cut_after:
                    break
                if mode == "cut_answer" and direction == "answer":
                    break
                if mode == "delay" and direction == "answer":
                    time.sleep(self.late)
                if mode == "throttle":
                    time.sleep(len(data) / 2048)
                sink.sendall(data)
        except OSError:
            pass
        _hang_up(source)
        _hang_up(sink)


def _hang_up(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
