"""What a user names as images: files, folders, patterns and addresses."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq.config import InferCFG
from pix2seq.errors import UserError
from pix2seq.infer.image_names import WebImage, find_images, is_one, read_named, unique_names
from tests.server import Server, running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "raw.heic", "more/c.png", "x[1].png"):
        Image.new("RGB", (4, 3), "red").save(folder / name, format="PNG")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as server:
        file = io.BytesIO()
        Image.new("RGB", (4, 3), "red").save(file, format="PNG")
        server.files = {"/red.png": file.getvalue(), "/page.png": b"<html>log in</html>", "/empty.png": b""}
        yield server


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.JPG", "b.png", "x[1].png"]),
        ("/*", ["a.JPG", "b.png", "x[1].png"]),
        ("/*.png", ["b.png", "x[1].png"]),
        ("/[ab].*", ["a.JPG", "b.png"]),
        ("/**/*.png", ["b.png", "more/c.png", "x[1].png"]),
        ("/**/**/c.*", ["more/c.png"]),
        ("/**", ["a.JPG", "b.png", "more/c.png", "x[1].png"]),
        ("/m*/**/*.png", ["more/c.png"]),
        ("/x[1].png", ["x[1].png"]),  # a file that is called so
    ],
)
def test_folders_and_patterns(photos: Path, pattern: str, found: list[str]):
    assert [path.relative_to(photos).as_posix() for path in find_images([f"{photos}{pattern}"])] == found
    assert is_one(f"{photos}{pattern}") == (pattern == "/x[1].png")


def test_links_that_lead_back_are_no_pattern_without_end(photos: Path):
    for number in range(3):
        (photos / "more" / f"back_{number}").symlink_to("..")
    assert len(find_images([f"{photos}/**/*.png"])) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/*.gif", "the pattern .* holds no images"),
        ("/none.png", "there is no image"),
        ("/r*", "1 files are of formats that cannot be read, such as raw.heic"),
    ],
)
def test_names_of_nothing_are_refused(photos: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        find_images([f"{photos}{name}"])


@pytest.mark.parametrize("name", ["file:///etc/passwd", "ftp://host/a.png", "hf://owner/repo"])
def test_addresses_that_are_not_the_web_s_are_refused(name: str):
    with pytest.raises(UserError, match="begins with https:// or http://"):
        find_images([name])


def test_an_image_from_the_web(server: Server):
    (image,) = find_images([f"{server.url}/red.png"])
    assert is_one(str(image)) and image.stem == "red"
    assert read_named(image, InferCFG()).tolist() == np.full((3, 4, 3), [255, 0, 0]).tolist()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("page.png", "page.png is HTML, not an image that can be read"),
        ("empty.png", "empty.png is empty"),
        ("none.png", "404"),
    ],
)
def test_what_is_no_image_is_named_by_its_address(server: Server, file: str, message: str):
    with pytest.raises(UserError, match=message):
        read_named(find_images([f"{server.url}/{file}"])[0], InferCFG())


def test_limits_of_size(server: Server):
    image = find_images([f"{server.url}/red.png"])[0]
    with pytest.raises(UserError, match="--max-megabytes"):
        read_named(image, InferCFG(max_megabytes=1e-5))
    with pytest.raises(UserError, match="--max-megapixels"):
        read_named(image, InferCFG(max_megapixels=1e-5))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a/cat.jpg?size=2#x", "cat"),
        ("https://host", "image"),
        ("https://host/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://host/%2e%2e", "image"),
        ("https://host/a%00%1b%0ab.png", "a_b"),
        ("https://host/" + "x" * 999, "x" * 100),
    ],
)
def test_an_address_makes_a_name_that_is_safe_for_a_folder(url: str, name: str):
    assert unique_names([WebImage(url), WebImage(url)]) == [name, f"{name}_2"]
