"""Every status and code of the OpenAPI description has an example like the service's answer."""

import math
import re
import uuid
from dataclasses import replace

import pytest
import urllib3
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import create_app
from app.config import Config
from app.errors import CODES, unavailable
from app.intake.buffers import BufferPool
from app.upload import ROLE
from app.web.pages import description, resolve
from tests.fakes import ID, KEY, RECORD, FakeRedis, MemoryStore
from tests.image.corpus import png_of
from tests.pictures import plain

OPERATIONS = [
    (path, method, operation)
    for path, methods in description()["paths"].items()
    for method, operation in methods.items()
]


PNG = plain()
OVER = PNG + bytes(15 * 1024 * 1024 + 1 - len(PNG))


class Site:
    """The service, with a way to provoke each of its answers."""

    def __init__(self):
        self.redis, self.store = FakeRedis(), MemoryStore()
        self.redis.hset(RECORD, mapping={"name": "Magazine CMS", "roles": ROLE})
        config = Config(log_format="json", public_url="https://assets.example.org")
        self.app = create_app(config, redis=self.redis, store=self.store)
        self.service = self.app.extensions["uploader"]
        self.client = self.app.test_client()

    def upload(self, *files, part="image", key=KEY, fields=(), **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        parts = [*fields, *((part, ("photo.png", file)) for file in files or [PNG])]
        body, headers["Content-Type"] = urllib3.encode_multipart_formdata(parts)
        return self.post(body, headers, key)

    def post(self, body, headers, key=KEY, **options):
        if key:
            headers = {**headers, "x-api-key": key}
        return self.client.post("/upload/image", data=body, headers=headers, **options)

    def record(self, **fields):
        self.redis.hset(RECORD, mapping=fields)


class Stalled:
    """The body of a client that stops sending."""

    def read(self, _=-1):
        raise TimeoutError


def rate_limited(site):
    site.record(rate_limit="1/minute")
    site.upload()
    return site.upload()


def malformed(site):
    return site.post(b"--b\r\nno form", {"Content-Type": "multipart/form-data; boundary=b"})


def bad_request(site):
    return site.client.get("/static/style.css", headers={"Range": "bytes=9999999-"})


def idempotency_conflict(site):
    answers = []
    again = {"Idempotency_Key": str(uuid.uuid4())}
    site.store.during = lambda: answers.append(site.upload(**again))
    site.upload(**again)
    return answers[0]


def idempotency_mismatch(site):
    again = {"Idempotency_Key": str(uuid.uuid4())}
    site.upload(**again)
    return site.upload(plain(size=(9, 6)), **again)


def request_timeout(site):
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "99"}
    return site.post(None, headers, environ_overrides={"wsgi.input": Stalled()})


def redis_unavailable(site):
    site.redis.server.connected = False
    return site.upload()


def storage_unavailable(site):
    site.store.failure = unavailable("storage_unavailable", "connection refused")
    return site.upload()


def overloaded(site):
    full = replace(site.service, pool=BufferPool(0, wait=0))
    site.app.extensions["uploader"] = full
    return site.upload()


def too_many_at_once(site):
    impatient = replace(site.service.config, upload_timeout=0)
    site.app.extensions["uploader"] = replace(site.service, config=impatient)
    with site.service.decoding.taken(ID, math.inf):
        return site.upload()


def internal_error(site):
    site.store.during = lambda: {}["a mistake"]
    return site.upload()


PROVOKED = {
    "missing_api_key": lambda site: site.upload(key=None),
    "invalid_api_key": lambda site: site.upload(key="nobody's"),
    "missing_role": lambda site: (site.record(roles="editor"), site.upload())[1],
    "rate_limited": rate_limited,
    "too_many_at_once": too_many_at_once,
    "file_too_large": lambda site: site.upload(OVER),
    "not_multipart": lambda site: site.post(PNG, {"Content-Type": "image/png"}),
    "malformed_multipart": malformed,
    "missing_image": lambda site: site.upload(part="file"),
    "multiple_images": lambda site: site.upload(PNG, PNG),
    "empty_image": lambda site: site.upload(b""),
    "unsupported_format": lambda site: site.upload(b"%PDF-1.7\n" + bytes(99)),
    "corrupt_image": lambda site: site.upload(PNG[:-20]),
    "too_many_pixels": lambda site: site.upload(png_of(20_000, 10_000, b"")),
    "digest_mismatch": lambda site: site.upload(fields=[("sha256", "0" * 64)]),
    "invalid_idempotency_key": lambda site: site.upload(Idempotency_Key="x" * 256),
    "bad_request": lambda site: site.client.get(
        "/static/style.css", headers={"Range": "bytes=9999999-"}
    ),
    "idempotency_conflict": idempotency_conflict,
    "idempotency_mismatch": idempotency_mismatch,
    "request_timeout": request_timeout,
    "redis_unavailable": redis_unavailable,
    "storage_unavailable": storage_unavailable,
    "overloaded": overloaded,
    "not_found": lambda site: site.client.get("/nothing"),
    "method_not_allowed": lambda site: site.client.get("/upload/image"),
    "internal_error": internal_error,
}


BEFORE_THE_RATE = {"missing_api_key", "invalid_api_key", "missing_role", "redis_unavailable"}
BEFORE_THE_RATE |= {"not_found", "method_not_allowed", "bad_request"}  # of other addresses
AFTER_THE_RATE = CODES.keys() - BEFORE_THE_RATE
OF_HTTP_ITSELF = {"Content-Type", "Content-Length"}


@pytest.fixture
def site():
    return Site()


