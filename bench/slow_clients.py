"""What slow clients do to a normal one: 200 of them at 1 kB/s for 30 s.

    python bench/slow_clients.py URL KEY [--clients 200] [--seconds 30] [--ca certificate.pem]

Uploads an image of 100 kB every half second, first alone, then beside clients that send their
bodies at 1 kB/s, and prints the median, the 95th percentile and the slowest of both.
"""

import argparse
import asyncio
import io
import ssl
import statistics
import time
from urllib.parse import urlsplit

import urllib3
from PIL import Image


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--ca", help="certificate to trust")
    asyncio.run(measure(parser.parse_args()))


async def measure(options):
    http = urllib3.PoolManager(ca_certs=options.ca, retries=False, timeout=90)
    upload = prepare(http, options)
    alone = [await asyncio.to_thread(upload) for _ in range(20)]
    print(f"alone:        {describe(alone)}")
    slow = [asyncio.create_task(drip(options)) for _ in range(options.clients)]
    await asyncio.sleep(2)
    beside = []
    while not all(task.done() for task in slow):
        beside.append(await asyncio.to_thread(upload))
        await asyncio.sleep(0.5)
    print(f"beside {options.clients}:   {describe(beside)}")
    answers = [task.result() for task in slow]
    print(f"slow clients: { {answer: answers.count(answer) for answer in set(answers)} }")


def prepare(http, options):
    """A function that uploads once and gives (seconds, status)."""
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.png", picture())})
    headers = {"x-api-key": options.key, "Content-Type": content_type}

    def upload():
        start = time.perf_counter()
        url = f"{options.url}/upload/image"
        status = http.request("POST", url, body=body, headers=headers).status
        return time.perf_counter() - start, status

    return upload


def picture():
    """A noisy PNG of about 100 kB."""
    file = io.BytesIO()
    Image.effect_noise((320, 320), 90).save(file, "PNG")
    return file.getvalue()


async def drip(options):
    """One slow client; how it ended."""
    url = urlsplit(options.url)
    context = ssl.create_default_context(cafile=options.ca) if url.scheme == "https" else None
    head = (
        f"POST /upload/image HTTP/1.1\r\nHost: {url.netloc}\r\nx-api-key: {options.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context)
        writer.write(head.encode())
        for _ in range(options.seconds):
            writer.write(bytes(1000))
            await writer.drain()
            await asyncio.sleep(1)
            if reader.at_eof():
                return "closed early"
        writer.close()
    except OSError as error:
        return type(error).__name__
    return "sent to the end"


def describe(results):
    seconds = sorted(taken for taken, _ in results)
    statuses = {status for _, status in results}
    middle = statistics.median(seconds)
    late = seconds[int(len(seconds) * 0.95)]
    return (
        f"{len(seconds)} uploads, median {middle * 1000:.0f} ms,"
        f" 95th percentile {late * 1000:.0f} ms, slowest {seconds[-1] * 1000:.0f} ms, {statuses}"
    )


if __name__ == "__main__":
    main()
