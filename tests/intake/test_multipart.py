"""The file in a form: how clients write forms, and what is refused."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.intake.body import ClientDisconnected
from app.intake.buffers import BufferPool
from app.intake.multipart import FRAMING, Form, check_content_length, receive
from tests.wire import (
    BOUNDARY,
    CONTENT_TYPE,
    PNG,
    Connection,
    form,
    in_chunks,
    known,
    part,
    plain_environ,
)

LIMIT = 15 * 1024 * 1024


@pytest.fixture
def pool():
    pool = BufferPool(64 * 1024 * 1024)
    yield pool
    assert pool.in_use == 0


@pytest.fixture(params=["wsgi", "socket", "chunked socket", "stock gunicorn", "chunked stock"])
def environ_of(request):
    """The ways in which a body arrives; the same rules hold for all."""
    connections = []

    def make(body, content_type=CONTENT_TYPE):
        if request.param == "wsgi":
            return plain_environ(body, content_type)
        connection = Connection()
        connections.append(connection)
        wire = (in_chunks if "chunked" in request.param else known)(body, content_type)
        connection.send(wire, b"POST / HTTP/1.1\r\n\r\n")
        return connection.request(lean="socket" in request.param)

    yield make
    for connection in connections:
        connection.close()


def take(environ, pool, **settings):
    """Receive a form as an upload does: a length that is too large is refused before the body."""
    settings = {"max_file_size": LIMIT, "timeout": 20} | settings
    check_content_length(environ, settings["max_file_size"])
    return receive(environ, pool=pool, **settings)


def code(environ, pool, **settings):
    with pytest.raises(ApiError) as raised:
        take(environ, pool, **settings).release()
    return raised.value.code


def image(environ, pool, **settings):
    with take(environ, pool, **settings) as received:
        return bytes(received.image)


def test_the_file_is_found_as_it_was_sent(environ_of, pool):
    with take(environ_of(form()), pool) as received:
        assert bytes(received.image) == PNG
        assert received.filename == "photo.png"
        assert received.sha256 == []
        assert received.content_digest is None
        assert pool.in_use > 0


def test_the_file_may_be_anywhere_among_other_fields(environ_of, pool):
    digest = hashlib.sha256(PNG).hexdigest()
    parts = [
        part(b"A title", name="title", filename=None),
        part(b"%PDF", name="attachment", filename="a.pdf"),
        part(headers=["content-type: image/png", "content-DIGEST: sha-256=:abc=:"]),
        part(digest.encode(), name="sha256", filename=None),
    ]
    for order in (parts, parts[::-1]):
        with take(environ_of(form(*order)), pool) as received:
            assert bytes(received.image) == PNG
            assert received.sha256 == [digest]
            assert received.content_digest == "sha-256=:abc=:"


LOOKALIKES = [
    b"\r\n",
    b"\r\n--",
    b"\r\n--" + BOUNDARY[:-1].encode(),
    b"\r\n--" + BOUNDARY.encode() + b"x",
    b"x--" + BOUNDARY.encode() + b"--",
    b"\n--" + BOUNDARY.encode() + b"--\r\n",
    b"\r\n\r\n",
    b"\r\n--" + BOUNDARY.encode() + b"-",
]


@pytest.mark.parametrize("content", LOOKALIKES)
def test_text_that_only_looks_like_a_boundary_is_content(environ_of, pool, content):
    for file in (content, PNG + content, content + PNG, content + PNG + content):
        assert image(environ_of(form(part(file))), pool) == file


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 64, 1000])
@pytest.mark.parametrize("request_of", [known, in_chunks])
def test_a_boundary_may_be_split_across_pieces(pool, request_of, step):
    connection = Connection()
    wire = request_of(form(part(b"short"), part(b"x", name="sha256", filename=None)))
    connection.send(*(wire[i : i + step] for i in range(0, len(wire), step)))
    assert image(connection.request(), pool) == b"short"
    connection.close()


def test_a_request_that_was_pipelined_behind_an_upload_is_found(pool):
    for request_of in (known, in_chunks):
        connection = Connection()
        connection.send(request_of(form()) * 2, known(b"last"))
        assert image(connection.request(), pool) == PNG
        assert image(connection.request(), pool) == PNG
        assert connection.request()["wsgi.input"].read() == b"last"
        connection.close()


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="image"; filename="über.png"', "über.png"),
        ('form-data; name="image"; filename="a%22b.png"', 'a"b.png'),
        (r'form-data; name="image"; filename="a\"b;c.png"', 'a"b;c.png'),
        (r'form-data; name="image"; filename="C:\photos\new.png"', r"C:\photos\new.png"),
        (r'form-data; name="image"; filename="C:\\photos\\new.png"', r"C:\photos\new.png"),
        ("form-data; name=image; filename=photo.png", "photo.png"),
        ('form-data; filename="photo.png"; name="image"', "photo.png"),
        ('FORM-DATA; NAME="image"; FILENAME="photo.png"', "photo.png"),
        ("form-data; name=\"image\"; filename*=UTF-8''%e2%82%ac.png", "€.png"),
        ('form-data; name="image"; filename="e.png"; filename*=UTF-8\'\'%e2%82%ac.png', "€.png"),
        ('form-data;name="image";filename="photo.png"', "photo.png"),
        ('form-data; name="image";\r\n filename="photo.png"', "photo.png"),
        ('form-data; name="image"; filename="€.png"; filename*=UTF-8\'\'', None),
        ("form-data; name=image; filename*=windows-1252'en'%80.png", "€.png"),
        ("form-data; name=image; filename*=klingon''%e2%82%ac.png", "€.png"),
        ('form-data; name="image"; filename*="UTF-8\'\'%e2%82%ac.png"; filename=e.png', "€.png"),
        ('form-data; name="image"; filename=(1) фото.png', "(1) фото.png"),
        ('form-data; name = "image" ; filename = "photo.png"', "photo.png"),
        ('form-data; name="image"; filename="photo.png', "photo.png"),
        ('form-data; name="image"; filename=', None),
        ('form-data; name="image"; filename*=', None),
        ('form-data; name="image"; filename=""', None),
    ],
)
def test_names_are_read_as_clients_write_them(pool, disposition, filename):
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    with take(plain_environ(head + PNG + b"\r\n" + form(b"")), pool) as received:
        assert bytes(received.image) == PNG
        assert received.filename == filename


def test_a_latin_1_file_name_is_read_too(pool):
    body = form().replace(b"photo.png", b"\xfcber.png")
    with take(plain_environ(body), pool) as received:
        assert received.filename == "über.png"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("", "not_multipart"),
        ("text/plain", "not_multipart"),
        ("multipart/mixed; boundary=b", "not_multipart"),
        ("multipart/form-data", "not_multipart"),
        ("multipart/form-data; boundary=", "not_multipart"),
        ('multipart/form-data; boundary=""', "not_multipart"),
        (f"multipart/form-data; boundary={'b' * 201}", "not_multipart"),
        ("multipart/form-data; boundary=other", "malformed_multipart"),
        (f"multipart/form-data; boundary=x{BOUNDARY}", "malformed_multipart"),
        (f"multipart/form-data; boundary={BOUNDARY[:-1]}", "malformed_multipart"),
    ],
)
def test_a_body_that_is_not_what_its_content_type_says(environ_of, pool, content_type, expected):
    assert code(environ_of(form(), content_type), pool) == expected


@pytest.mark.parametrize(
    "boundary", ["b", "b" * 70, "b" * 200, "a'()+_,-./:=?z", "with space inside", "--", "ü"]
)
def test_boundaries_of_every_kind(pool, boundary):
    raw = boundary.encode("latin-1")
    body = form().replace(BOUNDARY.encode(), raw)
    content_type = f'Multipart/Form-Data; charset=utf-8; boundary="{boundary}"'
    assert image(plain_environ(body, content_type), pool) == PNG


def test_a_boundary_without_the_quotes_that_it_needs_is_read(pool):
    body = form().replace(BOUNDARY.encode(), b"----=_Part_1_2.3")
    content_type = "multipart/form-data; boundary=----=_Part_1_2.3; charset=utf-8"
    assert image(plain_environ(body, content_type), pool) == PNG


@pytest.mark.parametrize("after", ["", "x", "-", "--x", "\n"])
def test_bytes_that_only_look_like_a_boundary_are_part_of_the_file(environ_of, pool, after):
    file = PNG + f"\r\n--{BOUNDARY}{after}".encode() + PNG
    assert image(environ_of(form(part(file))), pool) == file


@pytest.mark.parametrize("after", ["x", "--x", " x"])
def test_a_file_full_of_text_like_the_boundary_is_refused_before_it_costs_time(pool, after):
    lookalike = f"\r\n--{BOUNDARY}{after}".encode()
    assert image(plain_environ(form(part(lookalike * 999))), pool) == lookalike * 999
    assert code(plain_environ(form(part(lookalike * 1000))), pool) == "malformed_multipart"


@pytest.mark.parametrize(
    "body",
    [
        b"preamble\r\n" + form(),
        b"\r\n" + form(),
        b"--" + BOUNDARY.encode() + b"x\r\n" + form(),
        form() + b"\r\nepilogue",
        form()[:-2],
        form().replace(BOUNDARY.encode() + b"\r\n", BOUNDARY.encode() + b" \t \r\n"),
        form(b"--" + BOUNDARY.encode() + b"\r\n\r\nno headers\r\n", part()),
        form(b"--" + BOUNDARY.encode() + b"\r\nX-Other: 1\r\n\r\n\r\n", part()),
        form(part(headers=["Content-Transfer-Encoding: base64"])),
    ],
)
def test_unusual_framing_that_the_standard_allows(environ_of, pool, body):
    assert image(environ_of(body), pool) == PNG


@pytest.mark.parametrize(
    "body",
    [
        b"no form at all",
        form()[: -len(BOUNDARY) - 8],
        form()[:-3],
        form()[:60],
        part(),
        form().replace(b"\r\n", b"\n"),
        form(part(headers=["no colon"])),
        form(part(headers=["X-Long: " + "x" * 17000])),
        form(*[part(b"1", name=f"f{i}", filename=None) for i in range(20)], part()),
        form(part(b"x" * 65537, name="text", filename=None), part()),
        form(*[part(b"x" * 40000, name="text", filename=None)] * 2, part()),
    ],
    ids=lambda body: f"{len(body)}-{body[:12]}",
)
def test_broken_forms(environ_of, pool, body):
    assert code(environ_of(body), pool) == "malformed_multipart"


def test_20_parts_and_64_kib_of_text_are_allowed(environ_of, pool):
    fields = [part(b"1", name=f"f{i}", filename=None) for i in range(18)]
    text = part(b"x" * (65536 - 18), name="text", filename=None)
    assert image(environ_of(form(*fields, text, part())), pool) == PNG


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([part(name="picture")], "missing_image"),
        ([part(name="Image")], "missing_image"),
        ([part(filename=None)], "missing_image"),
        ([part(b"", filename="")], "missing_image"),
        ([b""], "missing_image"),
        ([part(), part()], "multiple_images"),
        ([part(), part(filename=None), part()], "multiple_images"),
        ([part(filename=None), part(b"", filename="")], "missing_image"),
        ([part(filename=None), part(b"")], "empty_image"),
        ([part(b"")], "empty_image"),
        ([part().replace(b"form-data", b"attachment")], "missing_image"),
    ],
)
def test_forms_without_exactly_one_file(environ_of, pool, parts, expected):
    assert code(environ_of(form(*parts)), pool) == expected


@pytest.mark.parametrize(
    "parts",
    [
        [part(b"{}", filename=None), part()],
        [part(), part(b"{}", filename=None), part(b"", filename=None)],
    ],
)
def test_a_text_of_the_files_name_beside_it_is_ignored(environ_of, pool, parts):
    assert image(environ_of(form(*parts)), pool) == PNG


def test_a_text_of_the_files_name_beside_it_counts_as_text(environ_of, pool):
    texts = [part(bytes(40_000), name=name, filename=None) for name in ("image", "note")]
    assert code(environ_of(form(*texts, part())), pool) == "malformed_multipart"


def test_an_empty_file_field_beside_a_file_does_not_count(environ_of, pool):
    assert image(environ_of(form(part(b"", filename=""), part())), pool) == PNG


def test_a_body_of_no_bytes_is_malformed(environ_of, pool):
    assert code(environ_of(b""), pool) == "malformed_multipart"


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_file_up_to_the_limit_is_taken(environ_of, pool, size):
    with take(environ_of(form(part(bytes(size)))), pool) as received:
        assert len(received.image) == size


def test_a_file_one_byte_over_the_limit_is_not(environ_of, pool):
    with pytest.raises(ApiError) as raised:
        take(environ_of(form(part(bytes(LIMIT + 1)))), pool)
    error = raised.value
    assert (error.status, error.code) == (413, "file_too_large")
    assert error.extra == {"limit": LIMIT, "actual": LIMIT + 1}


def test_a_body_far_over_the_limit_is_not_kept(environ_of, pool):
    environ = environ_of(form(part(bytes(300_000 + FRAMING))))
    with pytest.raises(ApiError) as raised:
        take(environ, pool, max_file_size=300_000)
    assert raised.value.extra == {"limit": 300_000}


def test_a_content_length_that_must_be_too_large_is_refused_before_the_body():
    check_content_length(plain_environ(b"", length=LIMIT + FRAMING), LIMIT)
    check_content_length({}, LIMIT)
    with pytest.raises(ApiError) as raised:
        check_content_length(plain_environ(b"", length=LIMIT + FRAMING + 1), LIMIT)
    assert raised.value.extra == {"limit": LIMIT}


def test_a_pool_gives_what_it_has_and_one_body_more():
    pool = BufferPool(16 * 1024 * 1024, wait=0)
    large = form(part(bytes(10_000_000)))
    held = [take(plain_environ(large), pool, key=key) for key in ("one", "another")]
    assert code(plain_environ(large), pool, key="a third") == "overloaded"
    for each in held:
        each.release()
    assert image(plain_environ(form()), pool) == PNG
    assert pool.in_use == 0


def test_a_chunked_body_grows_within_the_pool_even_when_it_is_small():
    pool = BufferPool(16 * 1024 * 1024)
    environ = plain_environ(form(part(bytes(LIMIT)))) | {"HTTP_TRANSFER_ENCODING": "chunked"}
    del environ["CONTENT_LENGTH"]
    with take(environ, pool) as received:
        assert len(received.image) == LIMIT


def test_a_body_that_its_client_cut_off_is_distinguished_from_a_broken_form(pool):
    with pytest.raises(ClientDisconnected):
        take(plain_environ(form()[:-9], length=len(form())), pool)


def test_a_body_that_stops_is_given_up(pool):
    connection = Connection()
    connection.send(known(form())[:-9])
    environ = connection.request()
    assert code(environ, pool, timeout=0.1) == "request_timeout"
    connection.close()


def test_the_buffer_goes_back_even_when_a_view_of_it_is_left(pool):
    received = take(plain_environ(form()), pool)
    assert isinstance(received, Form)
    with received:
        left = received.image[:4]
    assert pool.in_use == 0
    left.release()


def mutated(random, body):
    body = bytearray(body)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(body) + 1)
        match random.randrange(4):
            case 0:
                body[place : place + 1] = random.randbytes(1)
            case 1:
                del body[place : place + random.randint(1, 40)]
            case 2:
                body[place:place] = random.choice([b"\r\n", b"--", b"\0", b'"', b";", b"\r\n\r\n"])
            case 3:
                start = random.randrange(len(body) + 1)
                body[place:place] = body[start : start + 60]
    return bytes(body)


def outcome(environ, pool):
    try:
        take(environ, pool).release()
    except ApiError as error:
        return error.code
    return "read"


BROKEN = {"malformed_multipart", "missing_image", "multiple_images", "empty_image"}


@pytest.mark.thorough
def test_mutated_bodies_are_read_or_refused_and_nothing_else(pool):
    seeded = random.Random(2611)
    whole = form(part(b"text", name="sha256", filename=None), part(b"picture"))
    outcomes = set()
    for _ in range(20_000):
        outcomes.add(outcome(plain_environ(mutated(seeded, whole)), pool))
    assert {"read", "malformed_multipart", "missing_image"} <= outcomes <= BROKEN | {"read"}


@pytest.mark.thorough
def test_mutated_requests_through_gunicorns_parser_are_read_or_refused(pool):
    seeded = random.Random(2612)
    wire = in_chunks(form(), size=300)
    start = wire.index(b"\r\n\r\n") + 4
    outcomes = set()
    for _ in range(3_000):
        connection = Connection()
        connection.send(wire[:start], mutated(seeded, wire[start:]), end=True)
        outcomes.add(outcome(connection.request(), pool))
        connection.close()
    assert {"read", "malformed_multipart"} <= outcomes <= BROKEN | {"read"}


@settings(max_examples=150, deadline=None)
@given(
    before=st.lists(st.binary(max_size=200), max_size=3),
    content=st.binary(min_size=1, max_size=2000),
    name=st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"\\%')),
)
def test_every_form_is_read_as_it_was_written(before, content, name):
    pool = BufferPool(10_000_000)
    fields = [part(value, name="other", filename="x") for value in before]
    with take(plain_environ(form(*fields, part(content, filename=name))), pool) as received:
        assert bytes(received.image) == content
        assert received.filename == (name or None)


def sentence(environ, pool) -> str:
    with pytest.raises(ApiError) as caught:
        take(environ, pool)
    return caught.value.detail


def test_a_part_without_a_file_name_has_an_error_that_says_so(pool):
    detail = sentence(plain_environ(form(part(filename=None))), pool)
    assert "has no file name" in detail
    assert "Choose a picture" not in detail


def test_a_compressed_body_is_named(pool):
    environ = plain_environ(b"\x1f\x8b\x08" + bytes(99)) | {"HTTP_CONTENT_ENCODING": "gzip"}
    assert "compressed (Content-Encoding: gzip)" in sentence(environ, pool)
    environ["HTTP_CONTENT_ENCODING"] = "identity"
    assert "compressed" not in sentence(environ, pool)


def test_lines_that_end_with_a_line_feed_alone_are_named(pool):
    detail = sentence(plain_environ(form(part()).replace(b"\r\n", b"\n")), pool)
    assert "line feed alone" in detail


def test_a_boundary_in_single_quotes_is_named(pool):
    quoted = CONTENT_TYPE.replace(BOUNDARY, f"'{BOUNDARY}'")
    assert "single quotes" in sentence(plain_environ(form(part()), quoted), pool)
