"""Stored images served by the shipped deploy/nginx/assets.conf, for people without a CDN."""

import io
import json

import pytest

from tests.pictures import picture
from tests.system.nginx import Nginx
from tests.system.stack import ROOT

pytestmark = pytest.mark.needs_program("nginx", "openssl")

ASSETS = ROOT / "deploy" / "nginx" / "assets.conf"
PUBLIC = ROOT / "deploy" / "s3" / "public-read.json"
PNG = picture()


@pytest.fixture(scope="module")
def public_bucket(seaweedfs):
    """A bucket whose objects anyone may read, by the shipped policy."""
    name = seaweedfs.make_bucket("assets-for-all")
    policy = PUBLIC.read_text().replace("assets/", f"{name}/")
    seaweedfs.client.set_bucket_policy(bucket_name=name, policy=policy)
    return name


@pytest.fixture(scope="module")
def site(tmp_path_factory, make_service, valkey, seaweedfs, public_bucket):
    """The site with its two lines for assets.conf switched on."""
    directory = tmp_path_factory.mktemp("nginx")
    assets = directory / "uploader-assets.conf"
    text = ASSETS.read_text().replace("127.0.0.1:9000", f"127.0.0.1:{seaweedfs.port}")
    assets.write_text(text.replace("/assets$uri", f"/{public_bucket}$uri"))
    service = make_service(
        valkey.url, seaweedfs.settings(public_bucket), PUBLIC_URL="https://upload.example.org"
    )
    changes = (
        ("# proxy_cache_path /var/lib/nginx/uploader ", f"proxy_cache_path {directory}/cache "),
        ("# include /etc/nginx/uploader-assets.conf", f"include {assets}"),
    )
    nginx = Nginx(directory, service.port, changes)
    yield nginx
    nginx.stop()


@pytest.fixture
def stored(site, api_key):
    """The path of a newly stored image, from its public address."""
    answer = site.upload(PNG, api_key(), Prefer="return=representation")
    return json.loads(answer.data)["data"]["url"].removeprefix("https://upload.example.org")


def test_a_stored_image_is_served_as_it_was_sent(site, stored):
    answer = site.get(stored)
    assert (answer.status, answer.data) == (200, PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert not [name for name in answer.headers if name.lower().startswith("x-amz-meta-")]


def test_an_image_is_served_from_the_cache_after_the_store_has_lost_it(
    site, stored, seaweedfs, public_bucket
):
    site.get(stored)
    seaweedfs.client.remove_object(bucket_name=public_bucket, object_name=stored[1:])
    part = site.get(stored, Range="bytes=1-3")
    assert (part.status, part.data) == (206, PNG[1:4])


@pytest.mark.parametrize(
    "path",
    ["/uploads/", "/uploads", "/uploads/?list-type=2", "/uploads/%2e%2e/other"],
)
def test_the_bucket_cannot_be_listed(site, stored, path):
    answer = site.get(path)
    assert answer.status == 404
    assert stored[-40:].encode() not in answer.data


def test_a_query_never_reaches_the_store(site, stored):
    for query in ("?acl", "?uploads", "?tagging", "?x-api-key=abc"):
        assert site.get(stored + query).data == PNG


def test_a_404_is_not_cached(site, seaweedfs, public_bucket):
    name = f"uploads/{'0' * 36}.png"
    answer = site.get(f"/{name}")
    assert answer.status == 404
    assert json.loads(answer.data)["code"] == "not_found"
    seaweedfs.client.put_object(
        bucket_name=public_bucket, object_name=name, data=io.BytesIO(PNG), length=len(PNG)
    )
    assert site.get(f"/{name}").status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_no_method_writes_to_the_bucket(site, stored, method):
    assert site.http.request(method, site.url + stored, body=b"x").status == 404
    assert site.get(stored).data == PNG
