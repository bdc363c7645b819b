"""A simple upload app to compare with: Flask, Pillow and minio-py. CHECK is verify or load."""

import io
import os
import uuid

from flask import Flask, jsonify, request
from minio import Minio
from PIL import Image

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024 * 1024
store = Minio(
    endpoint=os.environ["S3_ENDPOINT"].removeprefix("http://"),
    access_key=os.environ["S3_ACCESS_KEY"],
    secret_key=os.environ["S3_SECRET_KEY"],
    secure=False,
    region="us-east-1",
)


@app.post("/upload/image")
def upload():
    if "x-api-key" not in request.headers:
        return jsonify(error="unauthorized"), 401
    file = request.files["image"]
    try:
        image = Image.open(file.stream)
        extension = image.format.lower()
        image.load() if os.environ["CHECK"] == "load" else image.verify()
    except Exception:  # noqa: BLE001 -- as such apps often do
        return jsonify(error="not an image"), 400
    file.stream.seek(0, io.SEEK_END)
    length = file.stream.tell()
    file.stream.seek(0)
    key = f"uploads/{uuid.uuid4()}.{extension}"
    store.put_object(
        bucket_name=os.environ["S3_BUCKET"],
        object_name=key,
        data=file.stream,
        length=length,
        content_type=file.mimetype,
    )
    return jsonify(data={"key": key})
