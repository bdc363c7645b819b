"""``create_app`` puts the parts together and does nothing else."""

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
from app.service import UPLOADS_OF_A_KEY, Service
from app.shares import Shares
from app.store.bucket import ImageStore
from app.web import cors, pages, problems, proxies


def create_app(
    config: Config | None = None, *, redis: Redis | None = None, store: ImageStore | None = None
) -> Flask:
    """The Flask application; settings from the environment unless they are given.

    Raises ConfigError. Nothing is connected before the first request, so that
    it can be made before a fork and while Redis or the store is down.
    """
    config = config or Config.from_env()
    redis = redis or connect(config)
    app = Flask("app", static_folder="web/static", template_folder="web/templates")
    app.config["MAX_CONTENT_LENGTH"] = MAX_FILE_SIZE
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # its redirect would repeat the query, and with it a key
    store = store or ImageStore(config, headers=tracing.headers)
    app.extensions["readiness"] = health.Readiness(redis, store)
    app.extensions["uploader"] = _service(config, redis, store)
    logs.init_app(app)  # first, so that its line is written last
    problems.init_app(app)
    tracing.init_app(app)
    cors.init_app(app, config.cors_origins)
    for blueprint in (upload.blueprint, access.blueprint, health.blueprint, pages.blueprint):
        app.register_blueprint(blueprint)
    if config.metrics_port:
        from app.ops import metrics  # noqa: PLC0415 -- an installation without metrics does not pay

        metrics.init_app(app, config)
    app.before_request(_refuse)  # last, so that what is refused is logged and counted too
    for command in (keys.keys, uploads.uploads, doctor.doctor):
        app.cli.add_command(command)
    app.wsgi_app = CloseUnread(app.wsgi_app)  # type: ignore[method-assign]
    if config.trusted_proxies:
        app.wsgi_app = proxies.behind(  # type: ignore[method-assign]
            app.wsgi_app, config.trusted_proxies
        )
    return app


def _refuse() -> None:
    """Answer with the worker's refusal of this request, where it has one."""
    if refusal := refusal_of(request.environ):
        raise refusal


def _service(config: Config, redis: Redis, store: ImageStore) -> Service:
    # A quarter is always left for other keys.
    fits = memory.plan(config.web_concurrency, memory.limit(config))
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
        at_work=Shares("uploads at work", total=math.inf, share=UPLOADS_OF_A_KEY),
        turns=Shares("processor turns", total=processors.threads, share=processors.threads - 1),
        processors=processors,
    )
