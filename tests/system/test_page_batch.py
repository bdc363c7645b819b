"""The upload page with hundreds of files: the sum, refused files, tables, folders and pauses."""

import csv
import io
import json
import random
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.pictures import padded, picture
from tests.system.chromium import CUT, PNG, TEXT, clipboard, ready, stored
from tests.system.stack import record_name, wait_until

pytestmark = pytest.mark.needs_program("chromium")

SUM = re.compile(r"(\d+) of (\d+) stored")
LARGE = {"buffer": padded("PNG", 15 * 1024 * 1024 + 1)}
EMPTY = {"buffer": b""}
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 640}
# The sums that the page shows and the states of its rows, read at the same moment.
STATE = """() => ({
  sum: document.getElementById("sum").textContent,
  attention: document.getElementById("attention-count").textContent,
  good: document.querySelectorAll(".upload.good").length,
  bad: document.querySelectorAll(".upload.bad").length,
  all: document.querySelectorAll(".upload").length,
})"""


def a_day(count, refused=()):
    """Files with names in random order; those at the places in ``refused`` have various faults."""
    reasons = [CUT, TEXT, LARGE, EMPTY, CUT]
    names = [f"{number:03} DSC, “{number % 7}”.png" for number in range(count)]
    random.Random(20).shuffle(names)
    files = [{**PNG, "name": name} for name in names]
    for number, at in enumerate(refused):
        files[at] = {**files[at], "buffer": reasons[number]["buffer"]}
    return files


def visible(page):
    """The file names of the rows that are shown, in their order."""
    return page.locator(".upload:visible .name").all_text_contents()


@pytest.fixture(scope="module")
def public_service(make_service, valkey, seaweedfs, bucket):
    settings = seaweedfs.settings(bucket)
    return make_service(valkey.url, settings, PUBLIC_URL="https://assets.example.org/")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_batch_of_two_hundred_files_of_which_five_are_refused(open_page, api_key, viewport):
    page = ready(open_page, api_key, viewport=viewport)
    refused = [11, 48, 49, 120, 199]
    files = a_day(200, refused)
    page.set_input_files("#files", files)

    def all_ended():
        state = page.evaluate(STATE)
        shown = [int(number) for number in SUM.fullmatch(state["sum"]).groups()]
        assert shown == [state["good"], state["all"]]
        assert int(state["attention"].split()[0]) == state["bad"]
        return state["good"] + state["bad"] == 200

    page.locator(".upload").nth(199).wait_for(state="attached")
    wait_until(all_ended, 120)
    expect(page.locator("#sum")).to_have_text("195 of 200 stored")
    expect(page.locator("#only")).to_contain_text("5 need attention")
    expect(page.locator("#live")).to_have_text("195 of 200 stored · 5 need attention")
    expect(page.locator("#bar")).to_have_attribute("aria-valuenow", "200")

    page.keyboard.press("F8")
    assert visible(page) == [files[at]["name"] for at in refused]
    expect(page.locator(".upload:focus .name")).to_have_text(files[refused[0]]["name"])
    page.keyboard.press("Escape")
    assert visible(page)[:5] == [files[at]["name"] for at in refused]
    assert len(visible(page)) == 200

    page.get_by_role("button", name="Copy all as a table").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    heading, *lines = [line.split("\t") for line in clipboard(page).splitlines()]
    assert heading == ["File name", "Key"]
    assert [name for name, _ in lines] == [file["name"] for file in files]
    keys = [key for _, key in lines]
    assert [at for at, key in enumerate(keys) if not key] == refused
    assert len(set(keys)) == 196  # 195 keys, and the empty one of those refused
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert re.fullmatch(r"uploads-\d{4}-\d\d-\d\d\.csv", download.value.suggested_filename)
    text = download.value.path().read_bytes().decode("utf-8-sig")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [heading, *lines]

    page.get_by_role("button", name="Clear stored pictures").click()
    expect(page.locator("#sum")).to_have_text("0 of 5 stored")
    assert visible(page) == [files[at]["name"] for at in refused]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_only_rows_that_are_in_sight_get_a_preview(open_page, api_key):
    page = ready(open_page, api_key, viewport=DESKTOP)
    page.set_input_files("#files", a_day(500))
    page.locator(".upload.good").nth(499).wait_for(state="attached", timeout=120_000)
    drawn = page.locator(".preview.drawn")
    assert 1 <= drawn.count() < 100
    assert page.locator(".preview").first.evaluate("canvas => canvas.width") <= 96
    last = page.locator(".preview").last
    assert "drawn" not in last.get_attribute("class")
    last.scroll_into_view_if_needed()
    expect(last).to_have_class(re.compile("drawn"))


