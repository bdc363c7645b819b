"""Bodies of every kind against the real gunicorn, and answers that reach who is still sending."""

import json
import random
import select
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

from tests.pictures import padded, picture
from tests.system.stack import HTTP, key_id, wait_until

LIMIT = 15 * 1024 * 1024
MANY = 64
PNG = picture()
BOUNDARY = "b0undary"


def form(file=PNG):
    disposition = 'Content-Disposition: form-data; name="image"; filename="a.png"'
    return (
        f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode()
        + file
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def head(key, *lines, version="1.1"):
    return "\r\n".join(
        [
            f"POST /upload/image HTTP/{version}",
            "Host: x",
            f"x-api-key: {key}",
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
            *lines,
            "",
            "",
        ]
    ).encode()


def chunked(body, size=65536):
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Client(socket.socket):
    """A client that writes bytes and reads answers, nothing more."""

    def __init__(self, service, seconds=30):
        super().__init__()
        self.settimeout(seconds)
        self.connect(("127.0.0.1", service.port))
        self.ahead = b""

    def more(self):
        piece = self.recv(65536)
        assert piece, f"closed after {self.ahead!r}"
        self.ahead += piece

    def read(self, size):
        while len(self.ahead) < size:
            self.more()
        data, self.ahead = self.ahead[:size], self.ahead[size:]
        return data

    def answer(self):
        """Status, headers and JSON of the next answer."""
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
        """Whether the server closes the connection without another byte, not with a reset."""
        return self.ahead == b"" and self.recv(1) == b""


@pytest.fixture
def client(service):
    with Client(service) as client:
        yield client


@pytest.fixture(scope="module")
def impatient(make_service, valkey, seaweedfs, bucket):
    """Waits a second for a body."""
    settings = {"BODY_TIMEOUT": "1", "WEB_CONCURRENCY": "1"}
    return make_service(valkey.url, seaweedfs.settings(bucket), **settings)


def send_all(service, start, body):
    """Sends everything, and only then looks for an answer."""
    with Client(service, 60) as client:
        client.sendall(start)
        client.sendall(body)
        return client.status()


def curl(service, key, path, *options):
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", *options]
    command += ["-H", f"x-api-key: {key}", "-F", f"image=@{path}", f"{service.url}/upload/image"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return int(done.stdout) if done.returncode == 0 else done.stderr


def all_of(statuses):
    """Each outcome that there was, once."""
    return set(statuses)


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
def test_100_of_100_that_send_15_mib_with_a_bad_key_see_the_401(service, clients):
    body = bytes(LIMIT)
    start = head("bad", f"Content-Length: {LIMIT}")
    with ThreadPoolExecutor(clients) as threads:
        statuses = threads.map(lambda _: send_all(service, start, body), range(100))
        assert all_of(statuses) == {401}


@pytest.mark.parametrize("clients", [1, 20])
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
@pytest.mark.needs_program("curl")
def test_50_of_50_curls_with_a_bad_key_see_the_401(service, large, clients, expect):
    with ThreadPoolExecutor(clients) as threads:
        statuses = threads.map(lambda _: curl(service, "bad", large, "-H", expect), range(50))
        assert all_of(statuses) == {401}


@pytest.mark.parametrize("clients", [1, 20])
def test_every_other_early_refusal_is_seen_too(service, api_key, clients):
    without_role, limited, good = api_key(roles=""), api_key(rate_limit="1/day"), api_key()
    body = bytes(40 * 1024 * 1024)
    length = f"Content-Length: {len(body)}"
    assert HTTP.request("POST", f"{service.url}/upload/image", headers={"x-api-key": limited})
    for key, expected in ((without_role, 403), (limited, 429), (good, 413)):
        start = head(key, length)
        with ThreadPoolExecutor(clients) as threads:
            statuses = threads.map(lambda _, s=start: send_all(service, s, body), range(20))
            assert all_of(statuses) == {expected}


@pytest.mark.needs_program("curl")
def test_curl_sees_the_413_of_40_mib(service, api_key, huge):
    key = api_key()
    with ThreadPoolExecutor(20) as threads:
        statuses = threads.map(lambda _: curl(service, key, huge, "-H", "Expect:"), range(40))
        assert all_of(statuses) == {413}


def test_a_chunked_body_over_the_limit_is_refused_and_the_answer_seen(service, api_key):
    body = chunked(form(bytes(40 * 1024 * 1024)))
    start = head(api_key(), "Transfer-Encoding: chunked")
    assert {send_all(service, start, body) for _ in range(10)} == {413}


def test_a_body_without_end_is_answered_while_it_is_sent(client):
    client.sendall(head("bad", f"Content-Length: {2**40}"))
    piece = bytes(65536)
    while not select.select([client], [], [], 0)[0]:
        client.sendall(piece)
    assert client.status() == 401


def test_an_early_answer_leaves_the_connection_open_when_the_body_was_dropped(client, api_key):
    body = form()
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
    body = form()
    client.sendall(head(api_key(), "Expect: 100-continue", f"Content-Length: {len(body)}"))
    assert client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(body)
    assert client.status() == 200


def test_a_client_that_announces_a_body_and_waits_is_answered(client):
    client.sendall(head("bad", f"Content-Length: {LIMIT}"))
    assert client.status() == 401
    assert client.ends()


def test_bodies_of_known_length_chunked_and_of_http_1_0_are_taken(service, api_key):
    key, body = api_key(), form(padded("PNG", 300_000))
    length = f"Content-Length: {len(body)}"
    with Client(service) as client:
        client.sendall(head(key, length) + body)
        assert client.status() == 200
        client.sendall(head(key, "Transfer-Encoding: chunked") + chunked(body, 10_000))
        assert client.status() == 200
        client.sendall(
            head(key, "Transfer-Encoding: chunked") + chunked(body[:400] + body[400:], 7)
        )
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
def test_a_body_that_ends_early_is_a_400(client, api_key, framing):
    body = form()
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


def test_a_body_that_ends_late_is_taken(client, api_key):
    body = form()
    client.sendall(head(api_key(), f"Content-Length: {len(body)}"))
    for byte in body[-30:]:
        client.sendall(body[: len(body) - 30])
        body = body[len(body) - 30 :]
        client.sendall(bytes([byte]))
        body = body[1:]
    assert client.status() == 200


def test_a_length_of_zero_or_none_is_a_400(client, api_key):
    key = api_key()
    for lines in (["Content-Length: 0"], []):
        client.sendall(head(key, *lines))
        status, _, problem = client.answer()
        assert (status, problem["code"]) == (400, "malformed_multipart")


def test_a_length_that_is_too_short_is_a_400_and_the_rest_no_request(client, api_key):
    body = form()
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
def test_lengths_that_contradict_are_refused_before_the_application(client, lines):
    client.sendall(head("s3cr3t", *lines) + b"hello")
    status, headers, problem = client.answer()
    assert (status, problem["code"]) == (400, "bad_request")
    assert headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == headers["x-request-id"]
    assert client.ends()


def test_broken_chunks_are_a_400_and_the_end_of_the_connection(client, api_key):
    client.sendall(head(api_key(), "Transfer-Encoding: chunked") + b"5\r\nhelloXX")
    status, headers, problem = client.answer()
    assert (status, problem["code"]) == (400, "malformed_multipart")
    assert headers["connection"] == "close"
    assert client.ends()


@pytest.mark.parametrize("framing", ["known", "chunked"])
def test_a_body_slower_than_the_service_waits_for_is_a_408(impatient, api_key, framing):
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


def test_a_full_service_says_so_once_no_room_has_come_free(
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
        begin(third, LIMIT // 2)  # one body may go beyond the room there is
        begin(fourth, LIMIT // 2)
        status, headers, problem = fourth.answer()
        assert (status, problem["code"]) == (503, "overloaded")
        assert int(headers["retry-after"]) > 0
        first.sendall(body[-1:])
        assert first.status() == 200


def test_silent_connections_and_slow_heads_hold_no_thread(service, api_key):
    slow = head(api_key(), f"Content-Length: {len(form())}")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(service)) for _ in range(2 * MANY)]
        for client in clients[MANY:]:
            client.sendall(slow[:30])
        assert service.upload(PNG, api_key()).status == 200
        for client in clients[MANY:]:
            client.sendall(slow[30:50])
        assert service.upload(PNG, api_key()).status == 200
        clients[MANY].sendall(slow[50:] + form())
        assert clients[MANY].status() == 200
        clients[0].sendall(slow + form())
        assert clients[0].status() == 200


def test_a_head_byte_by_byte_is_served_in_the_end(client, api_key):
    for byte in head(api_key(), f"Content-Length: {len(form())}"):
        client.sendall(bytes([byte]))
    client.sendall(form())
    assert client.status() == 200


def test_a_head_in_pieces_behind_another_request_is_served(client, api_key):
    request = head(api_key(), f"Content-Length: {len(form())}") + form()
    client.sendall(request + request[:40])
    assert client.status() == 200
    client.sendall(request[40:])
    assert client.status() == 200


def test_a_head_without_end_is_refused(client):
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    client.sendall(line * 33)
    assert client.status() == 431
    assert client.ends()


def test_a_client_that_closes_in_the_middle_of_a_head_is_let_go(service):
    with Client(service) as client:
        client.sendall(b"GET /healthz?x-api-key=s3cr3t HTTP/1.1\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.ends()
    assert "s3cr3t" not in service.log


def test_clients_that_do_not_close_keep_nobody_waiting(service):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(service)) for _ in range(MANY)]
        for client in clients:
            client.sendall(request)
        assert {client.status() for client in clients} == {200}
        answer = HTTP.request("GET", f"{service.url}/healthz", timeout=10)
        assert answer.status == 200


def test_connections_on_which_nothing_comes_do_not_hold_up_a_stop(
    make_service, valkey, seaweedfs, bucket
):
    service = make_service(valkey.url, seaweedfs.settings(bucket))
    with Client(service), Client(service) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert service.get("/healthz").status == 200
        assert service.stop(seconds=20) == 0


def test_nothing_unexpected_was_logged(service, impatient):
    for log in (service.log, impatient.log):
        assert "Traceback" not in log
        assert "Socket error" not in log
        assert '"level": "error"' not in log


def test_a_repeat_is_told_to_wait_however_slowly_the_first_one_comes(
    make_service, valkey, seaweedfs, bucket, api_key
):
    """A lock ends 20 s after UPLOAD_TIMEOUT, unless the body still comes."""
    settings = seaweedfs.settings(bucket) | {"UPLOAD_TIMEOUT": "3"}
    service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    key, retry_key = api_key(), {"Idempotency_Key": "slow"}
    start = head(key, "Idempotency-Key: slow", f"Content-Length: {len(form())}")
    with Client(service) as first:
        first.sendall(start)
        for byte in form()[:48]:
            first.sendall(bytes([byte]))
            time.sleep(0.5)
        repeat = service.upload(PNG, key, **retry_key)
        assert (repeat.status, repeat.json()["code"]) == (409, "idempotency_conflict")
        first.sendall(form()[48:])
        status, _, body = first.answer()
    assert status == 200
    assert service.upload(PNG, key, **retry_key).json() == body


def counted(redis_client, key):
    """How many requests of a key have been let in."""
    counts = redis_client.hvals(f"ratelimit:{key_id(key)}")
    return sum(int(each.split()[0]) for each in counts)


def test_three_hundred_slow_bodies_hold_up_nobody(make_service, valkey, seaweedfs, bucket, api_key):
    service = make_service(valkey.url, seaweedfs.settings(bucket), WEB_CONCURRENCY="1")
    key, body = api_key(), form()
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
    """A service that has four connections, and a few above these for health checks."""
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(FEW_CONNECTIONS)
    settings = seaweedfs.settings(bucket) | {"CORS_ORIGINS": "https://cms.example"}
    return make_service(valkey.url, settings, directory=copy, WEB_CONCURRENCY="1")


def test_near_the_limit_the_connection_that_has_been_silent_longest_is_closed(crowded, api_key):
    with ExitStack() as stack:
        silent = [stack.enter_context(Client(crowded)) for _ in range(8)]
        for client in (stack.enter_context(Client(crowded)), silent[-1]):
            client.sendall(head(api_key(), f"Content-Length: {len(form())}") + form())
            assert client.status() == 200
        assert silent[0].ends()


def test_above_the_limit_health_checks_are_served_and_all_else_is_a_503(
    crowded, redis_client, api_key
):
    key = api_key()
    with ExitStack() as stack:
        busy = [stack.enter_context(Client(crowded)) for _ in range(4)]
        for client in busy:
            client.sendall(head(key, f"Content-Length: {len(form())}") + form()[:-1])
        wait_until(lambda: counted(redis_client, key) == 4)
        assert crowded.get("/healthz").status == 200
        answer = crowded.upload(PNG, key, X_Request_Id="mine", Origin="https://cms.example")
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["X-Request-Id"] == "mine"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://cms.example"
        assert int(answer.headers["Retry-After"]) >= 1
        for client in busy:
            client.sendall(form()[-1:])
            assert client.status() == 200
    lines = [json.loads(line) for line in crowded.log.splitlines()]
    (refused,) = [line for line in lines if line.get("code") == "overloaded" and "path" in line]
    assert (refused["path"], refused["request_id"]) == ("/upload/image", "mine")


FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
"""


def test_a_process_with_few_files_keeps_some_for_its_own_calls(
    make_service, valkey, seaweedfs, bucket, copy, api_key
):
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(FEW_FILES)
    settings = seaweedfs.settings(bucket)
    service = make_service(valkey.url, settings, directory=copy, WEB_CONCURRENCY="1")
    before = psutil.Process(service.pid).children()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(Client(service))
        with Client(service) as client:
            client.sendall(head(api_key(), f"Content-Length: {len(form())}") + form())
            assert client.status() == 200
    assert psutil.Process(service.pid).children() == before
    assert "cannot accept" not in service.log


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", 200)])
def test_a_request_names_its_host_from_http_1_1_on(client, api_key, version, status):
    request = head(api_key(), f"Content-Length: {len(form())}", version=version) + form()
    client.sendall(request.replace(b"Host: x\r\n", b""))
    assert client.status() == status


def mutated(seeded, request):
    """The request with one to three wounds, in its head as likely as in its body."""
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
    """Of a request whose sender then closes its side; None where there is no answer to it."""
    with Client(service, 60) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else None


def test_5000_mutated_requests_cause_no_500_and_end_no_worker(service, api_key):
    seeded = random.Random(5000)
    key = api_key(rate_limit="1000000/second")
    whole = [
        head(key, f"Content-Length: {len(form())}") + form(),
        head(key, "Transfer-Encoding: chunked", "Idempotency-Key: k") + chunked(form(), 100),
        head(key, "Prefer: return=representation", f"Content-Length: {len(form())}") + form(),
    ]
    requests = [mutated(seeded, seeded.choice(whole)) for _ in range(5000)]
    workers = psutil.Process(service.pid).children
    wait_until(lambda: len(workers()) == 2)
    before = workers()
    with ThreadPoolExecutor(8) as clients:
        statuses = set(clients.map(lambda request: first_status(service, request), requests))
    assert {200, 400, 401} <= statuses
    assert not {each for each in statuses if each and each >= 500}
    assert workers() == before
    assert send_all(service, whole[0], b"") == 200


def test_clients_that_send_requests_and_read_no_answers_hold_up_nobody(service):
    with ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", service.port))
            client.settimeout(5)
            client.sendall(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        wait_until(lambda: service.get("/healthz").status == 200, 10)
