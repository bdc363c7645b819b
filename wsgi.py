"""The WSGI application: ``gunicorn -c deploy/gunicorn.conf.py wsgi:app``, ``flask keys ...``."""

import sys

from app import create_app
from app.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