def test_a_batch_that_is_being_sent_passes_axe(open_page, api_key):
    page = ready(open_page, api_key, viewport=PHONE)
    page.route("**/upload/image", lambda route: None)  # never answered
    page.set_input_files("#files", [PNG, TEXT, PNG, PNG, PNG])
    expect(page.locator(".upload.moving")).to_have_count(3)
    for name in ("Clear stored pictures", "Copy all as a table"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_public_addresses_are_links_and_can_be_copied(open_page, api_key, public_service):
    page = open_page(site=public_service)
    page.locator("#key").fill(api_key())
    page.set_input_files("#files", [PNG, {**PNG, "name": "=1+1.png"}])
    addresses = [f"https://assets.example.org/{stored(page, number)}" for number in range(2)]
    expect(page.locator(".stored").first).to_have_attribute("href", addresses[0])
    page.get_by_role("button", name="Copy address").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == addresses[0]
    page.get_by_role("button", name="Copy all as a table").click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    lines = [line.split("\t") for line in clipboard(page).splitlines()]
    assert lines[0] == ["File name", "Key", "Address"]
    assert [line[2] for line in lines[1:]] == addresses
    assert lines[2][0] == "'=1+1.png", "a spreadsheet would take it for a formula"
    html = page.evaluate(
        "navigator.clipboard.read().then(([item]) => item.getType('text/html'))"
        ".then(content => content.text())"
    )
    assert html.count("<tr>") == 3


def test_a_table_can_be_copied_in_a_browser_without_the_clipboard_api(open_page, api_key):
    page = ready(open_page, api_key)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.set_input_files("#files", [PNG])
    key = stored(page)
    page.get_by_role("button", name="Copy all as a table").click()
    page.locator("#key").fill("")
    page.locator("#key").press("ControlOrMeta+V")
    assert key in page.locator("#key").input_value()


@pytest.fixture
def folder(tmp_path):
    """Four images, one of them in a folder inside, and files that systems leave in folders."""
    for name in ("b.png", "a10.png", "a9.png", ".DS_Store", "Thumbs.db", "inside/c.png"):
        path = tmp_path / "day" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture())
    return tmp_path / "day"


NAMES = ["day/a9.png", "day/a10.png", "day/b.png", "day/inside/c.png"]


def test_a_folder_can_be_dropped(open_page, api_key, folder):
    page = ready(open_page, api_key)
    tools = page.context.new_cdp_session(page)
    box = page.locator("#drop").bounding_box()
    point = {"x": box["x"] + 50, "y": box["y"] + 50}
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        tools.send("Input.dispatchDragEvent", {"type": kind, "data": data, **point})
    expect(page.locator("#sum")).to_have_text("4 of 4 stored")
    assert visible(page) == NAMES


