"""For tests without servers: a Redis and a store in memory, an API key, a clock."""

import hashlib

import fakeredis
import redis
import urllib3
from fakeredis._commands import command
from fakeredis.commands_mixins.server_mixin import ServerCommandsMixin

KEY = "upl_" + "k" * 44
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
RECORD = f"apikey:{DIGEST}"
ID = DIGEST[:12]


@command((), (bytes,))
def info(self, *_):
    """The INFO that fakeredis lacks: the run of the server, a day old unless a test sets it."""
    run = getattr(self._server, "run", "first")
    uptime = getattr(self._server, "uptime", 86400)
    return f"run_id:{run}\r\nuptime_in_seconds:{uptime}\r\n".encode()


ServerCommandsMixin.info = info


class FakeRedis(fakeredis.FakeRedis):
    """A Redis in memory.

    Redis runs the pipeline with the number ``lost``, counted from 1, but its answer is lost. With
    ``like_a_cluster`` that pipeline returns errors of the connection instead of raising them, as
    that of a Cluster does with ``raise_on_error=False`` (redis-py 8.1).

    With ``server.connected`` False the server is down. Two clients of one server see the same data.
    """

    sent = lost = 0
    like_a_cluster = False

    def __init__(self, server=None):
        self.server = server or fakeredis.FakeServer()
        super().__init__(server=self.server)

    def pipeline(self, *arguments, **options):
        pipe = super().pipeline(*arguments, **options)
        execute = pipe.execute

        def send(**options):
            answers = execute(**options)
            self.sent += 1
            if self.sent != self.lost:
                return answers
            if self.like_a_cluster and not options.get("raise_on_error", True):
                return [redis.exceptions.TimeoutError() for _ in answers]
            raise TimeoutError

        pipe.execute = send
        return pipe


class MemoryStore:
    """A store in memory: ``objects`` has (bytes, StoredObject) by key, ``ages`` seconds by key.

    A test may set errors to be raised: ``down`` by ``ensure_open`` and ``holds``, ``failure`` by
    ``put``, ``undeletable`` by ``delete``. ``during`` is called once, in the next ``put``.
    ``cause`` is the answer of ``check``.
    """

    def __init__(self):
        self.objects = {}
        self.ages = {}
        self.down = self.failure = self.undeletable = self.during = self.cause = None

    def ensure_open(self):
        if self.down:
            raise self.down

    def check(self):
        return self.cause

    ready = check

    def holds(self, key, size, sha256):
        if self.down:
            raise self.down
        data, image = self.objects.get(key, (b"", None))
        return image is not None and (len(data), image.sha256) == (size, sha256)

    def put(self, image, deadline):
        during, self.during = self.during, None
        if during:
            during()
        if self.failure:
            raise self.failure
        self.objects[image.key] = (b"".join(image.pieces), image)

    def age(self, key):
        return self.ages.get(key, 0) if key in self.objects else None

    def delete(self, key):
        if self.undeletable:
            raise self.undeletable
        return self.objects.pop(key, None) is not None


def send(client, file, name="photo.png", *, fields=None, headers=(), key=KEY, part="image"):
    """Send one upload through Flask's test client; ``key`` None sends no key."""
    body, content_type = urllib3.encode_multipart_formdata({**(fields or {}), part: (name, file)})
    headers = {"Content-Type": content_type, **dict(headers)}
    if key is not None:
        headers["x-api-key"] = key
    return client.post("/upload/image", data=body, headers=headers)


class Clock:
    """A clock that a test moves, in place of ``time.monotonic``."""

    now = 1000.0

    def __call__(self):
        return self.now
