"""An S3 endpoint that keeps no object, so that a benchmark measures the service alone."""

import asyncio
import sys

WRITTEN = {}
"""Size and hash of the last objects, by path: each process checks its first one with a HEAD."""


def answer(head):
    """The answer of a store that has just written the object, or has it."""
    line, *rest = head.split(b"\r\n")
    method, path, _ = line.split(b" ", 2)
    fields = {name.lower(): value.strip() for name, _, value in (f.partition(b":") for f in rest)}
    size, more = b"0", b""
    if method == b"PUT":
        WRITTEN[path] = fields[b"content-length"], fields[b"x-amz-content-sha256"]
        if len(WRITTEN) > 1000:
            del WRITTEN[next(iter(WRITTEN))]
        if checksum := fields.get(b"x-amz-checksum-sha256"):  # minio-py sends none
            more = b"x-amz-checksum-sha256: %b\r\n" % checksum
    elif method == b"HEAD" and path in WRITTEN:
        size, digest = WRITTEN[path]
        more = b"x-amz-meta-sha256: %b\r\n" % digest
    form = b"HTTP/1.1 200 OK\r\nx-amz-request-id: 1\r\n%bContent-Length: %b\r\n\r\n"
    return form % (more, size)


class Connection(asyncio.BufferedProtocol):
    """Reads a head, drops the body, answers 200, and begins again."""

    scratch = bytearray(1 << 20)

    def connection_made(self, transport):
        self.transport, self.head, self.left = transport, b"", 0

    def get_buffer(self, _):
        return self.scratch

    def buffer_updated(self, count):
        data = memoryview(self.scratch)[:count]
        while data:
            if self.left:
                taken = min(self.left, len(data))
                self.left, data = self.left - taken, data[taken:]
                if not self.left:
                    self.transport.write(self.answer)
                continue
            self.head += bytes(data)
            head, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.head, data = b"", memoryview(rest)
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
            self.left = 0 if head.startswith((b"HEAD", b"GET")) else int(fields[b"content-length"])
            self.answer = answer(head)
            if not self.left:
                self.transport.write(self.answer)


async def main():
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", int(sys.argv[1])
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
