import pytest
from werkzeug.test import Client

from app.web.proxies import behind


def seen(proxies, **headers):
    """The scheme and the address that an application behind ``proxies`` proxies sees."""
    environ = {}

    def application(given, start_response):
        environ.update(given)
        start_response("200 OK", [])
        return []

    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"headers": headers, "environ_base": {"REMOTE_ADDR": "192.0.2.1"}}
    Client(behind(application, proxies)).get("/", **sent)
    return environ["wsgi.url_scheme"], environ["REMOTE_ADDR"]


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", "203.0.113.7:4711", "[::1]:80"])
def test_the_address_and_scheme_of_one_proxy_are_used(address):
    assert seen(1, X_Forwarded_Proto="https", X_Forwarded_For=address) == ("https", address)


def test_of_two_proxies_the_outer_one_counts():
    assert seen(
        2,
        X_Forwarded_Proto="javascript, https, http",
        X_Forwarded_For="<script>, 203.0.113.7, 198.51.100.2",
    ) == ("https", "203.0.113.7")


@pytest.mark.parametrize(
    "scheme", ["javascript", "ftp", "https://evil.example/?", "HTTP S", "x" * 9]
)
def test_a_scheme_other_than_http_and_https_is_ignored(scheme):
    assert seen(1, X_Forwarded_Proto=scheme)[0] == "http"


@pytest.mark.parametrize("address", ["unknown", "_hidden", "upl_" + "k" * 44, "<b>", "1" * 61])
def test_text_that_is_not_an_address_is_ignored(address):
    assert seen(1, X_Forwarded_For=address)[1] == "192.0.2.1"


def test_without_these_headers_the_connection_counts():
    assert seen(1) == ("http", "192.0.2.1")
