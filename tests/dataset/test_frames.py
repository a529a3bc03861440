"""The annotated size of an image tells whether its annotations are about the upright or the stored image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq.dataset.coco import ImageDataset
from pix2seq.errors import UserError

UPRIGHT, STORED = (20, 40), (40, 20)  # width and height of an image whose EXIF data turn it
TALL, WIDE = [2, 22, 10, 16], [22, 2, 16, 10]  # boxes that fit the one or the other alone


def dataset(
    folder: Path, size: tuple[int, int] | None, box: list, turned: bool = True, others: int = 0
) -> ImageDataset:
    """One image with a white box at WIDE as it is stored, annotated as of `size`; `others` are annotated rightly."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[2:12, 22:38] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    images, objects = [], []
    for number in range(1, 2 + others):
        Image.fromarray(pixels).save(folder / f"{number}.png", **({"exif": exif} if turned and number == 1 else {}))
        sides = (size if number == 1 else STORED) or ()
        images.append(
            {"id": number, "file_name": f"{number}.png"} | dict(zip(("width", "height"), sides, strict=False))
        )
        bbox = box if number == 1 else WIDE
        objects.append({"id": number, "image_id": number, "category_id": 1, "bbox": bbox})
    categories = [{"id": 1, "name": "cup"}]
    return ImageDataset(folder, {"a": lambda: {"images": images, "annotations": objects, "categories": categories}})


@pytest.mark.parametrize(
    "size, box, shape, remark",
    [
        (UPRIGHT, TALL, (40, 20), ""),
        (STORED, WIDE, (20, 40), "annotated as it is stored"),
        (STORED, [1, 1, 5, 5], (20, 40), "annotated as it is stored"),
        (STORED, TALL, (40, 20), "swapped"),
        (None, TALL, (40, 20), ""),
        ((21, 40), TALL, (40, 20), ""),
    ],
)
def test_the_frame_is_that_of_the_annotations(tmp_path: Path, size, box: list, shape: tuple, remark: str):
    split = dataset(tmp_path, size, box)
    split.leave_out_unreadable()
    example = split[0]
    x, y, width, height = box
    assert example.image.shape[:2] == shape
    assert example.boxes.tolist() == [[x, y, x + width, y + height]]
    assert [remark in line for line in split.problems.lines()] == ([True] if remark else [])
    assert (split.images[0]["height"], split.images[0]["width"]) == shape


def test_a_box_of_the_stored_frame_stays_on_its_object(tmp_path: Path):
    split = dataset(tmp_path, STORED, WIDE)
    split.leave_out_unreadable()
    x1, y1, x2, y2 = split[0].boxes[0].astype(int)
    assert (split[0].image[y1:y2, x1:x2] == 255).all()


def test_swapped_sides_of_an_image_that_is_not_turned_are_swapped(tmp_path: Path):
    split = dataset(tmp_path, UPRIGHT, WIDE, turned=False)
    assert split.objects == {}  # outside the annotated size
    split.leave_out_unreadable()
    assert split[0].boxes.tolist() == [[22, 2, 38, 12]]
    assert [line[:5] for line in split.problems.lines()] == ["1 × i"]


def test_an_image_of_another_size_is_left_out(tmp_path: Path):
    split = dataset(tmp_path, (400, 200), WIDE, turned=False, others=2)
    split.leave_out_unreadable()
    assert [entry["id"] for entry in split.images] == [2, 3]
    assert any("1.png: 40 × 20, annotated as 400 × 200" in line for line in split.problems.lines())


def test_most_images_of_another_size_are_refused(tmp_path: Path):
    split = dataset(tmp_path, (400, 200), WIDE, turned=False)
    with pytest.raises(UserError, match=r"1 of 1 annotated images .* another size"):
        split.leave_out_unreadable()


def test_without_boxes_the_size_does_not_matter(tmp_path: Path):
    split = dataset(tmp_path, (400, 200), None, turned=False)
    split.leave_out_unreadable()
    assert (split.images[0]["width"], split.images[0]["height"]) == STORED


@pytest.mark.parametrize(
    "orientation, shape, remark",
    [
        (3, (20, 40), "turn or mirror"),
        (2, (20, 40), "turn or mirror"),
        (6, (20, 20), "turn or mirror"),
        (1, (20, 20), ""),
    ],
)
def test_a_size_that_does_not_tell_the_frame_is_reported(tmp_path: Path, orientation: int, shape: tuple, remark: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "1.png", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": shape[1], "height": shape[0]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    split = ImageDataset(tmp_path, {"a": lambda: content})
    split.leave_out_unreadable()
    assert [remark in line for line in split.problems.lines()] == ([True] if remark else [])


@pytest.mark.parametrize("box, as_stored", [(TALL, False), (WIDE, True)])
def test_boxes_tell_the_frame_where_no_size_does(tmp_path: Path, box: list, as_stored: bool):
    split = dataset(tmp_path, None, box)
    split.leave_out_unreadable()
    assert split.images[0]["as_stored"] == as_stored
