"""The WSGI application: ``gunicorn -c deploy/gunicorn.conf.py wsgi:app``, ``flask keys ...``."""

import os
import sys
from pathlib import Path

from app import create_app
from app.config import ConfigError
from app.ops.local import settings_of_stack

# Flask sets FLASK_RUN_FROM_CLI for its commands. Only these look for a running `make run`: a
# server must never take settings from a file that happens to be there.
if "FLASK_RUN_FROM_CLI" in os.environ and (
    found := settings_of_stack(Path(__file__).parent / "var", os.environ)
):
    print("Using the servers of the running `make run`.", file=sys.stderr)
    os.environ.update(found)

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
