"""Picture files of every kind become upright RGB of 8 bits, or one clear error."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config import UserError
from dataset.images import read_image

ORIENTATION = 0x0112  # EXIF's tag


def save(picture: Image.Image, path: Path, **options) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "RGBA"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = save(Image.new("RGB", (5, 3), "white").convert(mode), tmp_path / "picture.tif")
    pixels = read_image(path)
    assert (pixels.shape, pixels.dtype) == ((3, 5, 3), np.uint8)
    assert np.all(pixels == 255)


def test_transparency_is_laid_over_white(tmp_path: Path):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    assert read_image(save(picture, tmp_path / "picture.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_transparent_palette_colour_is_laid_over_white(tmp_path: Path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    path = save(picture, tmp_path / "picture.gif", transparency=0)
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path):
    grey = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(grey), tmp_path / "picture.png")
    assert read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_rotation_is_applied(tmp_path: Path):
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90° clockwise to see it upright
    pixels = read_image(save(picture, tmp_path / "picture.png", exif=exif))
    assert pixels.shape == (4, 2, 3)
    assert pixels[0, 1].tolist() == [255, 255, 255]


def test_a_truncated_file_is_refused(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "picture.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"picture\.jpg cannot be read whole"):
        read_image(path)


def test_a_text_file_is_refused(tmp_path: Path):
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    with pytest.raises(UserError, match=r"notes\.jpg is not a picture"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"GIF89a", b"BM"])
def test_a_file_that_only_begins_like_a_picture_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"picture\.jpg"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no picture .*missing\.jpg"):
        read_image(tmp_path / "missing.jpg")


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=str(tmp_path)):
        read_image(tmp_path)
