"""Redis behind Sentinel and as a Cluster: uploads go on after a failover, without a restart."""

import pytest
import redis

from deploy.local import servers
from tests.pictures import picture
from tests.system.stack import (
    KINDS,
    Process,
    Valkey,
    flask,
    record_name,
    redis_command,
    wait_until,
)

PNG = picture()
KEY = "k" * 64
RECORD = record_name(KEY)
GRANTS = {"roles": "uploader", "rate_limit": "100000/minute"}


class Sentinel(Process):
    """One of the three Sentinels, two of which must agree that the primary is down."""

    def __init__(self, kind, directory, primary_port):
        directory.mkdir()
        self.port = servers.free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary_port} 2\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n"
        )
        binary = redis_command(kind, directory, self.port)[0]
        super().__init__([binary, str(config), "--sentinel"], directory / "log")
        self.client = redis.Redis(port=self.port)
        wait_until(self.client.ping)


@pytest.fixture
def processes():
    started = []
    yield started
    for process in started:
        process.kill()


def linked(replica):
    """Whether a replica follows its primary."""
    return replica.client.info("replication")["master_link_status"] == "up"


def swept(service):
    """The first part of what ``flask uploads sweep`` prints: it works with this kind of Redis."""
    done = flask("uploads", "sweep", **service.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition(",")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_uploads_go_on_after_a_failover_under_sentinel(
    kind, make_service, seaweedfs, bucket, tmp_path, processes
):
    # A replica is filled at once, and not after the 5 s in which Redis waits for more replicas.
    quick = ("--save", "", "--repl-diskless-sync-delay", "0")
    primary = Valkey(tmp_path / "primary", options=quick, kind=kind)
    follow = ("--replicaof", f"127.0.0.1 {primary.port}")
    replica = Valkey(tmp_path / "replica", options=(*quick, *follow), kind=kind)
    sentinels = []
    processes += [primary, replica]
    for number in range(3):
        sentinels.append(Sentinel(kind, tmp_path / f"sentinel{number}", primary.port))
    processes += sentinels
    primary.client.hset(RECORD, mapping=GRANTS)
    wait_until(lambda: linked(replica) and replica.client.exists(RECORD))
    for sentinel in sentinels:
        wait_until(lambda s=sentinel: s.client.sentinel_master("main")["num-other-sentinels"] == 2)
        wait_until(lambda s=sentinel: s.client.sentinel_master("main")["num-slaves"] == 1)
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    service = make_service(f"redis+sentinel://{hosts}/main/0", seaweedfs.settings(bucket))
    assert service.upload(PNG, KEY).status == 200
    primary.kill()
    assert service.upload(PNG, KEY).status in (200, 503)
    wait_until(lambda: service.upload(PNG, KEY).status == 200, 30)
    assert swept(service) == "0 names looked at"
    service.stop()


def start_cluster(kind, directory, processes):
    """Start a Cluster of three primaries, each with a replica; its primaries."""
    nodes, buses = [], []
    for number in range(6):
        bus = servers.free_port()  # on which the nodes talk to each other
        options = (
            *("--cluster-enabled", "yes", "--cluster-port", str(bus), "--save", ""),
            *("--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"),
        )
        nodes.append(Valkey(directory / f"node{number}", options=options, kind=kind))
        buses.append(bus)
    processes += nodes
    primaries, replicas = nodes[:3], nodes[3:]
    # A Cluster has 16,384 hash slots, here a third for each primary.
    for primary, (first, last) in zip(
        primaries, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True
    ):
        primary.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for node, bus in zip(nodes, buses, strict=True):
        nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    for node in nodes:
        wait_until(lambda n=node: len(n.client.cluster("NODES")) == 6)
    for primary, replica in zip(primaries, replicas, strict=True):
        name = primary.client.execute_command("CLUSTER", "MYID")
        wait_until(lambda r=replica, n=name: r.client.execute_command("CLUSTER", "REPLICATE", n))
    for replica in replicas:
        wait_until(lambda r=replica: linked(r))
    return primaries


@pytest.mark.parametrize("kind", KINDS)
def test_uploads_go_on_in_a_cluster_that_has_lost_a_node(
    kind, make_service, seaweedfs, bucket, tmp_path, processes
):
    primaries = start_cluster(kind, tmp_path, processes)
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in primaries)
    cluster = redis.RedisCluster.from_url(f"redis://127.0.0.1:{primaries[0].port}")
    cluster.hset(RECORD, mapping=GRANTS)
    # The replica must have the record too, because its primary is killed.
    cluster.wait(1, 1000, target_nodes=redis.RedisCluster.PRIMARIES)
    cluster.close()
    service = make_service(f"redis+cluster://{hosts}", seaweedfs.settings(bucket))
    assert service.upload(PNG, KEY, Idempotency_Key="one").status == 200
    primaries[0].kill()
    wait_until(lambda: all(service.upload(PNG, KEY).status == 200 for _ in range(4)), 30)
    again = service.upload(PNG, KEY, Idempotency_Key="one")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert swept(service) == "0 names looked at"
    service.stop()
