"""gunicorn's settings and hooks: the same for the Procfile, systemd and the local stack."""

# Before anything else is imported: a module that imports a socket or a lock by name keeps the real
# one, and a wait in it stops the whole process. Signals and forks stay real: gunicorn needs them.
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

forget_code()  # a reload (HUP) runs this file again, and must get the new code

from app.config import Config, ConfigError
from app.intake.worker import hold_signals_at_forks
from app.ops import memory, process
from app.ops.logs import logging_config
from app.ops.sweep import Sweeper

try:
    settings = Config.from_env()
except ConfigError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(os.EX_CONFIG)  # systemd does not try again after this status: a person must act

bind = settings.bind
workers = settings.web_concurrency
worker_class = "app.intake.worker.Worker"
# Seconds. Heroku's router keeps an idle connection for 90 s. Ours must live longer: a server that
# closes a connection just when the router uses it again loses that request.
keepalive = 95
# Seconds of a stop: receive a body, check and store the image, then a lingering close.
graceful_timeout = int(settings.body_timeout + settings.upload_timeout + 15)
# Seconds without a heartbeat until the master kills a worker. The worker's main greenlet beats four
# times a second, however long its uploads take.
timeout = 30
# Connections of a process. Each costs a greenlet and a buffer of 32 KiB, slow or not.
worker_connections = 2000
# Off: app/wiring.py reads X-Forwarded-*, as TRUSTED_PROXIES says.
forwarded_allow_ips = ""
# Bytes; nginx has about the same limit (8 KiB of large_client_header_buffers).
limit_request_line = 8190
# Off: gunicorn's line has the query string, and with it a key. app/ops/logs.py writes one line per
# request.
accesslog = None
logger_class = "app.intake.worker.Logger"
logconfig_dict = logging_config(settings)
# Off: gunicorn 27 would open a socket for commands; signals are enough.
control_socket_disable = True
# Off: a process does not grow with its requests (bench/soak.py), and a restart costs time.
max_requests = 0
# Off: each worker makes its own clients after the fork. minio-py's must not be shared.
preload_app = False


def on_starting(server):
    """Log where images go, and open the metrics' port."""
    hold_signals_at_forks()
    server.log.info("images go to bucket %s at %s", settings.s3_bucket, settings.s3_endpoint)
    if lowered := memory.lowered(workers, memory.limit(settings)):
        server.log.warning("%s", lowered)
    server.metrics = None
    if settings.metrics_port:
        # prometheus_client reads this variable when it is imported, so the import comes after.
        directory = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="uploader-")
        from app.ops.metrics import Listener

        server.metrics = Listener(settings.metrics_host, settings.metrics_port, directory)
        server.metrics.listen()


def when_ready(_):
    """Let the workers share the memory of what the master has imported."""
    process.keep_shared()


def on_reload(server):
    """Do the same as at the start: a metrics' port that was taken may be free now."""
    if server.metrics:
        server.metrics.listen()
    when_ready(server)


def post_fork(server, worker):
    """Prepare the new process, and hand it the metrics' port that the master holds."""
    process.share_heaps()
    process.raise_file_limit()
    worker.metrics = server.metrics


def post_worker_init(worker):
    """Start the threads of this process: metrics and sweep."""
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
    """Send the traces that are left."""
    if worker.booted and (tracing := worker.wsgi.extensions.get("tracing")):
        tracing.stop()


def child_exit(server, worker):
    """Drop the gauges of a worker that has ended; its counters stay."""
    if server.metrics:
        server.metrics.forget(worker.pid)


def on_exit(server):
    """Close the metrics' port and delete its files."""
    if server.metrics:
        server.metrics.close()
