"""What proxies in front say of a client, believed as far as it can be true."""

import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.middleware.proxy_fix import ProxyFix

# The scheme stands in links of the pages, the address in the log. Some proxies add a port.
_FORMS = {
    "wsgi.url_scheme": re.compile(r"https?"),
    "REMOTE_ADDR": re.compile(r"[0-9A-Fa-f.:\[\]]{2,60}"),
}


def behind(app: WSGIApplication, proxies: int) -> ProxyFix:
    """The application, behind so many proxies that add to X-Forwarded-For and -Proto.

    What such a header says and cannot be an address or a scheme of the web is not believed:
    a proxy may pass on what the client sent.
    """
    return ProxyFix(_Plausible(app), x_for=proxies, x_proto=proxies)


class _Plausible:
    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        before = environ["werkzeug.proxy_fix.orig"]
        for name, form in _FORMS.items():
            if not form.fullmatch(environ.get(name) or ""):
                environ[name] = before[name]
        return self._app(environ, start_response)
