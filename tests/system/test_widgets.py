"""Dropzone, a widely used upload widget, with its default settings, on a page of another origin."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.system.chromium import CUT, PNG

pytestmark = pytest.mark.needs_program("chromium")

PACKAGE = Path(find_spec("js_lib_dropzone").origin).parent
DROPZONE = PACKAGE / "static" / "js_lib_dropzone" / "min" / "dropzone.min.js"
PAGE = """<!doctype html><title>A CMS</title><div id="zone"></div><p id="answer"></p>
<script src="dropzone.js"></script>
<script>
  const zone = new Dropzone("#zone", {
    url: "URL/upload/image", paramName: "image", headers: {"x-api-key": "KEY"},
  });
  zone.on("complete", (file) => {
    document.getElementById("answer").textContent = file.xhr.responseText;
  });
</script>"""


class Files(SimpleHTTPRequestHandler):
    """Serves a directory without writing a log."""

    def log_message(self, *_):
        pass


@pytest.fixture
def cms(make_service, valkey, seaweedfs, bucket, api_key, tmp_path):
    """The origin of another site with a Dropzone, which CORS_ORIGINS names."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=tmp_path))
    origin = f"http://127.0.0.1:{site.server_port}"
    service = make_service(valkey.url, seaweedfs.settings(bucket), CORS_ORIGINS=origin)
    shutil.copy(DROPZONE, tmp_path / "dropzone.js")
    page = PAGE.replace("URL", service.url).replace("KEY", api_key())
    (tmp_path / "index.html").write_text(page)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield origin
    site.shutdown()
    site.server_close()
    thread.join()


def test_dropzone_uploads_from_another_origin_and_reads_refusals(cms, browser):
    page = browser.new_page()
    page.goto(cms)
    page.set_input_files(".dz-hidden-input", [PNG])
    expect(page.locator("#answer")).to_contain_text('"key":"uploads/')
    page.set_input_files(".dz-hidden-input", [CUT])
    expect(page.locator("#answer")).to_contain_text('"code": "corrupt_image"')
