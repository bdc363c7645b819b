"""The shipped S3 policy, with SeaweedFS: its rights suffice for the service, and end there."""

import io
import json

import pytest
from minio import Minio
from minio.error import S3Error

from tests.pictures import plain
from tests.system.stack import ROOT, SeaweedFS, doctor, wait_until

POLICY = ROOT / "deploy" / "s3" / "policy.json"
OTHER = "other"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one more identity, whose only rights are those of the policy."""
    directory = tmp_path_factory.mktemp("seaweedfs")
    server = SeaweedFS(directory)
    for bucket in ("assets", OTHER):
        server.make_bucket(bucket)
    config = directory / "identities.json"
    identities = json.loads(config.read_text())
    credentials = [{"accessKey": "confined", "secretKey": "confined-secret"}]
    identities["identities"].append(
        {"name": "uploader", "credentials": credentials, "policyNames": ["uploader"]}
    )
    identities["policies"] = [{"name": "uploader", "content": POLICY.read_text()}]
    config.write_text(json.dumps(identities))
    server.kill()
    server.start()  # it reads its identities only at the start
    wait_until(server.takes_objects, 60)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def confined(store):
    """A client with this identity."""
    return Minio(
        endpoint=f"127.0.0.1:{store.port}",
        access_key="confined",
        secret_key="confined-secret",
        secure=False,
        region="us-east-1",
    )


def test_the_service_works_with_the_policy(store, make_service, valkey, api_key):
    settings = {"S3_ACCESS_KEY": "confined", "S3_SECRET_KEY": "confined-secret"}
    service = make_service(valkey.url, store.settings("assets") | settings)
    assert service.get("/readyz").status == 200
    answer = service.upload(plain(), api_key())
    assert answer.status == 200
    assert json.loads(answer.data)["data"]["key"] in store.keys("assets")


def test_the_policy_allows_a_look_at_an_object_and_its_deletion(store, confined):
    store.client.put_object(
        bucket_name="assets", object_name="uploads/left.png", data=io.BytesIO(b"x"), length=1
    )
    assert confined.stat_object(bucket_name="assets", object_name="uploads/left.png").size == 1
    confined.remove_object(bucket_name="assets", object_name="uploads/left.png")
    with pytest.raises(S3Error) as missing:
        confined.stat_object(bucket_name="assets", object_name="uploads/left.png")
    assert missing.value.code == "NoSuchKey"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda client: client.put_object(
            bucket_name="assets", object_name="private/x", data=io.BytesIO(b"x"), length=1
        ),
        lambda client: client.put_object(
            bucket_name=OTHER, object_name="uploads/x", data=io.BytesIO(b"x"), length=1
        ),
        lambda client: list(client.list_objects(bucket_name=OTHER)),
        lambda client: client.make_bucket(bucket_name="a-new-one"),
        lambda client: client.remove_bucket(bucket_name=OTHER),
        lambda client: client.set_bucket_policy(bucket_name="assets", policy="{}"),
    ],
    ids=["path", "bucket", "list", "make-bucket", "remove-bucket", "policy"],
)
def test_the_policy_allows_nothing_else(store, confined, attempt):
    with pytest.raises(S3Error) as refused:
        attempt(confined)
    assert refused.value.code == "AccessDenied"


def test_the_doctor_finds_no_right_missing_in_the_policy(store, valkey):
    settings = {"S3_ACCESS_KEY": "confined", "S3_SECRET_KEY": "confined-secret"}
    status, found = doctor(valkey.url, store.settings("assets") | settings)
    assert (status, found["store rights"]["state"]) == (0, "ok")
