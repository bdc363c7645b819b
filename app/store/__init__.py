"""The bucket. The only package that imports minio and urllib3."""
