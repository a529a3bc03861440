"""Text in drawings is readable in scripts of many languages, the same on every machine."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pix2seq.evaluate.tiles import TILE_PX, text_page
from pix2seq.infer.arabic import in_writing_order, joined
from pix2seq.infer.lettering import draw_text, text_length, wrapped

NAMES = ["собака", "γάτα", "猫", "ねこ", "고양이", "قطة", "چراغ", "חתול", "Größe", "cat 猫 90%"]


def drawn(text: str, size_px: int = 24) -> np.ndarray:
    image = Image.new("L", (400, 40))
    draw_text(ImageDraw.Draw(image), (2, 2), text, size_px, 255)
    return np.asarray(image)


@pytest.mark.parametrize("name", NAMES)
def test_each_letter_has_a_shape_of_its_own(name: str):
    """A font shows letters that it lacks as one and the same box, as it does with a code that is no letter."""
    box = drawn("\ue123")
    shapes = [drawn(letter) for letter in dict.fromkeys(name) if letter.strip()]
    assert all(shape.any() and not np.array_equal(shape, box) for shape in shapes)
    assert len({shape.tobytes() for shape in shapes}) == len(shapes)


def test_a_text_is_as_long_as_its_drawing():
    for name in NAMES:
        columns = np.flatnonzero(drawn(name).any(axis=0))
        assert columns[-1] <= 2 + text_length(name, 24) + 1 and columns[-1] > 2 + 0.8 * text_length(name, 24)


def test_arabic_letters_join_their_neighbors():
    assert joined("بيت") == "\ufe91\ufef4\ufe96"  # initial, medial, final
    assert joined("دار") == "\ufea9\ufe8d\ufead"  # letters that join nothing after them
    assert joined("سلام") == "\ufeb3\ufefc\ufee1"  # lam and alef are one
    assert joined("على") == "\ufecb\ufee0\ufef0"
    assert joined("قِطَّة") == joined("قطة")


@pytest.mark.parametrize(
    "text, seen",
    [
        ("cat 90%", "cat 90%"),
        ("חתול 90%", "לותח 90%"),
        ("חתול שחור 90%", "רוחש לותח 90%"),
        ("box חתול 12 שחור end", "box רוחש 12 לותח end"),
        ("", ""),
    ],
)
def test_phrases_run_from_right_to_left_and_numbers_do_not(text: str, seen: str):
    assert in_writing_order(text) == seen


def test_text_without_spaces_is_wrapped_to_the_width():
    text = "一只猫坐在桌子上" * 20
    lines = wrapped(text, 200, 16)
    assert "".join(lines) == text and max(text_length(line, 16) for line in lines) <= 200
    assert wrapped("a cat and a dog", 60, 16) == ["a cat", "and a", "dog"]
    assert (text_page([text])[:, TILE_PX - 3 :] == 255).all()
