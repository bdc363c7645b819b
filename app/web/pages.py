"""The pages for people: the upload page, the API reference, and a page for unknown addresses."""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from flask import (
    Blueprint,
    Response,
    current_app,
    g,
    jsonify,
    make_response,
    render_template,
    request,
)
from werkzeug.exceptions import HTTPException, NotFound

from app.web.problems import http_error

blueprint = Blueprint("pages", __name__)

_HERE = Path(__file__).parent
_LANGUAGES = ("en", "de")
_PROBLEMS = ("application/problem+json", "application/json")  # programs ask for either
_SAMPLES = (("shell", "Shell"), ("javascript", "JavaScript"), ("java", "Java"), ("swift", "Swift"))
# No inline scripts or styles, and nothing from other sites. Previews are drawn, and load nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/")
def upload_page() -> Response:
    """The page on which people upload pictures."""
    return _page("upload.html", texts=_texts())


@blueprint.get("/docs")
def docs() -> Response:
    """The API reference, made from the OpenAPI description."""
    # The address that this client uses: behind proxies the service knows no other.
    return _answer(_reference(request.host_url.rstrip("/")))


@lru_cache(maxsize=8)
def _reference(host: str) -> str:
    """The reference with samples for this address; cached, because making it takes a while.

    A few addresses are enough: a client may send any Host.
    """
    samples = [(name, title, _sample(name).replace("HOST", host)) for name, title in _SAMPLES]
    return render_template(
        "docs.html",
        texts=_language("en"),
        api=description(),
        samples=samples,
        resolve=resolve,
        headers=_headers(),
        examples=_examples(),
    )


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The API as an OpenAPI 3.1 description, with this service's own address."""
    return jsonify({**description(), "servers": [{"url": request.host_url.rstrip("/")}]})


@blueprint.get("/robots.txt")
def robots() -> Response:
    """Ask search engines to stay away: nothing here is for them."""
    return Response("User-agent: *\nDisallow: /\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """The icon, for browsers that ask for this name without reading the page."""
    return current_app.send_static_file("favicon.svg")


@blueprint.app_errorhandler(404)
def not_found(error: NotFound) -> Response | HTTPException:
    """Answer for an unknown address: a page for browsers, a problem document for programs."""
    # Problem documents come first, so that Accept: */* gets one.
    best = request.accept_mimetypes.best_match([*_PROBLEMS, "text/html"])
    if best != "text/html" or request.method not in ("GET", "HEAD"):
        return http_error(error)
    g.error_code = "not_found"  # for the log and the metrics, as problems.refused does
    return _page("not_found.html", texts=_texts(), status=404)


@cache
def description() -> dict[str, Any]:
    """The OpenAPI description, read from its file once."""
    content: dict[str, Any] = yaml.safe_load((_HERE / "openapi.yaml").read_text("utf-8"))
    return content


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """The node itself, or the node of the description that its ``$ref`` names."""
    found: Any = description()
    if "$ref" not in node:
        return node
    # All our references are local JSON pointers: #/components/...
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


@cache
def _headers() -> dict[str, str]:
    """The description of each answer header, by name, in the order of first mention."""
    operations = [each for path in description()["paths"].values() for each in path.values()]
    answers = [
        resolve(each) for operation in operations for each in operation["responses"].values()
    ]
    answers += description()["components"]["responses"].values()
    named = {name: header for answer in answers for name, header in answer["headers"].items()}
    return {name: resolve(header)["description"] for name, header in named.items()}


@cache
def _examples() -> dict[str, dict[str, Any]]:
    """An example problem document for each code."""
    contents = [each["content"] for each in description()["components"]["responses"].values()]
    shown = [content["application/problem+json"]["examples"] for content in contents]
    return {code: each["value"] for examples in shown for code, each in examples.items()}


@cache
def _sample(name: str) -> str:
    return (_HERE / "samples" / f"{name}.txt").read_text("utf-8")


def _texts() -> dict[str, str]:
    return _language(request.accept_languages.best_match(_LANGUAGES, "en") or "en")


@cache
def _language(name: str) -> dict[str, str]:
    content: dict[str, str] = json.loads((_HERE / "languages" / f"{name}.json").read_text("utf-8"))
    return content


def _page(template: str, *, status: int = 200, **values: Any) -> Response:
    return _answer(render_template(template, **values), status)


def _answer(page: str, status: int = 200) -> Response:
    answer = make_response(page, status)
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["Referrer-Policy"] = "no-referrer"
    # Or a cache could give the page in the language of another reader.
    answer.vary.add("Accept-Language")
    return answer