def test_a_dropped_file_that_cannot_be_read_needs_attention(open_page, api_key):
    page = ready(open_page, api_key)
    page.evaluate(
        """() => {
          const gone = (name) => ({isFile: true, name, fullPath: "/day/" + name,
            file: (_, failed) => failed(new Error("gone"))});
          const batches = [[gone("a.png"), gone("b.png")], []];
          const folder = {isDirectory: true, name: "day", fullPath: "/day",
            createReader: () => ({readEntries: (found) => found(batches.shift())})};
          DataTransferItem.prototype.webkitGetAsEntry = () => folder;
          const transfer = new DataTransfer();
          transfer.items.add(new File(["x"], "day"));
          const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    expect(page.locator(".upload.bad .state")).to_contain_text(["cannot be read"] * 2)
    assert visible(page) == ["day/a.png", "day/b.png"]


def test_a_folder_can_be_chosen(open_page, api_key, folder):
    page = ready(open_page, api_key)
    page.set_input_files("#folder", folder)
    expect(page.locator("#sum")).to_have_text("4 of 4 stored")
    assert sorted(visible(page)) == sorted(NAMES)


def test_the_limits_of_a_key_are_shown_as_soon_as_it_is_entered(open_page, api_key):
    page = open_page()
    key = api_key(name="Magazine", rate_limit="120/hour", expires_at="2050-01-31")
    page.locator("#key").fill(key)
    expect(page.locator("#key-state")).to_have_text("Accepted: Magazine")
    limits = page.locator("#limits")
    for text in (
        "120 an hour",
        "120 now",
        "JPG, PNG, GIF, WEBP",
        "15 MiB",
        "100 megapixels",
        "2050",
    ):
        expect(limits).to_contain_text(text)
    page.set_input_files("#files", [PNG])
    stored(page)
    expect(limits).to_contain_text("119 now")


def test_answers_that_overtake_each_other_never_raise_what_is_left(open_page, api_key):
    page, held = ready(open_page, api_key), []
    page.route("**/upload/image", lambda route, _: held.append(route))
    page.set_input_files("#files", [PNG] * 3)
    wait_until(lambda: page.wait_for_timeout(50) or len(held) == 3)
    for route, left in zip(held, (57, 59, 58), strict=True):
        body = json.dumps({"data": {"key": "uploads/a.png"}})
        rate = f'"requests";r={left};t=60'
        route.fulfill(status=200, headers={"RateLimit": rate}, body=body)
    expect(page.locator("#sum")).to_have_text("3 of 3 stored")
    expect(page.locator("#limit-left")).to_have_text("57 now")


def test_the_metadata_policy_of_a_key_is_shown_in_plain_words(open_page, api_key):
    page = open_page()
    page.locator("#key").fill(api_key(metadata="no-location"))
    expect(page.locator("#limits")).to_contain_text(
        "the place where a picture was taken is removed"
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"disabled": "yes"}, "This key is not accepted."),
        ({"roles": "editor"}, "lacks the role “uploader”"),
    ],
)
def test_a_key_that_may_not_upload_is_refused_before_an_upload(
    open_page, api_key, redis_client, fields, sentence
):
    page = open_page()
    key = api_key(**fields)
    page.locator("#key").fill(key)
    expect(page.locator("#key-state")).to_contain_text(sentence)
    expect(page.locator("#key")).to_have_attribute("aria-invalid", "true")
    sent = []
    page.on("request", lambda each: sent.append(each.url) if each.url.endswith("/image") else None)
    page.set_input_files("#files", [PNG] * 3)
    expect(page.locator("#pause")).to_have_text("Waiting for a valid API key.")
    assert sent == []
    redis_client.hset(record_name(key), mapping={"disabled": "no", "roles": "uploader"})
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#sum")).to_have_text("3 of 3 stored")


def test_files_wait_for_another_key_when_theirs_is_disabled(open_page, api_key, redis_client):
    key = api_key()
    page = ready(open_page, lambda: key)
    expect(page.locator("#key-state")).to_contain_text("Accepted")
    redis_client.hset(record_name(key), "disabled", "yes")
    page.set_input_files("#files", [PNG] * 9)
    expect(page.locator("#key-state")).to_contain_text("This key is not accepted.")
    expect(page.locator(".upload .state", has_text="Waiting")).to_have_count(9)
    page.locator("#key").fill(api_key())
    expect(page.locator("#sum")).to_have_text("9 of 9 stored")


def test_the_page_waits_for_the_retry_after_of_a_full_service_with_one_countdown(
    open_page, api_key
):
    page = ready(open_page, api_key)
    asked, answers = [], [(503, "overloaded"), (429, "too_many_at_once")]

    def full(route):
        asked.append(route)
        if len(asked) > 3:
            return route.continue_()
        status, code = answers[len(asked) % 2]
        problem = {"code": code, "detail": "Full. Try again in 2 seconds."}
        return route.fulfill(status=status, headers={"Retry-After": "2"}, body=json.dumps(problem))

    page.route("**/upload/image", full)
    page.set_input_files("#files", [PNG] * 6)
    expect(page.locator("#pause")).to_contain_text("take pictures right now. Trying again in")
    assert page.locator(".upload .state", has_text="gain in").count() == 0
    assert len(asked) == 3
    expect(page.locator("#sum")).to_have_text("6 of 6 stored")
    assert len(asked) == 9


def test_the_other_files_wait_when_the_connection_is_lost(open_page, api_key):
    page = ready(open_page, api_key)
    expect(page.locator("#key-state")).to_contain_text("Accepted")
    page.route("**/upload/image", lambda route: route.abort())
    page.set_input_files("#files", [PNG] * 50)
    expect(page.locator("#pause")).to_contain_text("cannot be reached. Trying again in")
    expect(page.locator(".upload.bad")).to_have_count(3)
    page.unroute("**/upload/image")
    page.get_by_role("button", name="Try all again").click()
    expect(page.locator("#sum")).to_have_text("50 of 50 stored")


def test_all_waiting_files_can_be_cancelled(open_page, api_key):
    page = ready(open_page, api_key)
    page.route("**/upload/image", lambda route: None)  # never answered
    page.set_input_files("#files", [PNG] * 9)
    expect(page.locator(".upload.moving")).to_have_count(3)
    page.get_by_role("button", name="Cancel all waiting").click()
    expect(page.locator(".upload .state", has_text="Cancelled")).to_have_count(6)
    expect(page.locator(".upload.moving")).to_have_count(3)


def test_a_german_csv_has_semicolons_as_german_spreadsheets_expect(open_page, api_key):
    page = open_page(locale="de-DE")
    page.locator("#key").fill(api_key())
    page.set_input_files("#files", [PNG])
    key = stored(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV herunterladen").click()
    text = download.value.path().read_text("utf-8-sig")
    assert text == f"Dateiname;Schlüssel\n{PNG['name']};{key}\n"
