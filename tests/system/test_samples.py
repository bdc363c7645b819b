"""The code samples of /docs and of docs/integrating.md run as they stand."""

import html
import json
import re
import sys

import pytest
import tree_sitter
import tree_sitter_swift

from tests.pictures import picture
from tests.system import stack

PHOTO = picture("JPEG")
GUIDE = (stack.ROOT / "docs" / "integrating.md").read_text()


@pytest.fixture(scope="module")
def samples(service):
    """The samples of /docs by language, as they look on the page."""
    page = service.get("/docs").data.decode()
    found = re.findall(r'<code data-language="(\w+)">(.*?)</code>', page, re.DOTALL)
    return {language: html.unescape(code) for language, code in found}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    return tmp_path


@pytest.fixture
def run(folder):
    """A function that runs a command beside photo.jpg, with a key in API_KEY."""
    return lambda command, key: stack.run(command, directory=folder, timeout=120, API_KEY=key)


@pytest.fixture(scope="module")
def guides_program(service):
    """The Python program of docs/integrating.md."""
    [program] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    return program.replace("HOST", service.url)


def stored(seaweedfs, bucket, text):
    """The bytes of the object whose key a sample has printed."""
    [key] = re.findall(r"uploads/[0-9a-f-]{36}\.jpg", text)
    return seaweedfs.read(bucket, key)


def test_the_page_has_a_sample_in_each_language(samples):
    assert list(samples) == ["shell", "javascript", "java", "swift"]


def test_the_samples_name_the_readers_own_host(samples, service):
    for code in samples.values():
        assert f"{service.url}/upload/image" in code
        assert "HOST" not in code


@pytest.mark.needs_program("curl")
def test_the_shell_sample_uploads(samples, run, api_key, seaweedfs, bucket):
    done = run(["bash", "-c", samples["shell"]], api_key())
    assert done.returncode == 0
    assert stored(seaweedfs, bucket, done.stdout) == PHOTO


@pytest.mark.needs_program("curl")
def test_the_shell_sample_shows_a_refusal_and_fails(samples, run):
    done = run(["bash", "-c", samples["shell"]], "nobody's")
    assert done.returncode == 22
    assert json.loads(done.stdout)["code"] == "invalid_api_key"


@pytest.mark.needs_program("node")
def test_the_javascript_sample_uploads_from_node(samples, run, folder, api_key, seaweedfs, bucket):
    (folder / "upload.mjs").write_text(samples["javascript"])
    done = run(["node", "upload.mjs"], api_key())
    assert done.returncode == 0, done.stderr
    assert stored(seaweedfs, bucket, done.stdout) == PHOTO


@pytest.mark.needs_program("node")
def test_the_javascript_sample_shows_a_refusal_and_fails(samples, run, folder):
    (folder / "upload.mjs").write_text(samples["javascript"])
    done = run(["node", "upload.mjs"], "nobody's")
    assert done.returncode == 1
    assert "invalid_api_key: This API key is not accepted." in done.stderr


@pytest.mark.needs_program("chromium")
def test_the_javascript_sample_uploads_from_a_browser(
    samples, service, api_key, seaweedfs, bucket, folder, browser
):
    # The sample is a module, because it uses await; its function is not global until this line.
    script = samples["javascript"] + "\nwindow.upload = upload;"
    page = browser.new_page(bypass_csp=True)
    page.goto(f"{service.url}/docs")
    page.set_input_files("#try-file", folder / "photo.jpg")
    page.add_script_tag(content=script, type="module")
    page.wait_for_function("() => Boolean(window.upload)")
    key = page.evaluate(
        "key => upload(document.getElementById('try-file').files[0], key)", api_key()
    )
    assert seaweedfs.read(bucket, key) == PHOTO


@pytest.mark.needs_program("java")
def test_the_java_sample_uploads(samples, run, folder, api_key, seaweedfs, bucket):
    (folder / "Upload.java").write_text(samples["java"])
    done = run(["java", "Upload.java"], api_key())
    assert done.returncode == 0, done.stderr
    assert stored(seaweedfs, bucket, done.stdout) == PHOTO


@pytest.mark.needs_program("java")
def test_the_java_sample_shows_a_refusal_and_fails(samples, run, folder):
    (folder / "Upload.java").write_text(samples["java"])
    done = run(["java", "Upload.java"], "nobody's")
    assert done.returncode == 1
    assert "invalid_api_key" in done.stdout


def test_the_swift_sample_can_be_parsed(samples):
    # Debian 12 has no Swift, so only its syntax is tested.
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
    assert not parser.parse(samples["swift"].encode()).root_node.has_error
    assert parser.parse(samples["swift"].replace("}.resume()", "").encode()).root_node.has_error


def test_the_guides_python_program_uploads(guides_program, run, folder, api_key, seaweedfs, bucket):
    (folder / "upload.py").write_text(guides_program)
    done = run([sys.executable, "upload.py"], api_key())
    assert done.returncode == 0, done.stderr
    assert stored(seaweedfs, bucket, done.stdout) == PHOTO
    done = run([sys.executable, "upload.py"], "nobody's")
    assert "ValueError: This API key is not accepted." in done.stderr


def test_the_guides_python_program_waits_for_the_retry_after(guides_program, run, folder, api_key):
    # The rate is one a day, so the program prints each wait instead of sleeping.
    watched = "import time; time.sleep = lambda seconds: print(f'waited {int(seconds)}')\n"
    (folder / "upload.py").write_text(watched + guides_program)
    key = api_key(rate_limit="1/day")
    run([sys.executable, "upload.py"], key)
    done = run([sys.executable, "upload.py"], key)
    waits = [int(each) for each in re.findall(r"waited (\d+)", done.stdout)]
    assert len(waits) == 4
    assert min(waits) > 80_000
    assert "given up after 5 tries" in done.stderr
