"""The page that detects in the browser, built as `make web` builds it, in a headless Chromium."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pix2seq
from pix2seq.runtime.paths import ROOT

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SURE = 0.3  # decoders of JPEG differ in their last bits, and so do boxes that the model only guesses
LONG_MS = 240_000  # an export and a model in WebAssembly take their time on a busy machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder, with the weights `scenes`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"exports need {package}: pip install 'pix2seq-toolkit[export]'")
    if not shutil.which("npm"):
        pytest.skip("npm is not here, which fetches onnxruntime-web")
    folder = tmp_path_factory.mktemp("web")
    command = [ROOT / "images" / "web" / "build.sh", folder, "scenes"]
    run = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    if "npm error" in run.stderr:
        pytest.skip(f"onnxruntime-web cannot be fetched: {run.stderr[:200]}")
    assert run.returncode == 0, run.stderr
    assert re.search(r"\d+ MB to download", run.stdout)
    return folder


@pytest.fixture(scope="module")
def page(built: Path) -> Iterator[Any]:
    """The page in a browser that has the photo chosen by `found`, and `mistakes`: what its console complains about."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is driven by playwright")
    if BROWSER is None:
        pytest.skip("there is no Chromium here")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.mistakes = []
        page.on("console", lambda said: page.mistakes.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.mistakes.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/?votes=1")
        wait_for(page, "ready")
        yield page
        browser.close()
    server.shutdown()


def wait_for(page: Any, words: str) -> None:
    page.locator("#status").filter(has_text=re.compile(words)).wait_for(timeout=LONG_MS)


def choose(page: Any, photo: Path) -> list[dict[str, Any]]:
    """What the page finds in a photo; what it said about the one before is removed first."""
    page.evaluate("document.querySelector('#status').textContent = ''")
    page.set_input_files("#file", str(photo))
    wait_for(page, r"tokens/s")
    return page.evaluate("window.result.objects")


def test_the_page_finds_what_the_predictor_finds(page: Any, built: Path):
    greedy = {"detection_votes": 1, "detection_top_p": 0.0, "views": 1, "score_threshold": 0.0}
    model = pix2seq.load(built / "model", **greedy)
    for photo in (ROOT / "images" / "scene.jpg", ROOT / "images" / "demo.jpg"):
        found, expected = choose(page, photo), model(photo, "detection")
        size = page.evaluate("[window.result.width, window.result.height]")
        assert size == [expected.image.shape[1], expected.image.shape[0]]
        found = [thing for thing in found if thing["score"] >= SURE]
        sure = expected.scores >= SURE
        assert [thing["name"] for thing in found] == np.array(expected.class_names)[sure].tolist()
        boxes = np.array([thing["box"] for thing in found]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, expected.boxes[sure], atol=2)
        np.testing.assert_allclose([thing["score"] for thing in found], expected.scores[sure], atol=0.02)
    assert not page.mistakes


def test_the_demo_photo_is_drawn_and_listed_and_the_slider_chooses(page: Any):
    page.click("#demo")
    wait_for(page, r"tokens/s")
    scores = [thing["score"] for thing in page.evaluate("window.result.objects")]
    for least in (0.0, 0.9, 1.0):
        page.locator("#threshold").fill(str(least))
        assert page.locator("#found tbody tr").count() == sum(score >= least for score in scores)
    assert not page.mistakes


def test_votes_are_cast_in_the_browser_too(page: Any):
    page.goto(page.url.replace("votes=1", "votes=4"))
    wait_for(page, "ready")
    objects = choose(page, ROOT / "images" / "scene.jpg")
    sure = [thing["name"] for thing in objects if thing["score"] > 0.5]
    assert {"bus", "person", "umbrella"} <= set(sure)
    assert [thing["score"] for thing in objects] == sorted((thing["score"] for thing in objects), reverse=True)
    assert not page.mistakes


def test_what_is_no_photo_is_refused_in_a_sentence(page: Any, tmp_path: Path):
    bad = tmp_path / "photo.jpg"
    bad.write_text("<script>alert(1)</script>", encoding="utf-8")
    page.set_input_files("#file", str(bad))
    wait_for(page, "this photo cannot be used")
    assert not page.mistakes


def test_a_stranger_s_class_names_are_only_words(page: Any, built: Path, tmp_path: Path):
    told = json.loads((built / "model" / "model.json").read_text(encoding="utf-8"))
    told["class_names"] = dict.fromkeys(told["class_names"], "<img src=x onerror=alert(1)>")
    page.route("**/model.json", lambda route: route.fulfill(json=told))
    page.reload()
    wait_for(page, "ready")
    choose(page, ROOT / "images" / "scene.jpg")
    assert page.locator("main img").count() == 0
    assert page.locator("#found td").first.inner_text().startswith("<img")
    page.unroute("**/model.json")
    assert not page.mistakes
