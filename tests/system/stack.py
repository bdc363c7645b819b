"""Real servers for the tests. Each starts on a free port; the fixture that starts one ends it."""

import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import redis as redis_library
import urllib3
from minio import Minio

from deploy.local import servers

ROOT = Path(__file__).resolve().parents[2]
# No retries: a test must see the first answer. A read takes up to a minute on a busy machine.
HTTP = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60), maxsize=64)


def wait_until(condition, seconds=30):
    """Poll until the condition is true, and return its result; an exception counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
            problem = "the condition stayed false"
        except Exception as error:
            problem = repr(error)
        assert time.monotonic() < deadline, f"waited {seconds} s: {problem}"
        time.sleep(0.02)


class Process:
    """A server whose output goes to a file.

    It starts in a new session, so that ``kill`` ends its children too and Ctrl-C in the terminal
    of the tests does not reach it.
    """

    directory = ROOT

    def __init__(self, command, log, **environ):
        self.command = command
        self.log_path = Path(log)
        self.environ = environ
        self.popen = None
        self.start()

    def start(self):
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=os.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.popen.pid

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        self.popen.send_signal(number)

    def stop(self, seconds=30):
        """End it with SIGTERM, kill what is left after some seconds; its exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        finally:
            self.kill()

    def kill(self):
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()


# The two servers with which tests of Redis are run: the wheel's Valkey, and Debian's Redis.
KINDS = [
    pytest.param("valkey"),
    pytest.param("redis", marks=pytest.mark.needs_program("redis-server")),
]


def redis_command(kind, directory, port, *options):
    """The command of a server of this kind that keeps its data in ``directory``."""
    program, *arguments = servers.valkey(directory, port, *options)
    return ["redis-server" if kind == "redis" else program, *arguments]


class Valkey(Process):
    """A running server of one of the ``KINDS``; by default it writes nothing to the disk."""

    def __init__(self, directory, port=None, options=("--save", ""), kind="valkey"):
        self.port = port or servers.free_port()
        directory = Path(directory)
        command = redis_command(kind, directory, self.port, *options)
        super().__init__(command, directory / "log")
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis_library.Redis(port=self.port)
        wait_until(self.client.ping)


class S3Server(Process):
    """A running store, and what its operator does with it, through minio's client."""

    region = "us-east-1"

    def __init__(self, command, directory, port, ca_certs=None, **environ):
        super().__init__(command, directory / "log", **environ)
        self.port = port
        self.endpoint = f"http{'s' if ca_certs else ''}://127.0.0.1:{port}"
        self.client = Minio(
            endpoint=f"127.0.0.1:{port}",
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=ca_certs is not None,
            region=self.region,
            # minio-py's own waits for 300 s and tries five times, which would hide a dead store.
            http_client=urllib3.PoolManager(timeout=10, retries=False, ca_certs=ca_certs),
        )
        wait_until(lambda: self.client.list_buckets() is not None, 60)

    def make_bucket(self, name):
        if not self.client.bucket_exists(bucket_name=name):
            self.client.make_bucket(bucket_name=name)
        return name

    def settings(self, bucket):
        """The environment of a service that uses this bucket."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
            "S3_BUCKET": bucket,
        }

    def keys(self, bucket):
        """The keys of all uploaded objects."""
        found = self.client.list_objects(bucket_name=bucket, prefix="uploads/", recursive=True)
        return {each.object_name for each in found}

    def read(self, bucket, key):
        with self.client.get_object(bucket_name=bucket, object_name=key) as answer:
            return answer.read()


class SeaweedFS(S3Server):
    """SeaweedFS in one process, from the wheel."""

    def __init__(self, directory, options=(), ca_certs=None):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        port = servers.free_port()
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(16)
        identities = directory / "identities.json"
        servers.write_identities(identities, self.access_key, self.secret_key)
        command = servers.seaweedfs(directory / "data", port, identities, *options)
        super().__init__(command, directory, port, ca_certs)
        # It answers requests before it has a volume to write an object to.
        wait_until(lambda: self.make_bucket("warm-up") and self.takes_objects(), 60)

    def takes_objects(self):
        """True once an object can be written; until then this raises."""
        self.client.put_object(
            bucket_name="warm-up", object_name="x", data=io.BytesIO(b"x"), length=1
        )
        return True


class Moto(S3Server):
    """The server of moto. Once ``make_user`` was called it checks IAM users and their policies."""

    def __init__(self, directory):
        port = servers.free_port()
        self.access_key, self.secret_key = "root", "root-secret"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        super().__init__(command, Path(directory), port)

    def make_user(self, name, policy):
        """The settings of a new user, whose rights are those of the policy."""
        iam = boto3.client(
            "iam",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        # The body is the number of requests that moto still lets pass without a check.
        HTTP.request("POST", f"{self.endpoint}/moto-api/reset-auth", body=b"0")
        return {"S3_ACCESS_KEY": made["AccessKeyId"], "S3_SECRET_KEY": made["SecretAccessKey"]}


class Service(Process):
    """The service under gunicorn, with the shipped configuration."""

    def __init__(self, log, environ, directory=ROOT):
        self.directory = directory
        self.port = int(environ["BIND"].rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(servers.SCRIPTS / "gunicorn"), "-c", "deploy/gunicorn.conf.py", "wsgi:app"]
        super().__init__(command, log, **environ)
        wait_until(lambda: self.get("/healthz").status == 200)

    @property
    def workers(self):
        """The process ids of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    def get(self, path, **headers):
        return HTTP.request("GET", self.url + path, headers=headers)

    def upload(self, file, key, **options):
        return upload(HTTP, self.url, file, key, **options)


