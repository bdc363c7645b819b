"""CPU of receiving one file: `.venv/bin/python bench/receive.py`.

gunicorn with its threaded worker and tiny applications that do nothing but
receive. CPU milliseconds of the worker per request, user and system, from
/proc; the smallest of several rounds, the ways taken in turn.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "local")]

SIZES = {"0.16 MB": 160_000, "1.1 MB": 1_100_000, "5 MB": 5_000_000, "14 MB": 14_000_000}
WAYS = {
    "request.files": ("flask", "gthread"),
    "read() in 1 MiB pieces, find()": ("pieces", "gthread"),
    "app.intake.multipart on gunicorn's worker": ("lean", "gthread"),
    "app.intake.multipart on app.intake.worker": ("lean", "app.intake.worker.Worker"),
    "app.intake.multipart on app.intake.worker, chunked": ("lean", "app.intake.worker.Worker"),
}
ROUNDS, SECONDS = 3, 0.7
BOUNDARY = "----------------------------d74496d66958"
TICK = os.sysconf("SC_CLK_TCK")


def flask():
    from flask import Flask, request

    app = Flask(__name__)
    app.post("/")(lambda: str(len(request.files["image"].read())))
    return app


def pieces(environ, start_response):
    body = environ["wsgi.input"]
    data = b"".join(iter(lambda: body.read(1 << 20), b""))
    start = data.find(b"\r\n\r\n") + 4
    size = data.find(b"\r\n--" + BOUNDARY.encode(), start) - start
    start_response("200 OK", [("Content-Length", str(len(str(size))))])
    return [str(size).encode()]


def lean():
    from app.intake.buffers import BufferPool
    from app.intake.multipart import receive

    pool = BufferPool(1 << 27)

    def application(environ, start_response):
        with receive(environ, pool=pool, max_file_size=15 << 20, timeout=60) as form:
            size = str(len(form.image)).encode()
        start_response("200 OK", [("Content-Length", str(len(size)))])
        return [size]

    return application


class Server:
    """gunicorn, one worker with eight threads, on a free port."""

    def __init__(self, application, worker):
        import servers

        self.port = servers.free_port()
        target = "pieces" if application == "pieces" else f"{application}()"
        command = [str(servers.SCRIPTS / "gunicorn"), "--bind", f"127.0.0.1:{self.port}"]
        command += ["--worker-class", worker, "--threads", "8", "--no-control-socket"]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the server
        self.process = subprocess.Popen(
            [*command, f"bench.receive:{target}"], cwd=ROOT, stderr=self.log
        )

    def connect(self):
        while True:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", self.port))
            assert self.process.poll() is None
            time.sleep(0.05)

    def cpu(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        fields = [Path(f"/proc/{child}/stat").read_text().split() for child in children.split()]
        return sum(int(field[13]) + int(field[14]) for field in fields) / TICK * 1000


def wire(size, chunked):
    disposition = 'Content-Disposition: form-data; name="image"; filename="photo.jpg"'
    file = os.urandom(size)
    body = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    body += file + f"\r\n--{BOUNDARY}--\r\n".encode()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    if chunked:
        cut = [body[i : i + 65536] for i in range(0, len(body), 65536)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}"
    return f"{head}\r\n{length}\r\n\r\n".encode() + body


def upload(connection, request, size):
    connection.sendall(request)
    answer = b""
    while not answer.endswith(f"\r\n\r\n{size}".encode()):
        piece = connection.recv(4096)
        assert piece, answer
        answer += piece


def measure(server, size, chunked):
    request = wire(size, chunked)
    with server.connect() as connection:
        for _ in range(3):
            upload(connection, request, size)
        start, count, until = server.cpu(), 0, time.monotonic() + SECONDS
        while time.monotonic() < until:
            upload(connection, request, size)
            count += 1
        return (server.cpu() - start) / count


def main():
    started = {way: Server(*what) for way, what in WAYS.items()}
    try:
        rounds = [
            {
                (way, size): measure(server, SIZES[size], way.endswith("chunked"))
                for size in SIZES
                for way, server in started.items()
            }
            for _ in range(ROUNDS)
        ]
    finally:
        for server in started.values():
            server.process.terminate()
            server.process.wait()
    print("| CPU ms a request |", *(f"{size} |" for size in SIZES))
    print("|---|" + "---|" * len(SIZES))
    for way in WAYS:
        best = (min(each[way, size] for each in rounds) for size in SIZES)
        print(f"| {way} |", *(f"{milliseconds:.1f} |" for milliseconds in best))


if __name__ == "__main__":
    main()
