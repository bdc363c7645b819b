"""The shipped nginx site in front of the real service: every answer, and what it logs."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from urllib.parse import quote, quote_plus

import pytest

from deploy.local.servers import free_port
from tests.pictures import plain
from tests.system.nginx import Nginx
from tests.system.raw import head
from tests.system.stack import record_name, wait_until

pytestmark = pytest.mark.needs_program("nginx", "openssl")

LIMIT = 15 * 1024 * 1024
SECRET = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def make_nginx(tmp_path_factory):
    running = []

    def make(upstream_port, *changes):
        running.append(Nginx(tmp_path_factory.mktemp("nginx"), upstream_port, changes))
        return running[-1]

    yield make
    for nginx in running:
        nginx.stop()


@pytest.fixture(scope="module")
def site(make_nginx, service):
    """The site in front of the service."""
    return make_nginx(service.port)


@pytest.fixture(scope="module")
def lonely(make_nginx):
    """The site without a service behind it."""
    return make_nginx(free_port())


@pytest.fixture
def silent_upstream():
    """The port of a server that accepts connections, reads and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    kept.append(connection)
                    threading.Thread(target=drain, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for connection in kept:
            connection.close()


def drain(connection):
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def picture(size=None):
    """A PNG, filled up to ``size`` bytes after its end."""
    return plain().ljust(size or 0, b"\0")


def problem(answer, status, code):
    """Check that an answer is a complete problem document with this code, and return it."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    document = json.loads(answer.data)
    assert {"type", "title", "status", "detail", "code", "request_id"} <= document.keys()
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"/docs#{code}"
    assert document["request_id"] == answer.headers["X-Request-Id"]
    return document


class RawAnswer:
    """The answer to these exact bytes."""

    def __init__(self, nginx, *pieces):
        with nginx.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
            except (ssl.SSLEOFError, ConnectionResetError):
                pass  # closed without a TLS close_notify: the bytes before it count
        head, _, self.data = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)


class CurlAnswer:
    """The answer that curl sees, by default over HTTP/2."""

    def __init__(self, nginx, *arguments, stdin=b""):
        certificate = nginx.directory / "certificate.pem"
        options = ["--silent", "--include", "--http2", "--max-time", "30", "-H", "Expect:"]
        command = ["curl", *options, "--cacert", str(certificate), *arguments]
        received = subprocess.run(command, input=stdin, capture_output=True, check=False).stdout
        head, _, self.data = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.version, self.status = first.split()[0], int(first.split()[1])
        self.headers = {
            name.title(): value for name, value in (line.split(": ", 1) for line in lines)
        }


def access_log(nginx, request_id):
    """The line of one request in the access log; waits for it."""

    def find():
        lines = (nginx.directory / "uploader.access.log").read_text().splitlines()
        found = [json.loads(line) for line in lines if request_id in line]
        return found[0] if found else None

    return wait_until(find)


def test_nginx_accepts_the_site_without_a_warning(lonely):
    command = [*lonely.command, "-t"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "test is successful" in output
    assert "[warn]" not in output


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_file_up_to_the_limit_is_stored(site, seaweedfs, bucket, api_key, size):
    file = picture(size)
    answer = site.upload(file, api_key())
    assert answer.status == 200
    assert seaweedfs.read(bucket, json.loads(answer.data)["data"]["key"]) == file


def test_a_file_one_byte_over_the_limit_is_refused_by_the_application(site, api_key):
    document = problem(site.upload(picture(LIMIT + 1), api_key()), 413, "file_too_large")
    assert document["limit"] == LIMIT
    assert document["actual"] == LIMIT + 1


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 40 * 1024 * 1024])
@pytest.mark.needs_program("curl")
def test_the_limit_is_the_same_over_http_2(site, api_key, tmp_path, size):
    (tmp_path / "photo.png").write_bytes(picture(size))
    form = ("-H", f"x-api-key: {api_key()}", "-F", f"image=@{tmp_path}/photo.png")
    answer = CurlAnswer(site, *form, f"{site.url}/upload/image")
    assert answer.version == "HTTP/2"
    if size <= LIMIT:
        assert answer.status == 200
    else:
        assert problem(answer, 413, "file_too_large")["limit"] == LIMIT


def test_a_body_of_40_mib_is_refused_before_it_is_sent(site, api_key):
    start = head(api_key(), "Content-Length: 41943040")
    assert problem(RawAnswer(site, start), 413, "file_too_large")["limit"] == LIMIT


def test_a_bad_key_is_refused_before_the_body_is_sent(site):
    start = head("bad", "Content-Length: 15000000")
    problem(RawAnswer(site, start), 401, "invalid_api_key")


def test_a_body_over_1_gib_is_refused_by_nginx_itself(lonely):
    start = head("k", "Content-Length: 2000000000")
    assert problem(RawAnswer(lonely, start), 413, "file_too_large")["limit"] == LIMIT


def test_a_client_that_sends_40_mib_all_the_same_gets_the_413(site, api_key):
    answer = site.upload(bytes(40 * 1024 * 1024), api_key())
    assert problem(answer, 413, "file_too_large")["limit"] == LIMIT


@pytest.mark.needs_program("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_body_of_unknown_length_is_cut_off_at_the_limit(site, api_key, version):
    chunked = (version, "-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", "-")
    form = ("-H", "Content-Type: multipart/form-data; boundary=b", "-H", f"x-api-key: {api_key()}")
    url = f"{site.url}/upload/image"
    answer = CurlAnswer(site, *chunked, *form, url, stdin=bytes(40 * 1024 * 1024))
    problem(answer, 413, "file_too_large")


@pytest.mark.needs_program("curl")
@pytest.mark.parametrize("key", ["good", "bad"])
def test_over_http_2_a_refusal_comes_after_the_body(site, api_key, tmp_path, key):
    """Because httpx, got, java.net.http and reqwest do not read an answer while they send.

    curl does, so here it counts the bytes that it has sent by then.
    """
    (tmp_path / "photo.png").write_bytes(picture(LIMIT + 1))
    sent = ("--write-out", "%{size_upload}", "-F", f"image=@{tmp_path}/photo.png")
    given = api_key() if key == "good" else "bad"
    answer = CurlAnswer(site, *sent, "-H", f"x-api-key: {given}", f"{site.url}/upload/image")
    document, _, size = answer.data.rpartition(b"}")
    answer.data = document + b"}"
    problem(answer, *((413, "file_too_large") if key == "good" else (401, "invalid_api_key")))
    assert int(size) > LIMIT


@pytest.mark.needs_program("curl")
def test_a_client_of_http_1_0_needs_no_host(site, api_key, tmp_path):
    (tmp_path / "photo.png").write_bytes(picture())
    old = ("--http1.0", "-H", "Host:", "-H", f"x-api-key: {api_key()}")
    form = ("-F", f"image=@{tmp_path}/photo.png")
    assert CurlAnswer(site, *old, *form, f"{site.url}/upload/image").status == 200


def test_a_service_that_is_down_is_a_503_with_retry_after(lonely):
    answer = lonely.upload(picture(), "k")
    problem(answer, 503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    problem(lonely.get("/docs"), 503, "overloaded")


def test_a_service_that_does_not_answer_is_a_503(make_nginx, silent_upstream):
    nginx = make_nginx(silent_upstream, ("proxy_read_timeout 60s", "proxy_read_timeout 1s"))
    problem(nginx.upload(picture(), "k"), 503, "overloaded")


@pytest.fixture(scope="module")
def impatient(make_nginx, make_service, valkey, seaweedfs, bucket):
    """The site in front of a service whose BODY_TIMEOUT is one second."""
    settings = seaweedfs.settings(bucket)
    return make_nginx(make_service(valkey.url, settings, BODY_TIMEOUT="1").port)


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 100000", b"the beginning"),
        ("Content-Length: 100000", b""),
        ("Transfer-Encoding: chunked", b"5\r\nthe b\r\n"),
    ],
)
def test_a_body_that_stops_arriving_is_a_408(impatient, api_key, framing, body):
    answer = RawAnswer(impatient, head(api_key(), framing) + body)
    problem(answer, 408, "request_timeout")


@pytest.mark.needs_program("curl")
def test_a_body_that_stops_arriving_is_a_408_over_http_2(impatient, api_key):
    form = ("-H", "Content-Type: multipart/form-data; boundary=b", "-H", f"x-api-key: {api_key()}")
    slowly = ("--limit-rate", "1", *form, "--data-binary", "@-")
    answer = CurlAnswer(impatient, *slowly, f"{impatient.url}/upload/image", stdin=bytes(300_000))
    problem(answer, 408, "request_timeout")


def test_too_many_requests_from_one_address_are_a_429_with_retry_after(make_nginx):
    nginx = make_nginx(
        free_port(), ("rate=50r/s", "rate=1r/m"), ("burst=500 nodelay", "burst=1 nodelay")
    )
    # One request and a burst of one pass, and get a 503 because no service is there.
    answers = [nginx.get("/docs") for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 429]
    problem(answers[2], 429, "rate_limited")
    assert int(answers[2].headers["Retry-After"]) >= 1


def test_the_addresses_of_one_ipv6_network_share_one_limit(make_nginx):
    nginx = make_nginx(
        free_port(),
        ("rate=50r/s", "rate=1r/m"),
        ("burst=500 nodelay", "burst=1 nodelay"),
        ("# set_real_ip_from 10.0.0.0/8;", "set_real_ip_from 127.0.0.1;"),
        ("# real_ip_header ", "real_ip_header "),
    )

    def status(address):
        return nginx.get("/docs", **{"X-Forwarded-For": address}).status

    # One /64, which is what a provider gives to one customer.
    same = ["2001:db8:0:a::1", "2001:db8:0:a:ffff::2", "2001:db8:0:a:1:2:3:4"]
    assert [status(address) for address in same] == [503, 503, 429]
    assert status("2001:db8:0:b::1") == 503
    assert [status(f"192.0.2.{number}") for number in range(1, 5)] == [503] * 4


def test_slow_clients_do_not_delay_others(site, api_key):
    start = head(api_key(), "Content-Length: 100000") + b"--"
    with contextlib.ExitStack() as slow:
        for _ in range(100):
            slow.enter_context(site.connect()).sendall(start)
        key = api_key()
        assert [site.upload(picture(), key).status for _ in range(20)] == [200] * 20


def test_a_busy_office_stays_below_the_limits(site):
    answers = [site.get("/healthz").status for _ in range(400)]
    assert answers == [200] * 400


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n",
    ],
    ids=lambda request_: request_[:40].decode().replace("\r\n", " "),
)
def test_a_broken_request_is_400(lonely, request_):
    problem(RawAnswer(lonely, request_), 400, "bad_request")


def test_plain_http_on_the_tls_port_is_400(lonely):
    answer = lonely.http.request("GET", f"http://localhost:{lonely.port}/")
    problem(answer, 400, "bad_request")


def test_a_method_that_nginx_refuses_is_405_with_allow(lonely):
    answer = lonely.http.request("TRACE", lonely.url + "/")
    problem(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["/metrics", "/problem", "/problem/overloaded", "/problem/nonsense"]
)
def test_internal_paths_are_404(lonely, path):
    problem(lonely.get(path), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_health_check_is_answered(site, method):
    assert site.http.request(method, f"{site.url}/healthz").status == 200


def test_plain_http_is_redirected_to_https(site):
    url = f"{site.plain_url}/upload/image"
    answer = site.http.request("POST", url, body=b"x", redirect=False)
    assert answer.status == 308
    assert answer.headers["Location"].startswith("https://")
    assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/", "/no-such-page", "/metrics"])
def test_every_answer_has_the_security_headers_once(site, path):
    headers = site.get(path).headers
    assert headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert headers.getlist("Strict-Transport-Security") == ["max-age=63072000"]
    for name in ("Referrer-Policy", "X-Frame-Options", "X-Request-Id"):
        assert len(headers.getlist(name)) == 1


def test_a_valid_request_id_of_the_client_is_in_the_answer_and_the_log(lonely):
    answer = lonely.get("/docs", **{"X-Request-Id": "my-own.id_1"})
    assert problem(answer, 503, "overloaded")["request_id"] == "my-own.id_1"
    assert access_log(lonely, "my-own.id_1")["status"] == 503


@pytest.mark.parametrize("given", ["a b", 'x"y', "x" * 129, "<script>"])
def test_any_other_request_id_is_replaced(lonely, given):
    answer = lonely.get("/docs", **{"X-Request-Id": given})
    assert problem(answer, 503, "overloaded")["request_id"] != given


def test_the_request_id_is_once_in_the_answer_of_the_application(site, api_key):
    answer = site.upload(picture(), api_key(), X_Request_Id="through-nginx-1")
    assert answer.status == 200
    assert answer.headers.getlist("X-Request-Id") == ["through-nginx-1"]


def test_a_refused_body_is_logged_with_its_own_method_and_path(lonely):
    start = "POST /upload/image?x-api-key=abc HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000"
    answer = RawAnswer(lonely, f"{start}\r\n\r\n".encode())
    entry = access_log(lonely, answer.headers["X-Request-Id"])
    assert (entry["method"], entry["path"]) == ("POST", "/upload/image")
    assert entry["problem"] == "file_too_large"


@pytest.mark.parametrize(
    "key", ["0123abcd" * 8, "with/slash+plus=", "with space", "x" * 200, "ümläut"]
)
def test_a_key_in_the_query_is_the_same_key(site, redis_client, key):
    redis_client.hset(record_name(key), mapping={"roles": "uploader"})
    for encode in (lambda text: quote(text, safe=""), quote_plus):
        query = f"?other=1&x-api-key={encode(key)}"
        assert site.upload(picture(), None, query=query).status == 200


def test_the_header_wins_over_the_query_and_an_empty_header_counts_as_absent(site, api_key):
    good = api_key()
    assert site.upload(picture(), good, query="?x-api-key=bad").status == 200
    assert site.upload(picture(), "bad", query=f"?x-api-key={good}").status == 401
    assert site.upload(picture(), "", query=f"?x-api-key={good}").status == 200


def test_origins_that_the_site_names_can_read_answers_of_nginx_itself(make_nginx):
    nginx = make_nginx(free_port(), ("# https://cms.example.org", "https://cms.example.org"))
    for path in ("/metrics", "/docs"):
        headers = nginx.get(path, Origin="https://cms.example.org").headers
        assert headers["Access-Control-Allow-Origin"] == "https://cms.example.org"
        assert "Retry-After" in headers["Access-Control-Expose-Headers"]
        other = nginx.get(path, Origin="https://cms.example.org.evil.example").headers
        assert "Access-Control-Allow-Origin" not in other
        assert headers["Vary"] == other["Vary"] == "Origin"


def test_no_body_is_written_to_the_disk(make_nginx, service, api_key):
    nginx = make_nginx(service.port)
    # With a file in place of its directory for bodies, nginx could not write one to the disk.
    body_directory = nginx.directory / "body"
    body_directory.rmdir()
    body_directory.write_text("in the way")
    assert nginx.upload(picture(2_000_000), api_key()).status == 200


@pytest.mark.parametrize(
    "address",
    [
        "/upload/image?x-api-key=SECRET",
        "/upload/image?x%2Dapi%2Dkey=SECRET",
        "/upload/image#x-api-key=SECRET",
        "/#x-api-key=SECRET",
        "/upload/image;x-api-key=SECRET",
        "/uploads/SECRET",
    ],
)
def test_no_key_gets_into_a_log(lonely, address):
    address = address.replace("SECRET", SECRET)
    start = f"POST {address} HTTP/1.1\r\nHost: x\r\nReferer: https://x{address}\r\n"
    for headers in ("Content-Length: 5\r\n\r\nwords", "Content-Length: many\r\n\r\n"):
        answer = RawAnswer(lonely, (start + headers).encode())
        assert access_log(lonely, answer.headers["X-Request-Id"])["status"] == answer.status
    assert SECRET not in lonely.logs
