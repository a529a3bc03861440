"""The web demo in headless Chromium: photos, clicks, controls, tokens, and what strangers would try."""

import base64
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pix2seq.config import CFG, replace
from pix2seq.infer.web_demo import session
from pix2seq.infer.web_demo.worker import Left
from pix2seq.runtime.paths import ROOT
from tests.infer.web_demo.png_header import png_header

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SCENE = ROOT / "images" / "scene.jpg"
WAIT_MS = 120_000
SPOKEN = "document.querySelector('#viewer .chip') && !document.querySelector('#viewer .unsaid, #viewer .more')"
SIX_LABELS = "document.querySelectorAll('#viewer [data-part=labels] span').length === 6"  # drawn after the last token


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """A page with the weights `scenes`, its `url`, and the keys of tabs that were `forgotten`."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra [demo])")
    from pix2seq.infer.web_demo.server import serve

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        forgotten: list[str] = []
        patch.setattr(session.Sessions, "forget", lambda self, key: forgotten.append(key))
        patch.setenv("no_proxy", "127.0.0.1")
        cfg = replace(CFG(device="cpu"), weights="scenes", task="detection,captioning", port=port)
        cfg = replace(cfg, max_megapixels=50.0, max_megabytes=1.0)
        page = serve(cfg)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", forgotten=forgotten)
        page.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as started:
        path = path or started.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip(f"there is no browser: none of {', '.join(NAMES)} is on the path, nor playwright's own")
        with started.chromium.launch(executable_path=path, args=FLAGS) as opened:
            yield opened


@pytest.fixture
def open_page(browser, served) -> Iterator[Callable]:
    """Open the page in a tab of its own; no tab may log an error, show a dialog or ask another server for anything."""
    complaints: list[str] = []
    contexts = []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((served.url, "data:", "blob:")) or complaints.append(f"asked for {request.url}")
            ),
        )
        page.goto(served.url)
        page.wait_for_selector("#viewer [data-part=choose]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def load(page, file: Path | dict = SCENE) -> None:
    page.set_input_files("#viewer input[type=file]", file)


def says(page) -> str:
    return page.inner_text("#viewer [data-part=says]")


def image(page) -> bytes:
    return page.locator("#viewer .frame").screenshot()


def objects(page) -> list[str]:
    """The labels on the photo."""
    return page.locator("#viewer [data-part=labels] span").all_inner_texts()


def place_in(page, x: float, y: float) -> tuple[float, float]:
    """A place on the screen, given as fractions of the photo."""
    frame = page.locator("#viewer .frame").bounding_box()
    return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]


def test_tokens_appear_one_after_the_other_while_boxes_grow(open_page):
    page = open_page()
    page.evaluate("""() => {
        window.states = [];
        new MutationObserver(() => window.states.push([
            document.querySelectorAll('#viewer .tokens .chip:not(.unsaid)').length,
            document.querySelectorAll('#viewer svg .growing').length,
        ])).observe(document.querySelector('#viewer svg'), {childList: true});
    }""")
    load(page)
    page.wait_for_function(SPOKEN)
    said, growing = zip(*page.evaluate("window.states"), strict=True)
    assert len(set(said)) > 20 and list(said) == sorted(said)
    assert max(growing) == 6 and sorted(set(growing)) == list(range(7))
    page.wait_for_function(SIX_LABELS)
    assert page.inner_text("#viewer blockquote").startswith("a green bus")
    assert {"y", "x", "class", "word", "end"} <= set(page.locator("#viewer .legend .chip").all_inner_texts())


def test_tokens_are_shown_while_later_ones_are_decoded(open_page, monkeypatch: pytest.MonkeyPatch):
    listen, told, go_on = session.Photo._listen, [], threading.Event()

    def held(self: session.Photo, *heard: object) -> None:
        listen(self, *heard)
        told.append(heard)
        assert len(told) < 3 or go_on.wait(WAIT_MS / 1e3)

    monkeypatch.setattr(session.Photo, "_listen", held)
    monkeypatch.setattr(session, "SHOWN_S", 0.0)
    page = open_page()
    load(page)
    page.wait_for_function("document.querySelectorAll('#viewer .more .item .chip:not(.unsaid)').length === 12")
    assert len(told) == 3 and objects(page) == []
    go_on.set()
    page.wait_for_function(SPOKEN)
    page.wait_for_function(SIX_LABELS)
    assert page.locator("#viewer .item .chip").count() > 30


def test_a_tab_that_is_closed_ends_its_computation(open_page, monkeypatch: pytest.MonkeyPatch):
    listen, ended, heard = session.Photo._listen, threading.Event(), threading.Event()

    def slow(self: session.Photo, *told: object) -> None:
        try:
            listen(self, *told)
        except Left:
            ended.set()
            raise
        heard.set()
        ended.wait(2)

    monkeypatch.setattr(session.Photo, "_listen", slow)
    page = open_page()
    load(page)
    assert heard.wait(WAIT_MS / 1e3)
    page.wait_for_selector("#viewer .frame:not([hidden])")
    page.close()
    assert ended.wait(WAIT_MS / 1e3)


def test_pointing_at_a_token_shows_where_it_lies(open_page):
    page = open_page(reduced_motion="reduce")
    load(page)
    page.wait_for_function(SPOKEN)
    before = image(page)
    chip = page.locator("#viewer details .item .chip.x").first
    chip.hover()
    assert page.locator("#viewer svg .place").count() == 2  # its line, and the box that it is part of
    assert says(page).startswith("x1 = ") and "probability" in says(page)
    assert image(page) != before
    chip.focus()
    page.keyboard.press("ArrowRight")
    assert says(page).startswith("y2 = ")
    page.mouse.move(0, 0)
    page.wait_for_function("!document.querySelector('#viewer svg .place')")


def test_a_click_and_a_drawn_box_have_a_mask(open_page):
    page = open_page(reduced_motion="reduce")
    load(page)
    page.wait_for_function(SPOKEN)
    before = image(page)
    boxes = page.evaluate("""() => [...document.querySelectorAll('#viewer svg rect')].map((box) => {
        const place = box.getBoundingClientRect(); return [place.x + place.width / 2, place.y + place.height / 2];
    })""")
    page.mouse.click(*boxes[0])
    page.wait_for_selector("#viewer svg .mask", state="attached")
    clicked = image(page)
    assert clicked != before
    assert page.locator("#viewer details.pointed").count() >= 1
    page.mouse.move(*place_in(page, 0.1, 0.2))
    page.mouse.down()
    page.mouse.move(*place_in(page, 0.4, 0.7), steps=4)
    assert page.locator("#viewer svg .drawn").count() == 1
    page.mouse.up()
    page.wait_for_function("!document.querySelector('#viewer svg .drawn')")
    page.wait_for_function(
        "Math.abs(document.querySelector('#viewer svg .pointed').getBBox().width"
        " - 0.3 * document.querySelector('#viewer svg').viewBox.baseVal.width) < 2"
    )
    assert image(page) not in (before, clicked)


def test_sliders_and_tasks_change_what_is_shown(open_page):
    page = open_page(reduced_motion="reduce")
    load(page)
    page.wait_for_function(SPOKEN)
    before = image(page)
    slider = page.locator("#threshold input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function("!document.querySelector('#viewer [data-part=labels] span')")
    assert image(page) != before
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelectorAll('#viewer [data-part=labels] span').length >= 6")
    page.locator("#samples input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#viewer .sample")
    page.locator("#viewer .sample").first.click()
    assert page.locator("#viewer .sample").first.inner_text() == "sample 2 of 2"
    page.get_by_label("captioning").uncheck()
    page.wait_for_function("!document.querySelector('#viewer blockquote')")
    page.get_by_label("segmentation").check()
    page.wait_for_selector("#viewer svg .mask", state="attached")


def test_the_webcam_gives_a_photo(open_page):
    page = open_page(reduced_motion="reduce", permissions=["camera"])
    page.click("#viewer [data-part=webcam]")
    page.wait_for_function("document.querySelector('#viewer video').videoWidth > 0")
    page.click("#viewer [data-part=snap]")
    page.wait_for_selector("#viewer .frame:not([hidden])")


def test_hostile_uploads_are_answered_and_the_page_goes_on(open_page):
    uploads = {
        "notes.jpg": (b"root:x:0:0:root:/root:/bin/bash", "is not an image that can be read"),
        "<img src=x onerror=alert(1)>.jpg": (b"no", "is not an image that can be read"),
        "bomb.png": (png_header(90_000, 90_000), "has 90000 × 90000 pixels, more than 50 megapixels"),
        "script.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "is SVG"),
        "large.png": (b"\0" * 1_100_000, "has more than 1 MB"),
    }
    page = open_page(reduced_motion="reduce")
    for name, (content, message) in uploads.items():
        load(page, {"name": name, "mimeType": "image/jpeg", "buffer": content})
        start = json.dumps(f"{name} {message}")
        page.wait_for_function(f"document.querySelector('#viewer .says.error')?.innerText.startsWith({start})")
        assert page.locator("#viewer .says *").count() == 0
    load(page)
    page.wait_for_function(SPOKEN)
    assert len(objects(page)) == 6


def test_requests_of_our_own_making_read_nothing(open_page, served):
    """What gradio's client sends for a click, with other values."""
    page = open_page(reduced_motion="reduce")
    with page.expect_request(lambda request: "/queue/join" in request.url) as sent:
        load(page)
    body = json.loads(sent.value.post_data)
    page.wait_for_function(SPOKEN)

    def answer(**changes) -> str:
        joined = page.request.post(f"{served.url}/gradio_api/queue/join", data=body | changes)
        if not joined.ok:
            return f"{joined.status}"
        stream = f"{served.url}/gradio_api/queue/data?session_hash={changes.get('session_hash', body['session_hash'])}"
        return page.request.get(stream, timeout=WAIT_MS).text()

    values = body["data"]
    other = {"session_hash": "elsewhere1"}
    weights = answer(data=["../../etc/passwd", *values[1:]], **other)
    assert "root:" not in weights and '"success": true' not in weights.replace('"success":true', '"success": true')
    for data in ("/etc/passwd", {"path": "/etc/passwd"}, base64.b64encode(b"/etc/passwd").decode()):
        text = answer(event_data={"name": "/etc/passwd", "data": data}, **other)
        assert "root:" not in text and "error" in text
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    assert answer(data=[file, *values[1:]], **other) == "400"
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/config/../../etc/passwd"):
        assert page.request.get(served.url + path).status == 404


