"""gunicorn's settings, the same in the Procfile, in systemd and in the local stack."""

# Before anything else is imported: a module that has taken a socket or a lock by name would keep
# the real one, and wait in it with the whole process. Signals and forks stay as gunicorn knows
# them.
from gevent import monkey

monkey.patch_all(os=False, signal=False, subprocess=False)

import os
import sys
import tempfile
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
from app.ops.process import forget_code

forget_code()  # a reload evaluates this file again, and means the new code

from app.config import Config, ConfigError
from app.intake.worker import hold_signals_at_forks
from app.ops import memory, process
from app.ops.logs import logging_config
from app.ops.sweep import Sweeper

try:
    settings = Config.from_env()
except ConfigError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(os.EX_CONFIG)  # the unit does not try again: only a person can mend a setting

bind = settings.bind
workers = settings.web_concurrency
worker_class = "app.intake.worker.Worker"
# A router in front keeps its connections for 90 s (Heroku): ours live longer,
# so that it is never the server that closes one just as it is used again.
keepalive = 95
# Longer than the longest upload: its body, all that comes after, a lingering close.
graceful_timeout = int(settings.body_timeout + settings.upload_timeout + 15)
# The main greenlet of a worker beats four times a second, however long its uploads take.
timeout = 30
# Connections of a process, however slow their clients: a greenlet and a buffer of 32 KiB each.
worker_connections = 2000
# X-Forwarded-* is believed as TRUSTED_PROXIES says (app/wiring.py), not here.
forwarded_allow_ips = ""
# A request line and headers longer than nginx takes them are refused.
limit_request_line = 8190
# The app writes one line a request itself, without the query string.
accesslog = None
logger_class = "app.intake.worker.Logger"
logconfig_dict = logging_config(settings)
# No second way into the process: signals are enough.
control_socket_disable = True
# Off: nothing here grows with requests, and each restart would cost an import
# and warm connections. Buffers are bounded (app/ops/memory.py) and given back.
max_requests = 0
# Off: each worker makes its own clients, after the fork.
preload_app = False


def on_starting(server):
    """Say where images go, before anything can go wrong there; open the metrics' port."""
    hold_signals_at_forks()
    server.log.info("images go to bucket %s at %s", settings.s3_bucket, settings.s3_endpoint)
    if lowered := memory.lowered(workers, memory.limit(settings)):
        server.log.warning("%s", lowered)
    server.metrics = None
    if settings.metrics_port:
        # prometheus_client looks at this variable when it is imported.
        directory = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="uploader-")
        from app.ops.metrics import Listener

        server.metrics = Listener(settings.metrics_host, settings.metrics_port, directory)
        server.metrics.listen()


def when_ready(_):
    """Let the workers share what the master has imported."""
    process.keep_shared()


def on_reload(server):
    """As after the start; a metrics' port that was taken may be free now."""
    if server.metrics:
        server.metrics.listen()
    when_ready(server)


def post_fork(server, worker):
    """Let the worker have the metrics' port, which its master holds."""
    process.share_heaps()
    process.raise_file_limit()
    worker.metrics = server.metrics


def post_worker_init(worker):
    """Start each process's threads: of all sweeps one takes its turn at a time."""
    service = worker.wsgi.extensions["uploader"]
    metrics = worker.wsgi.extensions.get("metrics")
    if worker.metrics:
        worker.metrics.serve()
        metrics.watch(service)
    if settings.sweep_interval:
        listeners = [metrics.count_swept] if metrics else []
        Sweeper(service.redis, service.store, settings.sweep_interval, *listeners).start()
    process.keep_for_good()


def worker_exit(_, worker):
    """Send the traces that have not been sent yet."""
    if worker.booted and (tracing := worker.wsgi.extensions.get("tracing")):
        tracing.stop()


def child_exit(server, worker):
    """Forget what an ended worker held; what it counted stays."""
    if server.metrics:
        server.metrics.forget(worker.pid)


def on_exit(server):
    """Leave no file behind."""
    if server.metrics:
        server.metrics.close()
