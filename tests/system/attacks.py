"""Attacks by one hostile key, for test_hostile.py and bench/hostile.py, which watch another key.

``at_once`` and ``silent`` return a function of the service's address and a key. That function
returns an ``Attack``, a context manager: the attack lasts as long as its block, and its
``statuses`` count the answers that it got. To add a hostile file, add a line to ``FILES``; to add
another kind of attack, add a function like ``silent``.
"""

import socket
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from tests.image.corpus import gif_of, packed_rows, png_cut, png_of, webp_of_groups
from tests.pictures import padded
from tests.system.raw import form, head

MIB = 1024 * 1024


class Attack:
    """Several uploads of one key at the same time, each on its own connection and thread."""

    def __init__(self, url, key, bodies, pause=0.0):
        """``bodies`` has for each connection its body, and how many of the last bytes it withholds.

        A new connection begins every ``pause`` seconds.
        """
        self.statuses = Counter()
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._key, self._pause = key, pause
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._upload, args=each, daemon=True) for each in bodies
        ]

    def __enter__(self):
        for each in self._threads:
            each.start()
            time.sleep(self._pause)
        return self

    def __exit__(self, *_):
        self._ended.set()
        for each in self._threads:
            each.join(60)

    @property
    def going_on(self):
        """Whether an upload is still without its answer."""
        return any(each.is_alive() for each in self._threads)

    def _upload(self, body, withheld):
        start = head(self._key, f"Content-Length: {len(body)}", "Connection: close")
        with socket.create_connection(self._address, 60) as connection:
            try:
                connection.sendall(start + memoryview(body)[: len(body) - withheld])
                if withheld:
                    self._ended.wait(60)
                    return
            except ConnectionError:
                pass  # the service answered before it had read the whole body
            answer = connection.recv(12)  # "HTTP/1.1 200"
            self.statuses[int(answer[9:]) if len(answer) == 12 else "none"] += 1


def at_once(file, times=60):
    """An attack that uploads the file 60 times at once: the default rate of a whole minute."""
    return lambda url, key: Attack(url, key, [(form(file), 0)] * times)


def silent(large, middle, small):
    """An attack of bodies whose last byte never comes.

    The numbers are those of bodies of 15 MiB, 1 MiB and 60 kB.
    """
    sizes = [15 * MIB] * large + [MIB] * middle + [60_000] * small
    bodies = {size: form(padded("PNG", size)) for size in set(sizes)}
    return lambda url, key: Attack(url, key, [(bodies[size], 1) for size in sizes], pause=0.05)


def grey(side):
    """A black PNG: with a side of 10,000 it has 100 megapixels in 100 kB."""
    packed = packed_rows(side, side, bits=8, interlaced=False)
    return png_of(side, side, packed, colour=0)


def largest():
    """A file of 15 MiB, the largest that is accepted, with few pixels to decode."""
    return padded("PNG", 15 * MIB)


FILES = {
    "PNG of 100 megapixels": lambda: grey(10_000),
    "GIF of 10,000 frames and 100 megapixels": lambda: gif_of(100, 100, 10_000, (100, 100)),
    "GIF of 700,000 frames": lambda: gif_of(1, 1, 700_000),
    "WebP of 2,000 groups of prefix codes": lambda: webp_of_groups(2000, 512),
    "cut PNG that inflates to 1 GB": lambda: png_cut(1000, 10_000),
}
"""Functions that make small files which are expensive to check, by name."""
