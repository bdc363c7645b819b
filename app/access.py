"""Finds the API key of a request, and answers GET /upload/limits: what that key may do."""

from flask import Blueprint, Response, g, jsonify, request

from app.config import MAX_FILE_SIZE
from app.image.info import EXTENSIONS
from app.records import ratelimit
from app.records.client import redis_errors
from app.records.keys import ApiKey
from app.service import Service

blueprint = Blueprint("access", __name__, url_prefix="/upload")


def authenticate(service: Service) -> ApiKey:
    """The key of this request, from its header or else its query. Raises the 401."""
    # WSGI decodes headers as Latin-1 (PEP 3333); the digest is of the bytes that were sent.
    header = request.headers.get("x-api-key", "").encode("latin-1")
    api_key = service.keys.authenticate(header or request.args.get("x-api-key"))
    g.key_id = api_key.id
    return api_key


@blueprint.get("/limits")
def limits() -> Response:
    """Say what a key may do. Costs no rate and needs no role."""
    service = Service.current()
    api_key = authenticate(service)
    with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
        ratelimit.count(pipe, api_key.id, api_key.rate, cost=0)
        g.rate = ratelimit.state(api_key.rate, pipe.execute()[0])
    expires_at = api_key.expires_at
    return jsonify(
        data={
            "id": api_key.id,
            "name": api_key.name,
            "roles": sorted(api_key.roles),
            "expires_at": expires_at.isoformat() if expires_at else None,
            "rate_limit": str(api_key.rate),
            "remaining": g.rate.remaining,
            "reset": g.rate.reset,
            "formats": EXTENSIONS,
            "max_file_size": MAX_FILE_SIZE,
            "max_image_pixels": service.config.max_image_pixels,
            "metadata": api_key.metadata or service.config.metadata,
        }
    )