def upload(http, url, file, key, *, name="photo.png", fields=None, query="", **headers):
    """Send one upload; ``headers`` have _ in place of -, and ``key`` None sends no key."""
    headers = {each.replace("_", "-"): value for each, value in headers.items()}
    if key is not None:
        headers["x-api-key"] = key
    fields = {**(fields or {}), "image": (name, file)}
    body, content_type = urllib3.encode_multipart_formdata(fields)
    headers["Content-Type"] = content_type
    return http.request("POST", f"{url}/upload/image{query}", body=body, headers=headers)


def run(command, *, directory=ROOT, timeout=60, **environ):
    """Run a program to its end; its exit status and what it printed."""
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def flask(*arguments, **environ):
    """Run one of the service's own commands to its end; it must print no traceback."""
    done = run([str(servers.SCRIPTS / "flask"), "--app", "wsgi", *arguments], **environ)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def doctor(redis_url, store_settings, **environ):
    """The exit status of ``flask doctor``, and its findings by the name of the check."""
    done = flask("doctor", "--json", REDIS_URL=redis_url, **(store_settings | environ))
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}


@contextmanager
def services(tmp_path_factory):
    """A factory of services; all of them are ended when the block ends."""
    running = []

    def make(redis_url, store_settings, *, directory=ROOT, **environ):
        settings = {
            "REDIS_URL": redis_url,
            **store_settings,
            "BIND": f"127.0.0.1:{servers.free_port()}",
            "WEB_CONCURRENCY": "2",
            "LOG_FORMAT": "json",
            **environ,
        }
        service = Service(tmp_path_factory.mktemp("service") / "log", settings, directory)
        running.append(service)
        return service

    try:
        yield make
    finally:
        for service in running:
            service.kill()


def outcome(answer):
    """The status of an upload, and its code: "ok" for a 200."""
    return answer.status, answer.json().get("code", "ok")


def record_name(key):
    """The name of the key's record in Redis."""
    return f"apikey:{hashlib.sha256(key.encode()).hexdigest()}"


def key_id(key):
    """The id under which logs, metrics and counters show the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def listed(redis_client):
    """The names of uploads under way, and of those on the sweep's list."""
    found = set()
    for pattern in ("pending:*", "sweeping:*"):
        for key in redis_client.scan_iter(pattern):
            found |= {name.decode() for name in redis_client.zrange(key, 0, -1)}
    return found


def object_names(keys):
    """The names in the journal of the objects with these keys."""
    return {key.removeprefix("uploads/").rpartition(".")[0] for key in keys}


def everything_in(redis_client):
    """Every name in Redis, with its value."""
    readers = {
        b"hash": redis_client.hgetall,
        b"string": redis_client.get,
        b"zset": lambda name: redis_client.zrange(name, 0, -1, withscores=True),
        b"set": redis_client.smembers,
        b"list": lambda name: redis_client.lrange(name, 0, -1),
    }
    return {name: readers[redis_client.type(name)](name) for name in redis_client.scan_iter()}


def upload_at_once(service, keys, file, uploads):
    """Count the statuses of this many uploads at once, sent with the keys in turn."""
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.jpg", file)})
    client = urllib3.PoolManager(maxsize=uploads, retries=False, timeout=120)

    def send(number):
        headers = {"Content-Type": content_type, "x-api-key": keys[number % len(keys)]}
        url = f"{service.url}/upload/image"
        return client.request("POST", url, body=body, headers=headers).status

    with ThreadPoolExecutor(uploads) as pool:
        return Counter(pool.map(send, range(uploads)))


def copy_code(directory):
    """Copy the code of the service to a directory, where a test may change it."""
    for part in ("app", "deploy"):
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "wsgi.py", directory)
    return directory


def add_to_gunicorn_conf(copy, text):
    """Add lines to gunicorn's configuration in a copy of the code."""
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(text)
