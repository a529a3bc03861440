"""What a Ray worker does with a batch of images. Nothing here knows of Ray."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pix2seq.config import CFG
from pix2seq.dataset.file_names import leads_out
from pix2seq.dataset.images import IMAGE_SUFFIXES, Content
from pix2seq.dataset.shard_format import MOST_IMAGE_BYTES
from pix2seq.errors import UserError
from pix2seq.infer.image_names import WebImage, image_ids, read_named
from pix2seq.infer.load import load_predictor
from pix2seq.infer.pipeline import READERS, Failed, Job, Loaded, Predicted, batched, in_order, memory_for, predict_batch
from pix2seq.runtime.files import require_regular

FILE_NAME, SOURCE = "file_name", "source"  # of a row: what the image is called, and its path, address or bytes
COLUMNS = {"file_name": str, "width": np.int64, "height": np.int64, "results": str, "error": str}


class Worker:
    """Holds a predictor; called with a batch of columns FILE_NAME and SOURCE, it returns those of COLUMNS.

    `results` are COCO's, as JSON. Of an image that cannot be used there are none, the size is 0, and `error` says why.
    With `folders`, paths that lead out of them, and addresses, cannot be: a file, not the user, has named them.
    """

    def __init__(self, cfg: CFG, folders: Sequence[str] = ()) -> None:
        self.cfg, self.predictor, self.folders = cfg, load_predictor(cfg), list(map(Path, folders))

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """A row for each image, in the order of the batch."""
        jobs = [_job(name, source) for name, source in zip(batch[FILE_NAME], batch[SOURCE], strict=True)]
        rows: list[tuple] = []
        with ThreadPoolExecutor(READERS) as readers:
            loaded = in_order(readers, self._load, jobs, READERS)
            for part in batched(loaded, self.predictor.settings.eval_batch_size):
                rows += [self._row(item) for item in predict_batch(self.predictor, self.cfg.tasks, part)]
        return {
            name: np.array([row[number] for row in rows], dtype=object if kind is str else kind)
            for number, (name, kind) in enumerate(COLUMNS.items())
        }

    def _load(self, job: Job) -> Loaded | Failed:
        if isinstance(job.image, WebImage | Path) and self._leads_out(job.image):
            where = "is outside of the folder of the Parquet file that names it"
            return Failed(job, f"{job.file_name} {where}; copy it there, or name it with --image")
        try:
            with memory_for(job.file_name):
                return Loaded(job, read_named(job.image, self.cfg.infer))
        except UserError as error:
            return Failed(job, str(error))

    def _leads_out(self, image: WebImage | Path) -> bool:
        return bool(self.folders) and (isinstance(image, WebImage) or leads_out(image, *self.folders))

    def _row(self, item: Predicted | Failed) -> tuple:
        if isinstance(item, Failed):
            return item.job.file_name, 0, 0, "[]", item.why
        loaded, result = item
        entries = self.predictor.to_coco(loaded.job.image_id, result)
        height, width = loaded.pixels.shape[:2]
        return loaded.job.file_name, width, height, json.dumps(entries), ""


def _job(file_name: Any, source: Any) -> Job:
    """What is to be read: bytes, also as Hugging Face's data sets hold them, or a path or an address."""
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path") or b""
    file_name = str(file_name)
    if isinstance(source, str):
        image = WebImage(source) if "://" in source else Path(source)
    else:
        image = Content(file_name, bytes(source))
    (image_id,) = image_ids([Path(PurePosixPath(file_name).name)])
    return Job(image, file_name, "", image_id)


def read_shards(batch: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list]]:
    """Rows of the images in tar files, in WebDataset's layout or any other; each is called by its shard and name. A tar
    file that cannot be read to its end has one row more, of an image that cannot be used."""
    for shard in batch[SOURCE]:
        try:
            require_regular(Path(shard))
            # Not a compressed one, which may be of any size.
            with _Bounded(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                        fits = member.size <= MOST_IMAGE_BYTES  # a small file can announce any size; empty, it is named
                        yield _row_of(shard, f"/{member.name}", tar.extractfile(member).read() if fits else b"")
        except (tarfile.TarError, OSError, ValueError):
            yield _row_of(shard, " (a tar file that cannot be read to its end)", b"")


def _row_of(shard: str, place: str, content: bytes) -> dict[str, list]:
    name = f"{Path(shard).name}{place}".encode(errors="backslashreplace")  # Parquet has no halves of characters
    return {FILE_NAME: [name.decode()], SOURCE: np.array([content], dtype=object)}


class _Bounded(io.FileIO):
    """A file of which no more is read at once than the largest image: a header in a tar file can announce any size."""

    def read(self, size: int = -1) -> bytes:
        if size > MOST_IMAGE_BYTES:
            raise tarfile.ReadError(f"{size:,} bytes in one piece")
        return super().read(size)
