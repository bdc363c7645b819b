import pytest
from flask import Flask

from app.errors import ApiError
from app.web import cors, problems

ORIGINS = ("https://cms.example.org", "http://[::1]:3000")


def make_client(origins=ORIGINS):
    app = Flask(__name__)
    problems.init_app(app)
    cors.init_app(app, origins)

    @app.post("/upload/image")
    def upload():
        raise ApiError("missing_api_key", "Send a key.")

    @app.post("/upload/broken")
    def broken():
        raise RuntimeError("broken")

    return app.test_client()


def preflight(client, origin, headers="x-api-key,content-type"):
    return client.options(
        "/upload/image",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": headers,
        },
    )


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_preflight_of_a_named_origin_allows_what_an_upload_needs(origin):
    wanted = "x-api-key,idempotency-key,prefer,content-type,x-request-id"
    wanted += ",accept,cache-control,x-requested-with"  # as upload widgets come
    answer = preflight(make_client(), origin, wanted)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert sorted(allowed) == sorted(wanted.split(","))


def test_a_header_that_is_not_on_the_list_is_not_allowed():
    answer = preflight(make_client(), ORIGINS[0], "x-api-key,x-other")
    assert answer.headers["Access-Control-Allow-Headers"] == "x-api-key"


@pytest.mark.parametrize("path", ["/upload/image", "/upload/broken", "/upload/nothing"])
def test_a_named_origin_can_read_errors_and_their_headers(path):
    answer = make_client().post(path, headers={"Origin": ORIGINS[0]})
    assert answer.status_code >= 400
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert set(exposed) == set(cors.RESPONSE_HEADERS)
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example.org",
        "https://cms.example.org.evil.example",
        "https://cms.example.org:8443",
        "https://cmsxexample.org",
        "http://cms.example.org",
        "http://:3000",
        "null",
    ],
)
def test_any_other_origin_gets_no_cors_headers(origin):
    for answer in (
        preflight(make_client(), origin),
        make_client().post("/upload/image", headers={"Origin": origin}),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_without_named_origins_no_origin_is_allowed():
    answer = preflight(make_client(()), ORIGINS[0])
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": ORIGINS[0]}, {"Origin": "https://x.example"}])
def test_every_answer_varies_with_the_origin(headers):
    assert make_client().post("/upload/image", headers=headers).headers.getlist("Vary") == [
        "Origin"
    ]
