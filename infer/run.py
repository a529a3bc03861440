"""What every inference script does: find images, ask the model, print and write the answers.

Nothing slow is imported before the flags are read and the images are known to be there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime.files import output_folder, writing

if TYPE_CHECKING:
    from pix2seq.infer.predictor import Predictor
    from pix2seq.infer.results import Instances, Result

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
INSTANCE_TASKS = {"segmentation", "keypoint"}


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`; all files are written at the end, or none."""
    images, box, tasks = find_images(cfg.infer.image), parse_box(cfg), cfg.tasks
    target = Path(cfg.infer.output_dir)
    with output_folder(target) as staging:
        from pix2seq.dataset.images import read_image
        from pix2seq.infer.predictor import load_predictor

        predictor = load_predictor(cfg)
        predictor.require(tasks if box or set(tasks) == {"captioning"} else dict.fromkeys(("detection", *tasks)))
        names = unique_names(images)
        for path, name in zip(images, names, strict=True):
            image = read_image(path)
            instances = prompted_instance(predictor, cfg, box, image) if box else None
            result = predictor.describe(image, tasks, instances)
            folder = staging / name if len(images) > 1 else staging
            with writing(target):
                write_result(folder, path, image, result, tasks, predictor)
            print(f"{path}\n{summary(result, predictor.class_names)}")


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files among `names`, and those in the folders among them; raise UserError if there are none."""
    if not names:
        raise UserError("--image expects an image or a folder of images, got none")
    images: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"there is no image {path}; check the path")
    return images


def parse_box(cfg: CFG) -> tuple[float, ...]:
    """--box as x, y, w, h in pixels; empty if not given."""
    text = cfg.infer.box
    if not text:
        return ()
    try:
        box = tuple(float(number) for number in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise UserError(f"--box expects four numbers x,y,w,h in pixels, got {text!r}")
    if min(box[2:]) <= 0:
        raise UserError(f"--box expects a width and a height above zero, got {text!r}")
    if not INSTANCE_TASKS & set(cfg.tasks):
        raise UserError("--box points at an instance to segment or to find keypoints in; leave it out for this task")
    return box


def prompted_instance(predictor: Predictor, cfg: CFG, box: tuple[float, ...], image: np.ndarray) -> Instances:
    """The one instance that --box and --box-class point at, as if it had been detected for certain."""
    from pix2seq.infer.predictor import clip_boxes
    from pix2seq.infer.results import Instances

    ids = [class_id for class_id, name in predictor.class_names.items() if name == cfg.infer.box_class]
    if not ids:
        known = ", ".join(predictor.class_names.values())
        raise UserError(f"--box-class expects one of {known}; got {cfg.infer.box_class!r}")
    posed = [predictor.class_names[class_id] for class_id in predictor.skeleton.class_ids]
    if cfg.tasks == ("keypoint",) and cfg.infer.box_class not in posed:
        raise UserError(f"only a {' or '.join(posed)} has keypoints; --box-class is {cfg.infer.box_class!r}")
    x, y, width, height = box
    clipped = clip_boxes(np.array([[x, y, x + width, y + height]]), image)
    if (clipped[0, 2:] <= clipped[0, :2]).any():
        raise UserError(f"--box {cfg.infer.box} lies outside the image of {image.shape[1]} × {image.shape[0]} pixels")
    return Instances(clipped, np.array(ids[:1]), np.ones(1))


def unique_names(images: Sequence[Path]) -> list[str]:
    """A folder name for each image: its stem, with a number where another image has the same."""
    names: list[str] = []
    for path in images:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}_{number}"
        names.append(name)
    return names


def write_result(
    folder: Path, path: Path, image: np.ndarray, result: Result, tasks: Sequence[str], predictor: Predictor
) -> None:
    """Write `result.json` and the PNG of each of `tasks` into `folder`."""
    from pix2seq.infer.draw import draw_detections, draw_keypoints, draw_masks, save_png
    from pix2seq.infer.results import coco_results

    painters = {
        "detection": ("object_detection.png", draw_detections),
        "segmentation": ("instance_segmentation.png", draw_masks),
        "keypoint": ("keypoint_detection.png", partial(draw_keypoints, skeleton=predictor.skeleton)),
    }
    folder.mkdir(exist_ok=True)
    image_id = int(path.stem) if path.stem.isdecimal() else path.stem  # COCO's files are named after their ids
    (folder / "result.json").write_text(
        json.dumps(coco_results(image_id, result, predictor.category_ids), indent=1), encoding="utf-8"
    )
    for task in tasks:
        if task in painters:
            name, draw = painters[task]
            save_png(folder / name, draw(image, result, predictor.class_names))


def summary(result: Result, class_names: dict[int, str]) -> str:
    """A table of the instances, and the caption."""
    lines = []
    instances = result.instances
    if len(instances):
        names = [class_names.get(class_id, str(class_id)) for class_id in instances.classes.tolist()]
        width = max(len("class"), *map(len, names))
        lines.append(f"  {'class':<{width}}  score" + "".join(f"{title:>8}" for title in "xywh"))
        for name, score, (x1, y1, x2, y2) in zip(names, instances.scores, instances.boxes, strict=True):
            numbers = "".join(f"{value:8.1f}" for value in (x1, y1, x2 - x1, y2 - y1))
            lines.append(f"  {name:<{width}}  {score:5.2f}{numbers}")
    elif result.caption is None:
        lines.append("  nothing found; a lower --score-threshold shows what is less sure")
    if result.caption is not None:
        lines.append(f"  caption: {result.caption}")
    return "\n".join(lines)
