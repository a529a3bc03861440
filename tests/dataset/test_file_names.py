"""Names in annotation files find their images in other spellings, but never by a guess."""

import unicodedata
from pathlib import Path

import pytest

from pix2seq.dataset.file_names import FileNames, leads_out

NFC, NFD = (unicodedata.normalize(form, "zürich.jpg") for form in ("NFC", "NFD"))


def find(folder: Path, there: list[str], name: str) -> tuple[str, str] | None:
    for path in there:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return FileNames(folder).find(name)


@pytest.mark.parametrize(
    "there, name, how",
    [
        ("a.jpg", "a.jpg", ""),
        ("images/a.jpg", "images\\a.jpg", "with / for \\"),
        ("my photo.jpg", "my%20photo.jpg", "with URL encoding undone"),
        (NFD, NFC, "in another case or Unicode form"),
        (NFC, NFD, "in another case or Unicode form"),
        ("IMG_1.JPG", "img_1.jpg", "in another case or Unicode form"),
        ("Day/a.JPG", "day\\A.jpg", "with / for \\"),
        ("images/a.jpg", "C:\\Users\\me\\images\\a.jpg", "by the end of a path of another system"),
        ("a.jpg", "/home/me/project/a.jpg", "by the end of a path of another system"),
        ("a.jpg", "file:///home/me/a.jpg", "by the end of a path of another system"),
        ("a.jpg", "https://host.org/images/a.jpg?size=big", "by the end of a path of another system"),
        ("a.jpg", " a.jpg ", "without spaces around it"),
        ("a.jpg", "a", "with another ending"),
        ("a.b.jpg", "a.b", "with another ending"),
        ("a.jpg", "a.jpg.jpg", "with another ending"),
        ("a.jpg.jpg", "a.jpg", "with another ending"),
        ("a.jpeg", "a.jpg", "with another ending"),
        ("a.jpg", "a.png", "with another ending"),
        ("a.PNG", "a.jpg", "with another ending"),
        ("images/a.png", "images\\a.tif", "with / for \\, with another ending"),
        ("a.JPG", "images\\..\\a", None),
    ],
)
def test_other_spellings_are_found(tmp_path: Path, there: str, name: str, how: str | None):
    found = find(tmp_path, [there], name)
    assert found == (None if how is None else (there, how))


@pytest.mark.parametrize(
    "there, name",
    [
        (["A.jpg", "a.JPG"], "a.jpg"),
        (["a.jpg", "a.png"], "a"),
        (["b.jpg"], "a.jpg"),
        (["a.png", "a.bmp"], "a.jpg"),
        (["a.jpeg", "a.jpg.jpg"], "a.jpg"),
        (["1.jpg"], "001.jpg"),
        (["val/a.jpg"], "train/a.jpg"),
        (["a.jpg"], "x" * 5000),
        (["a.jpg"], "a\0.jpg"),
        (["a.jpg"], ""),
    ],
)
def test_what_is_not_certain_is_not_found(tmp_path: Path, there: list[str], name: str):
    assert find(tmp_path, there, name) is None


def test_the_own_spelling_comes_first(tmp_path: Path):
    assert find(tmp_path, ["a%20b.jpg", "a b.jpg", "A%20B.jpg"], "a%20b.jpg") == ("a%20b.jpg", "")


def test_what_leads_out_of_the_folder_is_known(tmp_path: Path):
    inside, other = tmp_path / "data" / "images", tmp_path / "other"
    for folder in (inside, other):
        folder.mkdir(parents=True)
        (folder / "a.jpg").touch()
    (inside / "link.jpg").symlink_to(other / "a.jpg")
    (inside / "near.jpg").symlink_to("a.jpg")
    (inside / "disk").symlink_to(other)
    out = (
        "../../other/a.jpg",
        str(other / "a.jpg"),
        "/etc/passwd",
        "link.jpg",
        "disk/../data/../x",
        "..",
        "../b.jpg",
        "../\0",
    )
    assert all(leads_out(inside / name, inside) for name in out)
    stays = ("a.jpg", "./a.jpg", "near.jpg", "disk/a.jpg", "../images/a.jpg", str(inside / "a.jpg"), "none")
    assert not any(leads_out(inside / name, inside) for name in stays)
    assert not leads_out(inside / "../b.jpg", inside, tmp_path / "data")
    assert FileNames(inside).find(str(other / "a.jpg")) == ("a.jpg", "by the end of a path of another system")
