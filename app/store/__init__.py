"""The bucket: the only importer of minio and urllib3."""
