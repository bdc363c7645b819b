"""Request bodies of every kind: whole, slow, broken, and still being sent when the answer comes."""

import json
import random
import select
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.pictures import padded, picture
from tests.system.raw import chunked, form, head
from tests.system.stack import HTTP, add_to_gunicorn_conf, key_id, wait_until

LIMIT = 15 * 1024 * 1024
MANY = 64
PNG = picture()
FORM = form(PNG)


class Client(socket.socket):
    """A client that sends bytes and reads answers, and does nothing by itself."""

    def __init__(self, service, seconds=30):
        super().__init__()
        self.settimeout(seconds)
        self.connect(("127.0.0.1", service.port))
        self.ahead = b""

    def more(self):
        """Receive the next bytes into ``ahead``."""
        piece = self.recv(65536)
        assert piece, f"closed after {self.ahead!r}"
        self.ahead += piece

    def read(self, size):
        """The next bytes of the answers."""
        while len(self.ahead) < size:
            self.more()
        data, self.ahead = self.ahead[:size], self.ahead[size:]
        return data

    def answer(self):
        """The status, headers and JSON of the next answer."""
        while b"\r\n\r\n" not in self.ahead:
            self.more()
        lines, _, self.ahead = self.ahead.partition(b"\r\n\r\n")
        status, *fields = lines.decode().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        body = self.read(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, json.loads(body) if body else None

    def status(self):
        return self.answer()[0]

    def ends(self):
        """Whether the server closes the connection without another byte and without a reset."""
        return self.ahead == b"" and self.recv(1) == b""


@pytest.fixture
def client(service):
    with Client(service) as client:
        yield client


@pytest.fixture(scope="module")
def impatient(make_service, valkey, seaweedfs, bucket):
    """A service that waits only a second for a body."""
    settings = {"BODY_TIMEOUT": "1", "WEB_CONCURRENCY": "1"}
    return make_service(valkey.url, seaweedfs.settings(bucket), **settings)


def send_all(service, start, body):
    """Send everything before the answer is read; the status."""
    with Client(service, 60) as client:
        client.sendall(start)
        client.sendall(body)
        return client.status()


def curl(service, key, path, *options):
    """Upload a file with curl; the status that it saw, or the error that it printed."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *options]
    command += ["-H", f"x-api-key: {key}", "-F", f"image=@{path}", f"{service.url}/upload/image"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return int(done.stdout) if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(bytes(LIMIT))
    return path


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "huge.bin"
    path.write_bytes(bytes(40 * 1024 * 1024))
    return path


@pytest.mark.parametrize("clients", [1, 20])
def test_each_of_100_uploads_of_15_mib_with_a_bad_key_gets_its_401(service, clients):
    body = bytes(LIMIT)
    start = head("bad", f"Content-Length: {LIMIT}")
    with ThreadPoolExecutor(clients) as threads:
        statuses = threads.map(lambda _: send_all(service, start, body), range(100))
        assert set(statuses) == {401}


@pytest.mark.parametrize("clients", [1, 20])
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
@pytest.mark.needs_program("curl")
def test_each_of_50_curls_with_a_bad_key_gets_its_401(service, large, clients, expect):
    with ThreadPoolExecutor(clients) as threads:
        statuses = threads.map(lambda _: curl(service, "bad", large, "-H", expect), range(50))
        assert set(statuses) == {401}


@pytest.mark.parametrize("clients", [1, 20])
def test_clients_get_every_other_early_refusal_too(service, api_key, clients):
    without_role, limited, good = api_key(roles=""), api_key(rate_limit="1/day"), api_key()
    body = bytes(40 * 1024 * 1024)
    length = f"Content-Length: {len(body)}"
    # The one request that this key may send today.
    assert HTTP.request("POST", f"{service.url}/upload/image", headers={"x-api-key": limited})
    for key, expected in ((without_role, 403), (limited, 429), (good, 413)):
        start = head(key, length)
        with ThreadPoolExecutor(clients) as threads:
            statuses = threads.map(lambda _, s=start: send_all(service, s, body), range(20))
            assert set(statuses) == {expected}


@pytest.mark.needs_program("curl")
def test_curl_gets_the_413_for_40_mib(service, api_key, huge):
    key = api_key()
    with ThreadPoolExecutor(20) as threads:
        statuses = threads.map(lambda _: curl(service, key, huge, "-H", "Expect:"), range(40))
        assert set(statuses) == {413}


def test_a_client_gets_the_413_for_a_chunked_body_over_the_limit(service, api_key):
    body = chunked(form(bytes(40 * 1024 * 1024)))
    start = head(api_key(), "Transfer-Encoding: chunked")
    assert {send_all(service, start, body) for _ in range(10)} == {413}


def test_an_endless_body_is_answered_while_it_is_sent(client):
    client.sendall(head("bad", f"Content-Length: {2**40}"))
    piece = bytes(65536)
    while not select.select([client], [], [], 0)[0]:
        client.sendall(piece)
    assert client.status() == 401


def test_a_connection_stays_open_after_an_early_answer_and_a_dropped_body(client, api_key):
    body = FORM
    client.sendall(head("bad", f"Content-Length: {LIMIT}") + bytes(LIMIT))
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (401, "keep-alive")
    client.sendall(head(api_key(), f"Content-Length: {len(body)}") + body)
    assert client.status() == 200


def test_a_client_that_expects_100_continue_is_refused_without_sending(client):
    client.sendall(head("bad", "Expect: 100-continue", f"Content-Length: {LIMIT}"))
    status, headers, problem = client.answer()
    assert (status, headers["connection"]) == (401, "close")
    assert problem["code"] == "invalid_api_key"
    assert client.ends()


def test_a_client_that_expects_100_continue_gets_it_when_its_body_is_wanted(client, api_key):
    body = FORM
    client.sendall(head(api_key(), "Expect: 100-continue", f"Content-Length: {len(body)}"))
    assert client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(body)
    assert client.status() == 200


def test_a_client_that_announces_a_body_and_sends_none_is_answered(client):
    client.sendall(head("bad", f"Content-Length: {LIMIT}"))
    assert client.status() == 401
    assert client.ends()


def test_bodies_of_known_length_chunked_and_of_http_1_0_are_accepted(service, api_key):
    key, body = api_key(), form(padded("PNG", 300_000))
    length = f"Content-Length: {len(body)}"
    with Client(service) as client:
        client.sendall(head(key, length) + body)
        assert client.status() == 200
        client.sendall(head(key, "Transfer-Encoding: chunked") + chunked(body, 10_000))
        assert client.status() == 200
        client.sendall(head(key, "Transfer-Encoding: chunked") + chunked(body, 7))
        assert client.status() == 200
    with Client(service) as client:
        client.sendall(head(key, length, version="1.0") + body)
        assert client.status() == 200
        assert client.ends()


def test_pipelined_requests_are_answered_in_order(client, api_key):
    key, body = api_key(), form(padded("PNG", 100_000))
    known = head(key, f"Content-Length: {len(body)}") + body
    in_chunks = head(key, "Transfer-Encoding: chunked") + chunked(body)
    refused = head("bad", f"Content-Length: {len(body)}") + body
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    client.sendall(known + in_chunks + refused + known + last)
    assert [client.status() for _ in range(5)] == [200, 200, 401, 200, 404]
    assert client.ends()


@pytest.mark.parametrize("framing", ["known", "chunked"])
def test_a_body_that_ends_early_is_400(client, api_key, framing):
    body = FORM
    if framing == "known":
        request = head(api_key(), f"Content-Length: {len(body)}") + body[:-9]
    else:
        request = head(api_key(), "Transfer-Encoding: chunked") + chunked(body)[:-9]
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    status, headers, problem = client.answer()
    assert (status, problem["code"]) == (400, "malformed_multipart")
    assert headers["connection"] == "close"


def test_a_client_that_goes_away_is_logged_as_499(service, api_key):
    with Client(service) as client:
        client.sendall(head(api_key(), "X-Request-Id: gone-away", "Content-Length: 99999") + b"--b")
    [line] = wait_until(lambda: [line for line in service.log.splitlines() if "gone-away" in line])
    assert json.loads(line)["status"] == 499


def test_a_body_whose_end_comes_byte_by_byte_is_accepted(client, api_key):
    client.sendall(head(api_key(), f"Content-Length: {len(FORM)}") + FORM[:-30])
    for byte in FORM[-30:]:
        client.sendall(bytes([byte]))
    assert client.status() == 200


def test_a_request_with_a_content_length_of_zero_or_without_one_is_400(client, api_key):
    key = api_key()
    for lines in (["Content-Length: 0"], []):
        client.sendall(head(key, *lines))
        status, _, problem = client.answer()
        assert (status, problem["code"]) == (400, "malformed_multipart")


def test_a_content_length_that_is_too_small_is_400_and_the_rest_is_not_served(client, api_key):
    body = FORM
    client.sendall(head(api_key(), f"Content-Length: {len(body) - 9}") + body)
    status, _, problem = client.answer()
    assert (status, problem["code"]) == (400, "malformed_multipart")
    client.shutdown(socket.SHUT_WR)
    rest = b"".join(iter(lambda: client.recv(65536), b""))
    assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -5"],
        ["Content-Length: 5x"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, chunked"],
    ],
)
def test_broken_and_contradictory_lengths_are_refused_before_the_application(client, lines):
    client.sendall(head("s3cr3t", *lines) + b"hello")
    status, headers, problem = client.answer()
    assert (status, problem["code"]) == (400, "bad_request")
    assert headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == headers["x-request-id"]
    assert client.ends()


def test_broken_chunks_are_400_and_end_the_connection(client, api_key):
    client.sendall(head(api_key(), "Transfer-Encoding: chunked") + b"5\r\nhelloXX")
    status, headers, problem = client.answer()
    assert (status, problem["code"]) == (400, "malformed_multipart")
    assert headers["connection"] == "close"
    assert client.ends()


@pytest.mark.parametrize("framing", ["known", "chunked"])
def test_a_body_slower_than_the_service_waits_for_is_408(impatient, api_key, framing):
    start, trickle = {
        "known": (["Content-Length: 99999"], b"x"),
        "chunked": (["Transfer-Encoding: chunked"], b"1\r\nx\r\n"),
    }[framing]
    with Client(impatient) as client:
        client.sendall(head(api_key(), *start))
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(trickle)
        status, headers, problem = client.answer()
        assert (status, problem["code"]) == (408, "request_timeout")
        assert headers["connection"] == "close"


def test_a_body_that_finds_no_free_memory_in_time_is_503(
    make_service, valkey, seaweedfs, bucket, api_key
):
    small = {"MEMORY_LIMIT": str(256 * 1024 * 1024), "WEB_CONCURRENCY": "1"}
    service = make_service(valkey.url, seaweedfs.settings(bucket), **small)
    body = form(padded("PNG", LIMIT))

    def begin(client, sent):
        key = api_key()
        client.sendall(head(key, f"Content-Length: {len(body)}") + body[:sent])
        wait_until(lambda: counted(valkey.client, key) == 1)

    with ExitStack() as stack:
        first, second, third, fourth = (stack.enter_context(Client(service)) for _ in range(4))
        begin(first, len(body) - 1)
        begin(second, len(body) - 1)
        # One buffer at a time may grow beyond the limit: see app/intake/buffers.py.
        begin(third, LIMIT // 2)
        begin(fourth, LIMIT // 2)
        status, headers, problem = fourth.answer()
        assert (status, problem["code"]) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
        first.sendall(body[-1:])
        assert first.status() == 200


def test_silent_connections_and_slow_heads_do_not_delay_others(service, api_key):
    slow = head(api_key(), f"Content-Length: {len(FORM)}")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(service)) for _ in range(2 * MANY)]
        for client in clients[MANY:]:
            client.sendall(slow[:30])
        assert service.upload(PNG, api_key()).status == 200
        for client in clients[MANY:]:
            client.sendall(slow[30:50])
        assert service.upload(PNG, api_key()).status == 200
        clients[MANY].sendall(slow[50:] + FORM)
        assert clients[MANY].status() == 200
        clients[0].sendall(slow + FORM)
        assert clients[0].status() == 200


def test_a_head_that_comes_byte_by_byte_is_served(client, api_key):
    for byte in head(api_key(), f"Content-Length: {len(FORM)}"):
        client.sendall(bytes([byte]))
    client.sendall(FORM)
    assert client.status() == 200


def test_a_head_in_pieces_behind_another_request_is_served(client, api_key):
    request = head(api_key(), f"Content-Length: {len(FORM)}") + FORM
    client.sendall(request + request[:40])
    assert client.status() == 200
    client.sendall(request[40:])
    assert client.status() == 200


def test_an_endless_head_is_refused(client):
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    client.sendall(line * 33)  # the service reads 32 KiB of a head
    assert client.status() == 431
    assert client.ends()


def test_a_client_that_closes_in_the_middle_of_a_head_gets_no_answer(service):
    with Client(service) as client:
        client.sendall(b"GET /healthz?x-api-key=s3cr3t HTTP/1.1\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.ends()
    assert "s3cr3t" not in service.log


def test_clients_that_do_not_close_their_connection_do_not_delay_others(service):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(service)) for _ in range(MANY)]
        for client in clients:
            client.sendall(request)
        assert {client.status() for client in clients} == {200}
        answer = HTTP.request("GET", f"{service.url}/healthz", timeout=10)
        assert answer.status == 200


def test_silent_connections_and_heads_do_not_delay_a_stop(make_service, valkey, seaweedfs, bucket):
    service = make_service(valkey.url, seaweedfs.settings(bucket))
    with Client(service), Client(service) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert service.get("/healthz").status == 200
        assert service.stop(seconds=20) == 0


def test_the_tests_above_caused_no_traceback_and_no_error_in_the_logs(service, impatient):
    for log in (service.log, impatient.log):
        assert "Traceback" not in log
        assert "Socket error" not in log
        assert '"level": "error"' not in log


def test_a_repeat_is_409_however_slowly_the_body_of_the_first_request_comes(
    make_service, valkey, seaweedfs, bucket, api_key
):
    settings = seaweedfs.settings(bucket) | {"UPLOAD_TIMEOUT": "3"}
    service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    key, retry_key = api_key(), {"Idempotency_Key": "slow"}
    start = head(key, "Idempotency-Key: slow", f"Content-Length: {len(FORM)}")
    with Client(service) as first:
        first.sendall(start)
        # 24 s. The lock of an Idempotency-Key ends 20 s after UPLOAD_TIMEOUT (here 3 s) where the
        # service does not renew it, as it does while a body comes.
        for byte in FORM[:48]:
            first.sendall(bytes([byte]))
            time.sleep(0.5)
        repeat = service.upload(PNG, key, **retry_key)
        assert (repeat.status, repeat.json()["code"]) == (409, "idempotency_conflict")
        first.sendall(FORM[48:])
        status, _, body = first.answer()
    assert status == 200
    assert service.upload(PNG, key, **retry_key).json() == body


def counted(redis_client, key):
    """The number of requests of a key that its rate limit has counted."""
    counts = redis_client.hvals(f"ratelimit:{key_id(key)}")
    return sum(int(each.split()[0]) for each in counts)


def test_three_hundred_slow_bodies_do_not_delay_others(
    make_service, valkey, seaweedfs, bucket, api_key
):
    service = make_service(valkey.url, seaweedfs.settings(bucket), WEB_CONCURRENCY="1")
    key, body = api_key(), FORM
    start = head(key, f"Content-Length: {len(body)}") + body[:50]
    with ExitStack() as stack:
        slow = [stack.enter_context(Client(service)) for _ in range(300)]
        for number, client in enumerate(slow):
            client.sendall(start if number % 3 else start.replace(b"POST", b"GET"))
        wait_until(lambda: counted(valkey.client, key) == 200)
        for number in range(50, 60):
            assert service.upload(PNG, key).status == 200
            assert service.get("/healthz").status == 200
            assert service.get("/readyz").status == 200
            for client in slow:
                client.sendall(body[number : number + 1])
        for client in slow:
            client.sendall(body[60:])
        statuses = Counter(client.status() for client in slow)
    assert statuses == {200: 200, 405: 100}


FEW_CONNECTIONS = "\nworker_connections = 4\n"


@pytest.fixture
def crowded(make_service, valkey, seaweedfs, bucket, copy):
    """A service with four connections, and a few more for health checks."""
    add_to_gunicorn_conf(copy, FEW_CONNECTIONS)
    settings = seaweedfs.settings(bucket) | {"CORS_ORIGINS": "https://cms.example"}
    return make_service(valkey.url, settings, directory=copy, WEB_CONCURRENCY="1")


def test_near_the_limit_the_connection_that_has_been_idle_longest_is_closed(crowded, api_key):
    with ExitStack() as stack:
        silent = [stack.enter_context(Client(crowded)) for _ in range(8)]
        for client in (stack.enter_context(Client(crowded)), silent[-1]):
            client.sendall(head(api_key(), f"Content-Length: {len(FORM)}") + FORM)
            assert client.status() == 200
        assert silent[0].ends()


def test_above_the_limit_health_checks_are_served_and_other_requests_are_503(
    crowded, redis_client, api_key
):
    key = api_key()
    with ExitStack() as stack:
        busy = [stack.enter_context(Client(crowded)) for _ in range(4)]
        for client in busy:
            client.sendall(head(key, f"Content-Length: {len(FORM)}") + FORM[:-1])
        wait_until(lambda: counted(redis_client, key) == 4)
        assert crowded.get("/healthz").status == 200
        answer = crowded.upload(PNG, key, X_Request_Id="mine", Origin="https://cms.example")
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["X-Request-Id"] == "mine"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://cms.example"
        assert int(answer.headers["Retry-After"]) >= 1
        for client in busy:
            client.sendall(FORM[-1:])
            assert client.status() == 200
    lines = [json.loads(line) for line in crowded.log.splitlines()]
    (refused,) = [line for line in lines if line.get("code") == "overloaded" and "path" in line]
    assert (refused["path"], refused["request_id"]) == ("/upload/image", "mine")


FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
"""


def test_a_process_keeps_some_file_descriptors_for_its_own_calls(
    make_service, valkey, seaweedfs, bucket, copy, api_key
):
    add_to_gunicorn_conf(copy, FEW_FILES)
    settings = seaweedfs.settings(bucket)
    service = make_service(valkey.url, settings, directory=copy, WEB_CONCURRENCY="1")
    before = service.workers
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(Client(service))
        with Client(service) as client:
            client.sendall(head(api_key(), f"Content-Length: {len(FORM)}") + FORM)
            assert client.status() == 200
    assert service.workers == before
    assert "cannot accept" not in service.log


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", 200)])
def test_http_1_1_requires_a_host_header_and_http_1_0_does_not(client, api_key, version, status):
    request = head(api_key(), f"Content-Length: {len(FORM)}", version=version) + FORM
    client.sendall(request.replace(b"Host: x\r\n", b""))
    assert client.status() == status


def mutated(seeded, request):
    """The request with one to three random changes: half of them anywhere, half after its head."""
    request = bytearray(request)
    for _ in range(seeded.randint(1, 3)):
        part = request.index(b"\r\n\r\n") if b"\r\n\r\n" in request and seeded.random() < 0.5 else 0
        place = seeded.randrange(part, len(request)) if part else seeded.randrange(len(request))
        match seeded.randrange(4):
            case 0:
                request[place] = seeded.randrange(256)
            case 1:
                del request[place : place + seeded.randint(1, 30)]
            case 2:
                request[place:place] = seeded.choice(
                    [b"\r\n", b"\0", b":", b"--", b"0", b" ", b"\xff"]
                )
            case 3:
                start = seeded.randrange(len(request))
                request[place:place] = request[start : start + 40]
    return bytes(request)


def first_status(service, request):
    """The status of the answer to these bytes, after which the client sends no more; or None."""
    with Client(service, 60) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else None


def test_5000_mutated_requests_cause_no_500_and_end_no_worker(service, api_key):
    seeded = random.Random(5000)
    key = api_key(rate_limit="1000000/second")
    whole = [
        head(key, f"Content-Length: {len(FORM)}") + FORM,
        head(key, "Transfer-Encoding: chunked", "Idempotency-Key: k") + chunked(FORM, 100),
        head(key, "Prefer: return=representation", f"Content-Length: {len(FORM)}") + FORM,
    ]
    requests = [mutated(seeded, seeded.choice(whole)) for _ in range(5000)]
    wait_until(lambda: len(service.workers) == 2)
    before = service.workers
    with ThreadPoolExecutor(8) as clients:
        statuses = set(clients.map(lambda request: first_status(service, request), requests))
    assert {200, 400, 401} <= statuses
    assert not {each for each in statuses if each and each >= 500}
    assert service.workers == before
    assert send_all(service, whole[0], b"") == 200


def test_clients_that_send_requests_and_read_no_answers_do_not_delay_others(service):
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", service.port))
            client.settimeout(5)
            client.sendall(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        wait_until(lambda: service.get("/healthz").status == 200, 10)
