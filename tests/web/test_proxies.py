import pytest
from werkzeug.test import Client

from app.web.proxies import behind


def seen(proxies, **headers):
    """The scheme and the address that an application behind so many proxies sees."""
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
def test_what_a_proxy_says_of_the_client_is_believed(address):
    assert seen(1, X_Forwarded_Proto="https", X_Forwarded_For=address) == ("https", address)


def test_of_two_proxies_the_outer_ones_word_counts():
    assert seen(
        2,
        X_Forwarded_Proto="javascript, https, http",
        X_Forwarded_For="<script>, 203.0.113.7, 198.51.100.2",
    ) == ("https", "203.0.113.7")


@pytest.mark.parametrize(
    "scheme", ["javascript", "ftp", "https://evil.example/?", "HTTP S", "x" * 9]
)
def test_a_scheme_that_is_none_of_the_web_is_not_believed(scheme):
    assert seen(1, X_Forwarded_Proto=scheme)[0] == "http"


@pytest.mark.parametrize("address", ["unknown", "_hidden", "upl_" + "k" * 44, "<b>", "1" * 61])
def test_an_address_that_cannot_be_one_is_not_believed(address):
    assert seen(1, X_Forwarded_For=address)[1] == "192.0.2.1"


def test_without_such_headers_the_connection_says_it():
    assert seen(1) == ("http", "192.0.2.1")