def examples():
    """Every example of a problem document: status, code and the example."""
    for name in description()["components"]["responses"]:
        response = description()["components"]["responses"][name]
        content = response["content"]["application/problem+json"]
        for code, example in content["examples"].items():
            yield code, response, example["value"]


EXAMPLES = {code: (response, example) for code, response, example in examples()}


def without_what_varies(document):
    """Without numbers and the request id, which differ each time."""
    detail = re.sub(r"\d+", "0", document["detail"])
    return document | {"detail": detail, "request_id": "", "actual": "actual" in document}


def test_the_description_is_valid_openapi():
    OpenAPIV31SpecValidator(description()).validate()


def test_every_code_has_one_example_and_one_provocation():
    assert EXAMPLES.keys() == CODES.keys() == PROVOKED.keys()


@pytest.mark.parametrize("code", CODES)
def test_the_service_answers_as_the_example_says(site, code):
    response, example = EXAMPLES[code]
    answer = PROVOKED[code](site)
    assert answer.content_type == "application/problem+json"
    assert without_what_varies(answer.json) == without_what_varies(example)
    assert answer.status_code == example["status"] == CODES[code][0]
    assert_headers_are_described(answer, response)
    assert ("RateLimit" in answer.headers) == (code in AFTER_THE_RATE)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("post", "/upload/image", "200"),
        ("get", "/upload/limits", "200"),
        ("get", "/healthz", "200"),
        ("get", "/readyz", "200"),
        ("get", "/readyz", "503"),
    ],
)
def test_every_header_of_a_good_answer_is_described(site, method, path, status):
    if method == "post":
        again = {"Idempotency_Key": "one", "Prefer": "return=representation"}
        answer = [site.upload(**again), site.upload(**again)][1]
        assert {"Idempotency-Replayed", "Preference-Applied"} <= set(answer.headers.keys())
    else:
        site.redis.server.connected = status == "200"
        answer = site.client.get(path, headers={"x-api-key": KEY})
    assert answer.status_code == int(status)
    response = description()["paths"][path][method]["responses"][status]
    assert_headers_are_described(answer, response)
    assert ("RateLimit" in answer.headers) == path.startswith("/upload/")


def assert_headers_are_described(answer, response):
    """Each header is described, each required one is there, and constants have their value."""
    described = {name: resolve(header) for name, header in response["headers"].items()}
    assert set(answer.headers.keys()) - OF_HTTP_ITSELF <= described.keys()
    for name, header in described.items():
        assert name in answer.headers or not header.get("required")
        if name in answer.headers and "const" in header["schema"]:
            assert answer.headers[name] == header["schema"]["const"]


def test_the_key_goes_into_a_header_unless_someone_asks_otherwise():
    schemes = description()["components"]["securitySchemes"]
    assert (schemes["header"]["in"], schemes["query"]["in"]) == ("header", "query")
    for _, _, operation in OPERATIONS:
        assert operation["security"] in ([], [{"header": []}])


def test_every_schema_and_operation_has_a_name_for_generated_clients():
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS)
    for _, _, operation in OPERATIONS:
        contents = [each["content"] for each in map(resolve, operation["responses"].values())]
        contents += [operation["requestBody"]["content"]] if "requestBody" in operation else []
        for schema in [each["schema"] for content in contents for each in content.values()]:
            assert schema.keys() == {"$ref"}
    for name, schema in description()["components"]["schemas"].items():
        assert schema["type"] == "object", name
        for each in schema["properties"].values():
            assert "properties" not in each


def test_all_problems_have_one_schema():
    for response in description()["components"]["responses"].values():
        content = response["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_error_of_an_operation_has_examples_of_its_status(path, method, operation):
    for status, response in operation["responses"].items():
        for kind, content in resolve(response)["content"].items():
            shown = content.get("examples") or {"": {"value": content["example"]}}
            if kind == "application/problem+json":
                assert {each["value"]["status"] for each in shown.values()} == {int(status)}
            else:
                assert shown


def test_an_upload_lists_every_status_but_those_of_other_addresses():
    described = description()["paths"]["/upload/image"]["post"]["responses"]
    assert set(described) == {"200"} | {str(status) for status, _ in CODES.values()} - {
        "404",
        "405",
    }


def test_the_answers_of_an_upload_are_the_examples_in_form(site):
    content = description()["paths"]["/upload/image"]["post"]["responses"]["200"]["content"]
    shown = content["application/json"]["examples"]
    answer = site.upload()
    assert answer.json["data"].keys() == shown["stored"]["value"]["data"].keys()
    answer = site.upload(Prefer="return=representation")
    data = answer.json["data"]
    assert data.keys() == shown["representation"]["value"]["data"].keys()
    assert data["url"] == f"https://assets.example.org/{data['key']}"


def test_the_other_answers_are_the_examples_in_form(site):
    paths = description()["paths"]
    for path in ("/upload/limits", "/healthz"):
        answer = site.client.get(path, headers={"x-api-key": KEY})
        shown = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        assert answer.json.keys() == shown.keys()
        for name, value in shown.items():
            assert type(answer.json[name]) is type(value)
            if isinstance(value, dict):
                assert answer.json[name].keys() == value.keys()
    broken = Site()
    broken.redis.server.connected = False
    for status, asked in (("200", site), ("503", broken)):
        answer = asked.client.get("/readyz")
        shown = paths["/readyz"]["get"]["responses"][status]["content"]["application/json"]
        assert answer.status_code == int(status)
        assert answer.json.keys() == shown["example"].keys()
        assert answer.json["checks"].keys() == shown["example"]["checks"].keys()
        assert answer.json["status"] == shown["example"]["status"]
