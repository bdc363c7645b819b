"""Takes the client's address and scheme from the headers of proxies, if they are plausible."""

import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.middleware.proxy_fix import ProxyFix

# The scheme is used in links of the pages, the address in the log. Some proxies add a port.
_FORMS = {
    "wsgi.url_scheme": re.compile(r"https?"),
    "REMOTE_ADDR": re.compile(r"[0-9A-Fa-f.:\[\]]{2,60}"),
}


def behind(app: WSGIApplication, proxies: int) -> ProxyFix:
    """The application behind this number of proxies, each adding to X-Forwarded-For and -Proto.

    A value that is no address or scheme is ignored: a proxy may pass on what the client sent,
    and a client may send anything, an API key by mistake included.
    """
    return ProxyFix(_Plausible(app), x_for=proxies, x_proto=proxies)


class _Plausible:
    """Undoes ProxyFix for values that have not the form of an address or a scheme."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        before = environ["werkzeug.proxy_fix.orig"]  # the values of the connection itself
        for name, form in _FORMS.items():
            if not form.fullmatch(environ.get(name) or ""):
                environ[name] = before[name]
        return self._app(environ, start_response)
