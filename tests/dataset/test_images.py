"""Image files of every kind are read as upright 8-bit RGB, or one clear error is raised."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pix2seq.dataset import images
from pix2seq.dataset.images import read_image, upright_rgb
from pix2seq.errors import UserError

ORIENTATION = 0x0112  # EXIF's tag


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "RGBA"])
def test_every_color_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = save(Image.new("RGB", (5, 3), "white").convert(mode), tmp_path / "image.tif")
    pixels = read_image(path)
    assert (pixels.shape, pixels.dtype) == ((3, 5, 3), np.uint8)
    assert np.all(pixels == 255)


def test_transparent_images_are_composited_over_white(tmp_path: Path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert read_image(save(image, tmp_path / "image.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_transparent_palette_color_is_composited_over_white(tmp_path: Path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = save(image, tmp_path / "image.gif", transparency=0)
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_16_bit_gray_is_scaled_to_8_bits(tmp_path: Path):
    gray = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(gray), tmp_path / "image.png")
    assert read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_rotation_is_applied(tmp_path: Path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90° clockwise to see it upright
    pixels = read_image(save(image, tmp_path / "image.png", exif=exif))
    assert pixels.shape == (4, 2, 3)
    assert pixels[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("orientation", range(10))
def test_bands_of_a_large_image_are_those_of_a_small_one(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    upright = Image.alpha_composite(Image.new("RGBA", (5, 7), "white"), image.convert("RGBA")).convert("RGB")
    upright.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(upright))
    for pixels in (1 << 22, 10):
        monkeypatch.setattr(images, "BAND_PIXELS", pixels)
        assert np.array_equal(upright_rgb(image), expected)


def test_gray_values_of_all_bands_have_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "BAND_PIXELS", 1)
    path = save(Image.fromarray(np.array([[0], [256], [4095]], dtype=np.uint16)), tmp_path / "image.png")
    assert read_image(path)[:, 0, 0].tolist() == [0, 16, 255]


def test_an_image_that_is_too_long_to_be_drawn_is_refused(tmp_path: Path):
    path = save(Image.new("1", (100_001, 1)), tmp_path / "image.png")
    with pytest.raises(UserError, match="100001 × 1 pixels, more than 100,000 in a row"):
        read_image(path)


def test_a_truncated_file_is_refused(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "image.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"image\.jpg cannot be read completely"):
        read_image(path)


def test_a_text_file_is_refused(tmp_path: Path):
    path = tmp_path / "notes.jpg"
    path.write_text("no image", encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.jpg is not an image"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"GIF89a", b"BM"])
def test_a_file_that_only_begins_like_an_image_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"image\.jpg"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no image .*missing\.jpg"):
        read_image(tmp_path / "missing.jpg")


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=str(tmp_path)):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),  # 12 bits
        (np.array([[0, 512, 1023]], np.uint16), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.uint16), [0, 128, 255]),
        (np.array([[0, 2048, 4095]], np.int32), [0, 128, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 127, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 127, 255]),
        (np.array([[0, 128.0, 255.0]], np.float32), [0, 128, 255]),
        (np.array([[-3, -3, -3]], np.float32), [0, 0, 0]),
    ],
)
def test_gray_of_any_depth_fills_8_bits(tmp_path: Path, values: np.ndarray, expected: list[int]):
    path = save(Image.fromarray(values), tmp_path / "image.tif")
    assert read_image(path)[0, :, 0].tolist() == expected


def test_an_image_with_values_that_are_not_finite_is_refused(tmp_path: Path):
    path = save(Image.fromarray(np.array([[0, np.nan]], np.float32)), tmp_path / "image.tif")
    with pytest.raises(UserError, match="not all finite"):
        read_image(path)


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"<!DOCTYPE html><html>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "empty, and not an image"),
    ],
)
def test_what_a_file_is_instead_of_an_image_is_named(tmp_path: Path, content: bytes, kind: str):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jpg is {kind}"):
        read_image(tmp_path / "a.jpg")


def test_12_bit_colors_in_16_bits_are_refused(tmp_path: Path):
    colors = np.linspace(0, 4095, 8 * 8 * 3).astype(np.uint16).reshape(8, 8, 3)
    for values, suffix in ((colors, "png"), (colors, "tif"), (colors * 16, "png")):
        path = tmp_path / f"{values.max()}.{suffix}"
        cv2.imwrite(str(path), values)
        if values is colors:
            with pytest.raises(UserError, match="16 bits, of which 12 or fewer"):
                read_image(path)
        else:
            assert read_image(path).max() == 255
