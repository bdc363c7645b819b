"""The WSGI application: ``gunicorn -c deploy/gunicorn.conf.py wsgi:app``, ``flask keys ...``."""

import os
import sys
from pathlib import Path

from app import create_app
from app.config import ConfigError
from app.ops.local import settings_of_stack

if "FLASK_RUN_FROM_CLI" in os.environ and (  # Flask sets it for its commands
    found := settings_of_stack(Path(__file__).parent / "var", os.environ)
):
    print("With the servers of the running `make run`.", file=sys.stderr)
    os.environ.update(found)

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
