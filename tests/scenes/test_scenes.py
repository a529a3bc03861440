"""The synthetic dataset: visible parts are annotated, and COCO's own reader reads the files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pix2seq.coco_person import KEYPOINTS
from pix2seq.errors import UserError
from pix2seq.scenes import coco_layout, people
from pix2seq.scenes import scene as scenes
from pix2seq.scenes.annotating import Placed, annotate, trace, visible_keypoints
from pix2seq.scenes.backgrounds import draw_setting
from pix2seq.scenes.captions import mention, write_captions
from pix2seq.scenes.composing import MIN_AREA_PX, compose, draw_size
from pix2seq.scenes.kinds import PERSON
from pix2seq.scenes.shapes import SUPERSAMPLING

SEED = 5


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return [scenes.draw_scene(np.random.default_rng([SEED, i])) for i in range(60)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    coco_layout.write_dataset(folder, num_train=6, num_val=3, seed=SEED)
    return folder


def rasterized(polygons: list[np.ndarray], width: int, height: int) -> np.ndarray:
    """The union (H, W) of polygons in pixels, by COCO's own rasterizer."""
    runs = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def composed(index: int) -> tuple[list[Placed], tuple[int, int]]:
    rng = np.random.default_rng([SEED, index])
    size_px = draw_size(rng)
    return compose(rng, draw_setting(rng), size_px), size_px


