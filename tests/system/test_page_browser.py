"""The upload page and the API reference in real Chromium."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.pictures import padded
from tests.system.chromium import CUT, PNG, TEXT, clipboard, ready, stored
from tests.system.stack import wait_until

pytestmark = pytest.mark.needs_program("chromium")


def test_a_chosen_file_is_uploaded_and_its_key_can_be_copied(open_page, api_key, seaweedfs, bucket):
    page = ready(open_page, api_key)
    page.set_input_files("#files", [PNG])
    key = stored(page)
    assert seaweedfs.read(bucket, key) == PNG["buffer"]
    expect(page.locator("#sum")).to_have_text("1 of 1 stored")
    expect(page.locator("#live")).to_contain_text("Stored")
    page.get_by_role("button", name="Copy key").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == key


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_file_can_be_dropped_and_pasted(open_page, api_key, kind):
    page = ready(open_page, api_key)
    page.evaluate(
        """([kind, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
          const options = {bubbles: true, cancelable: true};
          const event = kind === "drop"
            ? new DragEvent("drop", {dataTransfer: transfer, ...options})
            : new ClipboardEvent("paste", {clipboardData: transfer, ...options});
          document.getElementById("drop").dispatchEvent(event);
        }""",
        [kind, list(PNG["buffer"])],
    )
    stored(page)


def test_many_files_are_sent_three_at_a_time(open_page, api_key):
    page = ready(open_page, api_key)
    held = []

    def hold(route):
        held.append(route)
        if len(held) > 3:
            route.continue_()

    page.route("**/upload/image", hold)
    page.set_input_files("#files", [PNG] * 7)
    expect(page.locator(".upload .state", has_text="Waiting")).to_have_count(4)
    # Playwright calls ``hold`` only while the test waits in one of its functions.
    wait_until(lambda: page.wait_for_timeout(20) or len(held) == 3)
    for route in held[:3]:
        route.continue_()
    assert len({stored(page, number) for number in range(7)}) == 7


def test_a_cut_file_is_refused_with_a_sentence(open_page, api_key):
    page = ready(open_page, api_key)
    page.set_input_files("#files", [CUT])
    expect(page.locator(".upload.bad .state")).to_contain_text("cut off")
    page.get_by_role("button", name="Remove").click()  # a second try could not help
    expect(page.locator(".upload")).to_have_count(0)


def test_format_and_size_are_checked_before_a_file_is_sent(open_page, api_key):
    page = ready(open_page, api_key)
    large = {**PNG, "buffer": padded("PNG", 15 * 1024 * 1024 + 1)}
    page.set_input_files("#files", [TEXT, large])
    states = page.locator(".upload.bad .state")
    expect(states.nth(0)).to_contain_text("Not sent: the file is not a JPEG")
    expect(states.nth(1)).to_contain_text("Not sent: the file is larger than 15 MiB")
    assert page.get_by_role("button", name="Try again").count() == 0


def test_the_page_asks_for_a_missing_key(open_page):
    page = open_page()
    page.set_input_files("#files", [PNG])
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#key-state")).to_have_text("Enter your API key first.")
    assert page.locator(".upload").count() == 0


def test_progress_moves_on_a_slow_connection(open_page, api_key):
    page = ready(open_page, api_key)
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    network.send("Network.emulateNetworkConditions", slow)
    # 900 kB at 300 kB/s: long enough to read the bar several times.
    page.set_input_files("#files", [{**PNG, "buffer": padded("PNG", 900_000)}])
    values = set()

    def moving():
        if page.locator(".upload.good").count():
            return True
        values.add(page.locator(".upload progress").evaluate("bar => bar.value"))
        return None

    wait_until(moving, 30)
    assert len(values) >= 3


def test_the_page_waits_when_the_rate_is_used_up_and_tries_again(open_page, api_key):
    page = ready(open_page, lambda: api_key(rate_limit="1/second"))
    statuses = []
    page.on("response", lambda each: statuses.append(each.status))
    page.set_input_files("#files", [PNG] * 3)
    expect(page.locator("#pause")).to_contain_text("used up. Trying again in")
    for number in range(3):
        stored(page, number)
    expect(page.locator("#pause")).to_be_empty()
    assert set(statuses) == {200}, "the page has sent more than the rate allows"


def test_a_retry_after_a_lost_connection_makes_no_second_object(
    open_page, api_key, seaweedfs, bucket
):
    page = ready(open_page, api_key)
    before = seaweedfs.keys(bucket)
    lost = []

    def lose_the_answer(route):
        if not lost:
            lost.append(route.fetch())
            route.abort()
        else:
            route.continue_()

    page.route("**/upload/image", lose_the_answer)
    page.set_input_files("#files", [PNG])
    expect(page.locator(".upload.bad")).to_contain_text("nothing is stored twice")
    page.get_by_role("button", name="Try again").click()
    key = stored(page)
    assert lost[0].json()["data"]["key"] == key
    assert seaweedfs.keys(bucket) - before == {key}


def test_an_upload_can_be_cancelled_and_tried_again_without_a_mouse(open_page, api_key):
    page = ready(open_page, api_key)
    page.route("**/upload/image", lambda route: None)  # never answered
    page.set_input_files("#files", [PNG])
    page.get_by_role("button", name="Cancel").press("Enter")
    expect(page.locator(".upload .state")).to_have_text("Cancelled")
    page.unroute("**/upload/image")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()
    page.keyboard.press("Enter")
    stored(page)


def test_a_key_that_was_copied_with_an_invisible_character_is_refused(open_page, api_key):
    key = api_key()
    page = ready(open_page, lambda: key + "\u200b")
    page.set_input_files("#files", [PNG])
    expect(page.locator("#live")).to_contain_text("This is not an API key")
    assert page.locator(".upload").count() == 0
    page.locator("#key").fill(key)
    page.set_input_files("#files", [PNG])
    stored(page)


def test_uploads_under_way_go_on_when_the_key_is_replaced_by_an_invalid_one(open_page, api_key):
    page = ready(open_page, api_key)
    page.route("**/upload/image", lambda route: None)  # never answered
    page.set_input_files("#files", [PNG] * 4)
    expect(page.locator(".upload .state", has_text="Sending")).to_have_count(3)
    page.locator("#key").fill("“none”")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(page.locator("#key-state")).to_contain_text("This is not an API key")
    expect(page.locator("#pause")).to_contain_text("Waiting for a valid API key")
    expect(page.locator(".upload .state", has_text="Waiting")).to_have_count(1)
    page.unroute("**/upload/image")  # the other two go on
    page.locator("#key").fill(api_key())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".upload .stored:visible")).to_have_count(4)


def test_a_key_can_be_pasted_when_the_clipboard_has_an_image_too(open_page):
    page = open_page()
    kept = page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(["x"], "a.png", {type: "image/png"}));
          const options = {clipboardData: transfer, bubbles: true, cancelable: true};
          return document.getElementById("key").dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    assert kept, "the browser's own paste was prevented"


def test_the_page_works_with_the_keyboard_alone(open_page, api_key):
    page = open_page()
    # With a listener Playwright gives file choosers to the test, and opens no window.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type(api_key())
    page.keyboard.press("Tab")
    expect(page.locator("#show")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([PNG])
    stored(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1280, 3840])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_fit_every_width_and_pass_axe(open_page, api_key, path, width, scheme):
    page = open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    if path == "/":
        page.locator("#key").fill(api_key())
        page.set_input_files("#files", [PNG, CUT])
        stored(page)
        expect(page.locator(".upload.bad")).to_be_visible()
    scroll, client = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert scroll <= client
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_german_browser_gets_the_page_in_german(open_page):
    page = open_page(locale="de-DE")
    expect(page.get_by_role("heading", name="Bilder hochladen")).to_be_visible()


def test_the_tabs_of_the_reference_follow_the_arrow_keys(open_page):
    page = open_page("/docs")
    page.get_by_role("tab", name="Shell").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel")).to_contain_text("new FormData()")


def test_the_reference_can_send_an_upload(open_page, api_key):
    page = open_page("/docs")
    page.locator("#try-key").fill(api_key())
    page.set_input_files("#try-file", [PNG])
    page.get_by_role("button", name="POST /upload/image").click()
    expect(page.locator("#try-answer")).to_contain_text('"key": "uploads/')
