"""Workers are killed, the way to the store is cut, the service is reloaded, all at random times.

Every object that was answered 200 is there afterwards, and every other one is on the sweep's list.
"""

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter

import urllib3

from tests.pictures import padded
from tests.system.stack import listed, object_names, wait_until

# bench/README.md has the figures of CHAOS_CLIENTS=16 CHAOS_UPLOADS=63.
CLIENTS = int(os.environ.get("CHAOS_CLIENTS", "8"))
UPLOADS = int(os.environ.get("CHAOS_UPLOADS", "8"))


class Client(threading.Thread):
    """Uploads files that no other client sends, and repeats each until it is stored."""

    def __init__(self, service, key, seed):
        super().__init__(daemon=True)
        self.service = service
        self.key = key
        self.chance = random.Random(seed)
        self.good = {}
        self.tries = 0
        self.unexpected = []

    def run(self):
        for number in range(UPLOADS):
            file = padded("PNG", self.chance.choice([6_000, 60_000, 600_000]) + number)
            retry_key = str(uuid.uuid4())
            stored = self.until_stored(file, retry_key)
            if stored:
                self.good[stored] = file

    def until_stored(self, file, retry_key):
        """Send a file as often as it takes, with one Idempotency-Key; the key of its object."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            self.tries += 1
            try:
                answer = self.service.upload(file, self.key, Idempotency_Key=retry_key)
            except urllib3.exceptions.HTTPError:
                time.sleep(0.2)  # its worker was killed
                continue
            if answer.status == 200:
                return answer.json()["data"]["key"]
            if answer.status not in (409, 503):
                self.unexpected.append((answer.status, answer.data))
                return None
            time.sleep(min(1, int(answer.headers["Retry-After"])))
        self.unexpected.append("never stored")
        return None


def disturb(service, store_proxy, chance):
    """Kill a worker, cut the way to the store or reload; the name of what was done."""
    match chance.randrange(4):
        case 0 | 1:
            workers = sorted(service.workers)
            if not workers:
                return "nothing"
            os.kill(chance.choice(workers), signal.SIGKILL)
            return "killed"
        case 2:
            store_proxy.cut_after = chance.randrange(300, 300_000)
            store_proxy.mode = chance.choice(["cut", "cut_answer"])
            time.sleep(0.5)  # long enough for several uploads
            store_proxy.mode = "pass"
            return "cut"
        case _:
            service.signal(signal.SIGHUP)
            return "reloaded"


def test_no_acknowledged_object_is_lost_and_no_other_stays_unlisted(
    make_service, valkey, seaweedfs, store_proxy, redis_client, api_key
):
    bucket = seaweedfs.make_bucket("chaos")
    settings = seaweedfs.settings(bucket) | {
        "S3_ENDPOINT": f"http://127.0.0.1:{store_proxy.port}",
        "SWEEP_INTERVAL": "2",
        "UPLOAD_TIMEOUT": "10",
    }
    service = make_service(valkey.url, settings)
    key = api_key()
    clients = [Client(service, key, seed) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    chance = random.Random(4711)
    done = Counter()

    def stored():
        return sum(len(client.good) for client in clients)

    while any(client.is_alive() for client in clients):
        before = stored()
        # The next failure comes when the service has recovered from the last one.
        time.sleep(1)
        wait_until(lambda before=before: stored() > before or stored() == CLIENTS * UPLOADS, 60)
        done[disturb(service, store_proxy, chance)] += 1
    for client in clients:
        client.join()
    assert [client.unexpected for client in clients if client.unexpected] == []

    good = {stored: file for client in clients for stored, file in client.good.items()}
    assert len(good) == CLIENTS * UPLOADS, "a retry answered another upload's result"
    kept = seaweedfs.keys(bucket)
    assert set(good) <= kept, "an object of a 200 is gone"
    for stored, file in good.items():
        assert seaweedfs.read(bucket, stored) == file

    def others_are_listed():
        return object_names(seaweedfs.keys(bucket) - set(good)) <= listed(redis_client)

    wait_until(others_are_listed, 10)
    tries = sum(client.tries for client in clients)
    unknown = len(seaweedfs.keys(bucket)) - len(good)
    print(
        f"{len(good)} uploads, {tries} tries, {dict(done)}, {unknown} objects on the sweep's list"
    )
    service.stop()