def test_a_tab_s_photo_is_forgotten_when_it_is_closed(open_page, served):
    page = open_page(reduced_motion="reduce")
    load(page)
    page.wait_for_function(SPOKEN)
    before = len(served.forgotten)
    page.close()
    other = open_page(reduced_motion="reduce")
    for _ in range(60):
        if len(served.forgotten) > before:
            break
        other.wait_for_timeout(500)
    assert len(served.forgotten) > before


def test_nothing_is_wider_than_the_screen_and_text_can_be_read(open_page):
    page = open_page(reduced_motion="reduce")
    load(page)
    page.wait_for_function(SPOKEN)
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(contrasts(page)) >= 4.5  # WCAG 2, level AA
    page.evaluate("document.body.classList.toggle('dark')")
    page.wait_for_timeout(500)  # colors fade
    assert min(contrasts(page)) >= 4.5


def contrasts(page) -> list[float]:
    """Of the letters of each chip with its ground."""
    return page.evaluate("""() => {
        const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
            .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
        return [...document.querySelectorAll('#viewer .chip')].map((chip) => {
            const { color, backgroundColor } = getComputedStyle(chip);
            const [low, high] = [light(color), light(backgroundColor)].sort((one, other) => one - other);
            return (high + 0.05) / (low + 0.05);
        });
    }""")
