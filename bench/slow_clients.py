"""How slow clients affect a normal one, straight to gunicorn and through nginx.

    python -m bench.slow_clients [--seconds 30] [--check structure]

A normal client uploads 100 kB every half second, alone and beside clients that send their bodies
slowly. The table has its latency, the statuses of all, and the memory (PSS) of the service.
"""

import argparse
import asyncio
import multiprocessing
import secrets
import ssl
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import urllib3

from bench import photos
from bench.uploads import KEY, Stack, Web, tally
from tests.system.nginx import Nginx

SITUATIONS = ((0, 0), (200, 1_000), (1_000, 1_000), (200, 20_000))
"""Numbers of slow clients, and the bytes that each sends in a second."""

# Not the key of the slow clients: a key's own bodies may take its share of the memory.
NORMAL_KEY = secrets.token_hex(32)
# The site limits each address, and here all clients have the same one.
NO_LIMITS = (
    ("rate=50r/s", "rate=9000r/s"),
    ("limit_conn uploader_connections 500", "limit_conn uploader_connections 5000"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--check", default="decode", choices=("decode", "structure"))
    parser.add_argument("--straight", action="store_true", help="without nginx")
    options = parser.parse_args()
    print("| way | slow clients | normal: p50 | p99 | statuses | slow: ended | PSS |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stack = Stack(directory)
        stack.add_key(NORMAL_KEY)
        web = Web(stack, options.check, directory)
        try:
            table("gunicorn", f"http://127.0.0.1:{web.port}", None, web, options.seconds)
            if not options.straight:
                nginx = Nginx(directory, web.port, NO_LIMITS)
                ca = str(directory / "certificate.pem")
                try:
                    table("nginx", nginx.url, ca, web, options.seconds)
                finally:
                    nginx.stop()
        finally:
            web.stop()
            stack.stop()


def table(way, url, ca, web, seconds):
    upload = normal(url, ca)
    for _ in range(20):
        upload()
    for clients, speed in SITUATIONS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            # In another process: they must not take the interpreter of the normal client.
            slow = pool.apply_async(drip_all, (url, ca, KEY, clients, speed, seconds))
            time.sleep(3)  # until all of them are connected
            taken, memory = [], 0
            while not slow.ready():
                start = time.perf_counter()
                status = upload()
                taken.append((time.perf_counter() - start, status))
                memory = max(memory, web.memory()[0])
                time.sleep(0.5)
            row(way, clients, speed, taken, slow.get(), memory)


def row(way, clients, speed, taken, slow, memory):
    times = sorted(each * 1000 for each, _ in taken)
    statuses = Counter(status for _, status in taken)
    print(
        f"| {way} | {clients} at {speed // 1000} kB/s | {statistics.median(times):.0f} ms"
        f" | {times[int(len(times) * 0.99)]:.0f} ms | {tally(statuses)} | {tally(slow)}"
        f" | {memory / 2**20:.0f} MiB |",
        flush=True,
    )


def normal(url, ca):
    """A function that uploads once and returns the status."""
    http = urllib3.PoolManager(ca_certs=ca, retries=False, timeout=90)
    file = photos.closest(photos.photo(640, 480), 1e5)
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.jpg", file)})
    headers = {"x-api-key": NORMAL_KEY, "Content-Type": content_type}
    return lambda: http.request("POST", f"{url}/upload/image", body=body, headers=headers).status


def drip_all(url, ca, key, clients, speed, seconds):
    """Run the slow clients for ``seconds``; counts of their results (see ``drip``)."""

    async def all_at_once():
        each = (drip(urllib3.util.parse_url(url), ca, key, speed, seconds) for _ in range(clients))
        ends = await asyncio.gather(*each)
        await asyncio.sleep(0 if clients else seconds)
        return Counter(ends)

    return asyncio.run(all_at_once())


async def drip(url, ca, key, speed, seconds):
    """Run one slow client.

    Its result is the status of an early answer, "closed", the name of an error, or "stayed".
    """
    context = ssl.create_default_context(cafile=ca) if ca else None
    head = (
        f"POST /upload/image HTTP/1.1\r\nHost: {url.netloc}\r\nx-api-key: {key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
        writer.write(head.encode())
        answer = asyncio.ensure_future(reader.read(12))
        for _ in range(seconds):
            writer.write(bytes(speed))
            await writer.drain()
            await asyncio.sleep(1)
            if answer.done():
                return answer.result()[9:].decode() or "closed"
        answer.cancel()
        writer.close()
    except OSError as error:
        return type(error).__name__
    return "stayed"


if __name__ == "__main__":
    main()
