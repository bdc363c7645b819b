"""From the socket to one file in a buffer: the only importer of gunicorn."""
