"""Inference by a Ray cluster: workers that each hold a predictor share the images, and write Parquet files.

A worker that dies is started again, and what it had not finished is done anew: each image has one row.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Collection, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.config import CFG, replace
from pix2seq.errors import PartlyFailed, UserError, plain
from pix2seq.infer.image_names import file_names, find_images
from pix2seq.infer.output import named_failures
from pix2seq.metadata import read_metadata
from pix2seq.runtime.console import tell
from pix2seq.runtime.extras import require_extra
from pix2seq.runtime.files import require_regular
from pix2seq.runtime.text import is_unicode
from pix2seq.weights.find import find_weights

if TYPE_CHECKING:
    from ray.data import Dataset

NAMES = ("file_name", "path", "__key__", "name", "id")  # columns of Parquet files that name an image; the first counts
IMAGES = ("source", "bytes", "image", "jpg", "png")  # and those that hold it: bytes, a path, or both in a struct


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the images of `--image`; write Parquet files into `--output-dir`."""
    require_extra("ray", "ray", needed_by="infer_ray.py")
    weights, target = find_weights(cfg.infer.weights), Path(cfg.infer.output_dir).absolute()
    trained = read_metadata(weights).cfg.tasks
    if missing := [task for task in cfg.tasks if task not in trained]:
        raise UserError(f"the weights were trained for {', '.join(trained)}, not for {missing[0]}")
    if Path(cfg.infer.weights).is_file():
        cfg = replace(cfg, weights=str(weights.absolute()))  # workers have folders of their own
    done = written(target)
    if done and not cfg.infer.skip_existing:
        raise UserError(
            f"{target} holds results of {len(done)} images; --skip-existing goes on, or name another folder"
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # reports nothing to Ray's makers
    import ray

    options = {"address": cfg.infer.ray_address} if cfg.infer.ray_address else {"include_dashboard": False}
    ray.init(logging_level="ERROR", log_to_driver=False, **options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    try:
        described(cfg, rows(cfg, done)).write_parquet(str(target))
    except ray.exceptions.RayError as error:
        reason = plain(str(error).strip().splitlines()[-1])
        raise UserError(f"Ray has given up ({reason}); --skip-existing goes on from what is written") from None
    finally:
        ray.shutdown()
    report(target, done)


def rows(cfg: CFG, done: Collection[str]) -> Dataset:
    """A row with `file_name` and `source` for each image that is not `done`."""
    import ray

    from pix2seq.infer.ray_worker import read_shards

    names = cfg.infer.image
    if parquet := matching(names, ".parquet"):
        data = with_our_names(ray.data.read_parquet(parquet))
    elif shards := matching(names, ".tar"):
        data = ray.data.from_items([{"source": shard} for shard in shards], override_num_blocks=len(shards))
        data = data.map_batches(read_shards, batch_size=1)
    else:
        images = find_images(names)
        sources = [str(image.absolute() if isinstance(image, Path) else image) for image in images]
        if odd := next((source for source in sources if not is_unicode(source)), None):
            raise UserError(f"{odd} has a name that is no UTF-8, for which Ray's tables have no place; rename it")
        pairs = zip(file_names(images), sources, strict=True)
        items = [{"file_name": name, "source": source} for name, source in pairs if name not in done]
        blocks = max(math.ceil(len(items) / cfg.infer.eval_batch_size), min(workers(cfg), len(items)), 1)
        return ray.data.from_items(items, override_num_blocks=blocks)
    return data.filter(lambda row: str(row["file_name"]) not in done) if done else data


def matching(names: Sequence[str], suffix: str) -> list[str]:
    """The files with this suffix among names, in folders, and of patterns."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else map(Path, sorted(glob(name)))
        found += [str(file.absolute()) for file in files if file.suffix == suffix]
    return found


def with_our_names(data: Dataset) -> Dataset:
    """Parquet files with the columns `file_name` and `source`, whatever they are called there."""
    columns = data.schema().names
    name, image = (next((known for known in all_ if known in columns), None) for all_ in (NAMES, IMAGES))
    if name is None or image is None:
        lacking = f"name images ({', '.join(NAMES)})" if name is None else f"hold them ({', '.join(IMAGES)})"
        raise UserError(f"the Parquet files have none of the columns that {lacking}, but {', '.join(columns)}")
    return data.select_columns([name, image]).rename_columns({name: "file_name", image: "source"})


def described(cfg: CFG, data: Dataset) -> Dataset:
    """The rows of results, of `ray_worker.COLUMNS`. One processor is left for reading and writing.

    Ray Data starts a worker that has died again, and repeats what it was doing, as often as it takes.
    """
    import ray

    from pix2seq.infer.ray_worker import Worker

    folders = {str(Path(file).parent) for file in matching(cfg.infer.image, ".parquet")}
    count, resources = workers(cfg), ray.cluster_resources()
    share = (resources.get("CPU", 1) - 1) / count
    return data.map_batches(
        Worker,
        fn_constructor_args=[cfg, sorted(folders)],
        batch_size=cfg.infer.eval_batch_size,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=int(share) if share >= 1 else round(share, 2),
        num_gpus=min(resources.get("GPU", 0) / count, 1),
    )


def workers(cfg: CFG) -> int:
    """`--ray-workers`, or one for each GPU, or where there are none for two processors."""
    import ray

    resources = ray.cluster_resources()
    return cfg.infer.ray_workers or int(resources.get("GPU", 0)) or max(int(resources.get("CPU", 1)) // 2, 1)


def written(folder: Path) -> dict[str, str]:
    """What is wrong with each image that the Parquet files in a folder have a row about, by its name: mostly nothing.
    A file that was not written to its end is renamed; raise UserError for one of anything but results: with Ray comes a
    type of values that are code when they are read."""
    import pyarrow
    from pyarrow import ArrowInvalid, parquet

    about: dict[str, str] = {}
    columns = ["file_name", "error"]
    for file in sorted(folder.glob("*.parquet")):
        try:
            require_regular(file)
            kinds = {field.name: field.type for field in parquet.read_schema(file)}
        except ArrowInvalid:
            torn = file.replace(file.with_name(f"{file.name}.torn"))
            tell(f"{file} was not written to its end; it is {torn.name} now")
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({plain(str(error))}); move it to another place") from None
        if any(kinds.get(name) not in (pyarrow.string(), pyarrow.large_string()) for name in columns):
            raise UserError(f"{file} holds no results of images; move it to another place")
        texts: dict[str, list[Any]] = parquet.read_table(file, columns=columns).to_pydict()
        about |= dict(zip(*texts.values(), strict=True))
    return about


def report(folder: Path, before: Collection[str]) -> None:
    """Say what was written; raise PartlyFailed if images could not be used."""
    about = {name: why for name, why in written(folder).items() if name not in before}
    if before:
        tell(f"{len(before)} images were left out, whose results are there (--skip-existing)")
    print(f"wrote the results of {len(about)} images into {folder}")
    if failures := [why for why in about.values() if why]:
        raise PartlyFailed(named_failures(failures, len(about)))
