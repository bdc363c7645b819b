"""Brings one file from the socket into a buffer. The only package that imports gunicorn."""
