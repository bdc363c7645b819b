"""What one hostile key can do, for the tests of what others feel of it and for bench/hostile.py.

An attack is a function of the service's address and a key, which gives a context manager: it goes
on while its block lasts. Its ``statuses`` are what it was answered. A hostile file more is a line
in ``FILES``; another kind of attack is a function like ``silent``.
"""

import socket
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from tests.image.corpus import gif_of, packed_rows, png_cut, png_of, webp_of_groups
from tests.pictures import padded

BOUNDARY = "b0undary"
MIB = 1024 * 1024


def form(file):
    disposition = 'Content-Disposition: form-data; name="image"; filename="a"'
    start = f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode()
    return start + file + f"\r\n--{BOUNDARY}--\r\n".encode()


class Attack:
    """Connections of one key, all at once, each in a thread of its own."""

    def __init__(self, url, key, bodies, pause=0.0):
        """``bodies`` has for each connection what it sends, and how much it keeps to itself.

        ``pause`` is the time in seconds between the beginnings of two of them.
        """
        self.statuses = Counter()
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._key, self._pause = key, pause
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._upload, args=each, daemon=True) for each in bodies
        ]

    def __enter__(self):
        for each in self._threads:
            each.start()
            time.sleep(self._pause)
        return self

    def __exit__(self, *_):
        self._over.set()
        for each in self._threads:
            each.join(60)

    @property
    def going_on(self):
        return any(each.is_alive() for each in self._threads)

    def _upload(self, body, kept):
        head = (
            f"POST /upload/image HTTP/1.1\r\nHost: x\r\nx-api-key: {self._key}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(self._address, 60) as connection:
            try:
                connection.sendall(head.encode() + memoryview(body)[: len(body) - kept])
                if kept:
                    self._over.wait(60)
                    return
            except ConnectionError:
                pass  # it was answered before it had sent all
            answer = connection.recv(12)
            self.statuses[int(answer[9:]) if len(answer) == 12 else "none"] += 1


def at_once(file, times=60):
    """A minute's uploads of the default rate, all in the same second."""
    return lambda url, key: Attack(url, key, [(form(file), 0)] * times)


def silent(large, middle, small):
    """So many bodies of 15 MiB, 1 MiB and 60 kB that lack their last byte, one after the other."""
    sizes = [15 * MIB] * large + [MIB] * middle + [60_000] * small
    bodies = {size: form(padded("PNG", size)) for size in set(sizes)}
    return lambda url, key: Attack(url, key, [(bodies[size], 1) for size in sizes], pause=0.05)


def grey(side):
    """A PNG of black rows: 100 megapixels are 100 kB."""
    packed = packed_rows(side, side, bits=8, interlaced=False)
    return png_of(side, side, packed, colour=0)


def largest():
    """A photo of 15 MiB, as cheap to look at as a small one."""
    return padded("PNG", 15 * MIB)


FILES = {
    "PNG of 100 megapixels": lambda: grey(10_000),
    "GIF of 10,000 frames and 100 megapixels": lambda: gif_of(100, 100, 10_000, (100, 100)),
    "GIF of 700,000 frames": lambda: gif_of(1, 1, 700_000),
    "WebP of 2,000 groups of prefix codes": lambda: webp_of_groups(2000, 512),
    "cut PNG that inflates to 1 GB": lambda: png_cut(1000, 10_000),
}
"""By name: a function that makes a file which asks for much."""
