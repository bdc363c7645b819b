"""As on several machines: three services, one Redis, and a store of several servers."""

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from minio import Minio

from deploy.local import servers
from tests.pictures import picture
from tests.system.stack import Process, wait_until

PNG = picture()


class Weed(Process):
    """One server of a distributed SeaweedFS."""

    def __init__(self, directory, *arguments):
        directory.mkdir(parents=True)
        command = [str(servers.SCRIPTS / "weed"), "-logtostderr=true", *map(str, arguments)]
        super().__init__(command, directory / "log")


def listening(role, port, grpc):
    """The arguments with which a server listens on these ports."""
    return (role, "-ip=127.0.0.1", f"-port={port}", f"-port.grpc={grpc}")


def start_servers(directory, access, secret):
    """Start a whole store: all its servers, the volume servers among them, and the S3 port.

    There is a master, three volume servers of which two keep each object, a filer and the S3
    gateway.
    """
    ports = iter([servers.free_port() for _ in range(12)])
    master, master_grpc = next(ports), next(ports)
    leader = f"127.0.0.1:{master}.{master_grpc}"
    started = [
        Weed(
            directory / "master",
            *listening("master", master, master_grpc),
            # 001: one more copy, on another server of the same rack.
            *(f"-mdir={directory / 'master'}", "-defaultReplication=001", "-telemetry=false"),
            *("-volumeSizeLimitMB=64", "-ip.bind=127.0.0.1"),
        )
    ]
    volumes = [
        Weed(
            folder,
            *listening("volume", next(ports), next(ports)),
            *(f"-dir={folder}", f"-master={leader}", "-max=30", "-preStopSeconds=0"),
        )
        for folder in (directory / f"volume{number}" for number in range(3))
    ]
    filer, filer_grpc = next(ports), next(ports)
    started.append(
        Weed(
            directory / "filer",
            *listening("filer", filer, filer_grpc),
            *(f"-master={leader}", f"-defaultStoreDir={directory / 'filer'}"),
        )
    )
    servers.write_identities(directory / "identities.json", access, secret)
    port = next(ports)
    started.append(
        Weed(
            directory / "s3",
            *("s3", f"-filer=127.0.0.1:{filer}.{filer_grpc}", f"-port={port}"),
            *(f"-port.grpc={next(ports)}", "-ip.bind=127.0.0.1"),
            *("-port.iceberg=0", "-port.lance=0", f"-config={directory / 'identities.json'}"),
        )
    )
    return started + volumes, volumes, port


@pytest.fixture
def distributed(tmp_path):
    """A client of a distributed store, its settings for a service, and its volume servers."""
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    started, volumes, port = start_servers(tmp_path, access, secret)
    client = Minio(
        endpoint=f"127.0.0.1:{port}",
        access_key=access,
        secret_key=secret,
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(timeout=10, retries=False),
    )
    wait_until(lambda: client.make_bucket(bucket_name="assets") or True, 60)
    settings = {
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "S3_ACCESS_KEY": access,
        "S3_SECRET_KEY": secret,
    }
    yield client, settings, volumes
    for process in started:
        process.kill()


def test_services_on_several_ports_share_one_redis_and_a_replicated_store(
    make_service, valkey, distributed, api_key
):
    client, settings, volumes = distributed
    services = [make_service(valkey.url, settings, WEB_CONCURRENCY="1") for _ in range(3)]
    key = api_key(rate_limit="30/hour")
    wait_until(lambda: services[0].upload(PNG, api_key()).status == 200, 30)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda n: services[n % 3].upload(PNG, key), range(60)))
    stored = [each.json()["data"]["key"] for each in answers if each.status == 200]
    assert len(stored) == 30, "the three services do not share one rate"

    first = services[0].upload(PNG, api_key_of := api_key(), Idempotency_Key="a")
    again = services[1].upload(PNG, api_key_of, Idempotency_Key="a")
    assert again.json() == first.json()

    volumes[0].kill()
    for name in stored:
        with client.get_object(bucket_name="assets", object_name=name) as answer:
            assert answer.read() == PNG
    wait_until(lambda: services[2].upload(PNG, api_key()).status == 200, 30)
    for service in services:
        service.stop()