def test_same_generator_state_same_scene():
    first, second = (scenes.draw_scene(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.captions == second.captions
    assert [scenes.object_entry(item) for item in first.objects] == [
        scenes.object_entry(item) for item in second.objects
    ]


@pytest.mark.parametrize("size_px", [(640, 480), (240, 320), (97, 131)])
def test_an_image_has_the_requested_size(size_px: tuple[int, int]):
    image = scenes.draw_scene(np.random.default_rng(0), size_px).image
    assert image.shape == (size_px[1], size_px[0], 3)
    assert image.dtype == np.uint8


def test_drawn_sizes_have_a_longer_side_of_320(drawn: list[scenes.Scene]):
    shapes = np.array([scene.image.shape[:2] for scene in drawn])
    assert (shapes.max(1) == 320).all()
    assert shapes.min() >= 239
    assert (shapes[:, 0] > shapes[:, 1]).any() and (shapes[:, 0] < shapes[:, 1]).any()


def test_polygons_cover_the_visible_parts():
    ious = []
    for index in range(30):
        placed, (width, height) = composed(index)
        for item in placed:
            fine = SUPERSAMPLING
            mask = rasterized([fine * polygon for polygon in item.polygons], fine * width, fine * height)
            ious.append((mask & (item.mask > 0)).sum() / (mask | (item.mask > 0)).sum())
    assert min(ious) > 0.85  # specks are not annotated
    assert np.mean(np.array(ious) > 0.93) > 0.97
    assert np.mean(ious) > 0.97


def test_objects_hardly_overlap(drawn: list[scenes.Scene]):
    for scene in drawn:
        height, width = scene.image.shape[:2]
        covered = sum(rasterized(item.polygons, width, height).astype(int) for item in scene.objects)
        assert (covered > 1).sum() < 0.03 * (covered > 0).sum() + 5


def test_hidden_objects_are_not_annotated(drawn: list[scenes.Scene]):
    assert all(item.area >= MIN_AREA_PX for scene in drawn for item in scene.objects)
    assert all(1 <= len(scene.objects) <= 7 for scene in drawn)


def test_boxes_are_tight_and_inside_the_image(drawn: list[scenes.Scene]):
    for scene in drawn:
        height, width = scene.image.shape[:2]
        for item in scene.objects:
            points = np.concatenate(item.polygons)
            x, y, w, h = item.bbox
            assert np.allclose([x, y, x + w, y + h], [*points.min(0), *points.max(0)], atol=0.011)
            assert points.min() >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01
            assert 0 < item.area <= w * h + 0.1


def test_an_occluder_cuts_an_object_in_parts(drawn: list[scenes.Scene]):
    assert any(len(item.polygons) > 1 for scene in drawn for item in scene.objects)


def test_mask_with_a_hole_is_opened_downwards():
    ring = np.full((80, 80), 0, np.uint8)
    ring[10:70, 10:70] = 255
    ring[30:50, 30:50] = 0
    (polygon,) = trace(ring)
    mask = rasterized([polygon * SUPERSAMPLING], 80, 80)
    assert not mask[32:48, 32:48].any()
    assert abs(mask.sum() - (ring > 0).sum()) < 60


def test_a_square_is_traced_along_its_pixels_edges():
    square = np.zeros((40, 60), np.uint8)
    square[10:30, 20:50] = 255
    (polygon,) = trace(square)
    assert sorted(map(tuple, polygon.tolist())) == [(10, 5), (10, 15), (25, 5), (25, 15)]


def test_only_people_have_keypoints(drawn: list[scenes.Scene]):
    for item in (item for scene in drawn for item in scene.objects):
        assert (item.keypoints is not None) == (item.category_id == PERSON.category_id)


def test_keypoints_are_inside_the_image_or_zero(drawn: list[scenes.Scene]):
    for scene in drawn:
        height, width = scene.image.shape[:2]
        for item in (item for item in scene.objects if item.keypoints is not None):
            assert item.keypoints.shape == (17, 3)
            labeled = item.keypoints[:, 2] > 0
            assert (item.keypoints[~labeled] == 0).all()
            assert ((item.keypoints[labeled, :2] >= 0) & (item.keypoints[labeled, :2] < (width, height))).all()


def test_visible_keypoints_lie_on_the_visible_person():
    for index in range(20):
        for item in composed(index)[0]:
            keypoints = visible_keypoints(item)
            for x, y, v in keypoints if keypoints is not None else ():
                column, row = int(x * SUPERSAMPLING), int(y * SUPERSAMPLING)
                around = item.mask[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
                assert v < 2 or around.any()


@pytest.mark.parametrize(("degrees", "left_is_right_of"), [(0, True), (180, False)])
def test_left_is_the_persons_left(monkeypatch: pytest.MonkeyPatch, degrees: int, left_is_right_of: bool):
    cos = np.cos(np.radians(degrees))
    monkeypatch.setattr(people, "draw_turn", lambda rng, action: np.diag([cos, 1, cos]))
    keypoints = people.draw_person(np.random.default_rng(1)).keypoints
    left, right = (keypoints[KEYPOINTS.index(f"{side}_shoulder"), 0] for side in ("left", "right"))
    assert (left > right) == left_is_right_of
    assert keypoints[0, 2] == (2 if left_is_right_of else 1)  # the nose shows the front


def test_captions_are_five_short_sentences(drawn: list[scenes.Scene]):
    for scene in drawn:
        assert len(scene.captions) == len(set(scene.captions)) == 5
        for caption in scene.captions:
            assert 4 <= len(caption.split()) <= 20
            assert caption == caption.lower() and caption.replace(" ", "").isalpha()


def test_caption_vocabulary_is_closed():
    words = set()
    for index in range(300):
        rng = np.random.default_rng([SEED, 1, index])
        size_px, setting = draw_size(rng), draw_setting(rng)
        placed = compose(rng, setting, size_px)
        mentions = mention(placed, [annotate(item) for item in placed], size_px)
        words |= {word for caption in write_captions(rng, setting, mentions) for word in caption.split()}
    assert 50 <= len(words) <= 250


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_coco_reads_all_three_files(root: Path, split: str):
    count = {"train2017": 6, "val2017": 3}[split]
    instances, people, captions = (
        COCO(root / "annotations" / f"{name}_{split}.json") for name in ("instances", "person_keypoints", "captions")
    )
    assert sorted(instances.imgs) == sorted(people.imgs) == sorted(captions.imgs) == list(range(1, count + 1))
    assert len(captions.anns) == 5 * count
    for image in instances.imgs.values():
        assert (root / f"{split}" / image["file_name"]).is_file()
    for item in instances.anns.values():
        mask = instances.annToMask(item)
        assert abs(mask.sum() - item["area"]) <= 0.25 * item["area"] + 10
    for person in people.anns.values():
        twin = instances.anns[person["id"]]
        assert {key: person[key] for key in twin} == twin
        assert len(person["keypoints"]) == 51
        assert person["num_keypoints"] == sum(v > 0 for v in person["keypoints"][2::3])
    assert people.cats[1]["keypoints"] == list(KEYPOINTS)


def test_image_depends_on_seed_split_and_index_only(root: Path, tmp_path: Path):
    coco_layout.write_dataset(tmp_path / "fewer", num_train=2, num_val=1, seed=SEED)
    for path in sorted((tmp_path / "fewer").glob("*2017/*.jpg")):
        assert path.read_bytes() == (root / path.parent.name / path.name).read_bytes()


def test_interrupted_write_leaves_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(records: list[dict]) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(coco_layout, "coco_files", interrupt)
    with pytest.raises(KeyboardInterrupt):
        coco_layout.write_dataset(tmp_path / "scenes", num_train=1, num_val=1, seed=0)
    assert not (tmp_path / "scenes").exists()


def test_other_files_are_not_replaced(tmp_path: Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="not synthetic scenes"):
        coco_layout.write_dataset(tmp_path, num_train=1, num_val=1, seed=0)
    assert (tmp_path / "holiday.jpg").exists()


DRAW = """
import sys
from pathlib import Path
from pix2seq.scenes import coco_layout, kept

if __name__ == "__main__":
    root = Path(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()  # both begin at once
    if sys.argv[1] == "files":
        coco_layout.write_dataset(root, 40, 8, seed=3)
    else:
        kept.KeptScenes(root, "train2017", 3).complete(40)
"""


@pytest.mark.parametrize("kind", ["files", "kept"])
def test_of_two_processes_that_draw_the_same_scenes_one_waits(tmp_path: Path, kind: str):
    (tmp_path / "draw.py").write_text(DRAW, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "draw.py"), kind, str(tmp_path / "scenes")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    runs = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("waiting for another process that draws" in text for text in said) == 1
    assert sum("drawing train2017: 100%" in text for text in said) == 1  # it was drawn once
    assert len(list((tmp_path / "scenes" / "train2017").glob("*.jpg"))) == 40
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_leaves_no_unfinished_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(coco_layout.json, "dumps", fail)
    with pytest.raises(UserError, match=r"scenes cannot be written \(No space left on device\); make room"):
        coco_layout.write_dataset(tmp_path / "scenes", num_train=1, num_val=1, seed=0)
    assert os.listdir(tmp_path) == [".scenes.lock"]
