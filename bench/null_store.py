"""An S3 endpoint that forgets all it is sent: what is left is the cost of the service itself."""

import asyncio
import sys

ETAG = b"d41d8cd98f00b204e9800998ecf8427e"
BEGUN = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
DONE = b"<CompleteMultipartUploadResult><ETag>%b</ETag></CompleteMultipartUploadResult>" % ETAG


def answer(head):
    """200 to everything; minio-py sends a large object in parts, and wants XML for that."""
    line = head.partition(b"\r\n")[0]
    body = b"" if not line.startswith(b"POST") else BEGUN if b"uploads=" in line else DONE
    fields = (ETAG, len(body), body)
    return b'HTTP/1.1 200 OK\r\nETag: "%b"\r\nContent-Length: %d\r\n\r\n%b' % fields


class Connection(asyncio.BufferedProtocol):
    """Reads a head, drops a body of Content-Length, answers 200; and again."""

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
