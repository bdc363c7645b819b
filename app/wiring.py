"""``create_app`` puts the parts of the service together, and does nothing else."""

import math

from flask import Flask, request

from app import access, upload
from app.config import MAX_FILE_SIZE, Config
from app.image.gate import ImageInspector
from app.intake.body import CloseUnread, refusal_of
from app.intake.buffers import BufferPool
from app.intake.processors import Processors
from app.ops import doctor, health, keys, logs, memory, tracing, uploads
from app.records.client import Redis, connect
from app.records.keys import KeyStore
from app.records.usage import Usage
from app.service import SMALL_OF_A_KEY, Service
from app.shares import Shares
from app.store.bucket import ImageStore
from app.web import cors, pages, problems, proxies


def create_app(
    config: Config | None = None, *, redis: Redis | None = None, store: ImageStore | None = None
) -> Flask:
    """Make the Flask application, with settings from the environment unless they are given.

    Raises ConfigError. It connects to nothing before the first request, so it can be
    made before a fork, and while Redis or the store is down.
    """
    config = config or Config.from_env()
    redis = redis or connect(config)
    app = Flask("app", static_folder="web/static", template_folder="web/templates")
    app.config["MAX_CONTENT_LENGTH"] = MAX_FILE_SIZE
    # Members of an answer stay in the order of the API reference.
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # The redirect from //upload/image would repeat the query, and with it an API key.
    app.url_map.merge_slashes = False
    store = store or ImageStore(config, headers=tracing.headers)
    app.extensions["readiness"] = health.Readiness(redis, store)
    app.extensions["uploader"] = _service(config, redis, store)
    logs.init_app(app)  # first, because Flask runs the hooks after a request in reverse order
    problems.init_app(app)
    tracing.init_app(app)
    cors.init_app(app, config.cors_origins)
    for blueprint in (upload.blueprint, access.blueprint, health.blueprint, pages.blueprint):
        app.register_blueprint(blueprint)
    if config.metrics_port:
        from app.ops import metrics  # noqa: PLC0415 -- costs memory that only some need

        metrics.init_app(app, config)
    app.before_request(_refuse)  # last, so that a refused request is logged and counted too
    for command in (keys.keys, uploads.uploads, doctor.doctor):
        app.cli.add_command(command)
    app.wsgi_app = CloseUnread(app.wsgi_app)  # type: ignore[method-assign]
    if config.trusted_proxies:
        app.wsgi_app = proxies.behind(  # type: ignore[method-assign]
            app.wsgi_app, config.trusted_proxies
        )
    return app


def _refuse() -> None:
    """Raise the error with which the worker has refused this request, if it has."""
    if refusal := refusal_of(request.environ):
        raise refusal


def _service(config: Config, redis: Redis, store: ImageStore) -> Service:
    fits = memory.plan(config.web_concurrency, memory.limit(config))
    # One key gets three quarters of the pixels: a quarter is always left for the others.
    decoding = Shares("pixels in decode", total=fits.pixels, share=fits.pixels * 3 // 4)
    processors = Processors()
    return Service(
        config=config,
        redis=redis,
        keys=KeyStore(redis, config.rate_limit),
        usage=Usage(),
        store=store,
        inspector=ImageInspector(
            max_pixels=config.max_image_pixels,
            check=config.image_check,
            slots=decoding,
            memory=fits.largest,
        ),
        pool=BufferPool(fits.bodies),
        decoding=decoding,
        # No total: the buffers and the PUTs at once bound the uploads of all keys together.
        at_work=Shares("uploads at work", total=math.inf, share=SMALL_OF_A_KEY),
        # One thread is always left for other keys.
        turns=Shares("processor turns", total=processors.threads, share=processors.threads - 1),
        processors=processors,
    )
