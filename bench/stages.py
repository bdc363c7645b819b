"""Where the CPU of an upload goes, stage by stage: `.venv/bin/python bench/stages.py`.

One gunicorn worker with eight threads and the shipped settings serves the real application, in
which the functions of each stage count the processor time of their thread. What the process used
beside that (gunicorn, Flask, the threads' hand-overs) is "the rest".
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

STAGES = ("receive", "walk", "decode", "hash", "put", "redis", "log", "metrics")
HOOKS = {"app.ops.logs": "log", "app.ops.metrics": "metrics"}
_lock = threading.Lock()
_spent = dict.fromkeys(STAGES, 0.0)


def counting(stage, function):
    """``function``, the processor time of whose thread is counted."""

    def run(*arguments, **options):
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            with _lock:
                _spent[stage] += time.thread_time() - start

    return run


def application():
    """The app with its stages counted; GET /spent tells the seconds so far."""
    import hashlib
    from types import SimpleNamespace

    from app import create_app, upload
    from app.image import gate
    from app.intake import multipart

    multipart.receive = counting("receive", multipart.receive)
    gate.walk = counting("walk", gate.walk)
    gate.decode = counting("decode", gate.decode)
    upload.hashlib = SimpleNamespace(sha256=counting("hash", hashlib.sha256))
    for name in ("_authenticate", "_admit", "_commit"):
        setattr(upload, name, counting("redis", getattr(upload, name)))
    app = create_app()
    store = app.extensions["uploader"].store
    store.put = counting("put", store.put)

    for hooks in (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs):
        for place, hook in enumerate(hooks[None]):
            if stage := HOOKS.get(hook.__module__):
                hooks[None][place] = counting(stage, hook)

    @app.get("/spent")
    def spent():
        return json.dumps({**_spent, "all": time.process_time()})

    return app


def main():
    import photos
    import urllib3
    from uploads import ROOT, Stack, Web, body, load, servers

    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    chosen = options.parse_args()
    http = urllib3.PoolManager()
    print("| photo | check | " + " | ".join(STAGES) + " | the rest | CPU ms |")
    print("|---" * (len(STAGES) + 4) + "|")
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(Path(name))
        environ = {"WEB_CONCURRENCY": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}
        environ["METRICS_PORT"] = str(servers.free_port())
        try:
            for check in ("structure", "decode"):
                web = Web(stack, check, Path(name), app="stages:application()", **environ)

                def spent(port=web.port):
                    return http.request("GET", f"http://127.0.0.1:{port}/spent").json()

                for photo, file in photos.all_photos().items():
                    prepared, before = body(file), spent()
                    count = len(load(partial(web.upload, prepared), chosen.seconds))
                    after = spent()
                    stack.empty()
                    each = {key: 1000 * (after[key] - before[key]) / count for key in after}
                    rest = each["all"] - sum(each[stage] for stage in STAGES)
                    cells = [*(each[stage] for stage in STAGES), rest, each["all"]]
                    print(f"| {photo} | {check} | " + " | ".join(f"{x:.2f}" for x in cells) + " |")
                web.stop()
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
