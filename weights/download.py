"""Download the official Pix2Seq checkpoints and convert them; the weights are kept in weights/official/.

python weights/download.py --list
python weights/download.py coco-vit-b-640
python weights/download.py multi-vit-b-640 --dtype fp16
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from pix2seq.command_line import run_script
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT

BASE_URL = "https://storage.googleapis.com/pix2seq/"
CACHE = ROOT / "weights" / "official"
TEXT_MODEL = "multi_task/data/c4_en_32k_spm.model"  # named by the official configs/config_multi_task.py
TIMEOUT_S = 30
PAUSES_S = (1, 2, 4, 8, 16)  # before each retry while a file makes no progress
BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Official:
    """A published checkpoint: its folder below the base address and what was published about it."""

    folder: str
    preset: str  # of config.PRESETS
    image_size: int  # side of the canvas, pixels
    parameters: float  # millions
    figures: str  # on COCO, as published

    @property
    def kind(self) -> str:
        """`obj365_pretrain`, `coco_det_finetune` or `multi_task`."""
        return self.folder.partition("/")[0]


PURPOSES = {
    "obj365_pretrain": "detection of Objects365's classes; a start for fine-tuning",
    "coco_det_finetune": "detection of COCO's classes",
    "multi_task": "detection, segmentation, keypoints, captions",
}

# Google's first table had the names ViT-B and ViT-L of the Objects365 rows swapped; the addresses are right.
# The multi-task rows were published as 115.2 M parameters, which leaves out the 32,000 text tokens of their vocabulary.
CHECKPOINTS = {
    "obj365-resnet50-640": Official("obj365_pretrain/resnet_640x640_b256_s400k", "resnet50", 640, 36.6, ""),
    "obj365-resnet50-c4-640": Official("obj365_pretrain/resnetc_640x640_b256_s400k", "resnet50-c4", 640, 84.7, ""),
    "obj365-vit-b-640": Official("obj365_pretrain/vit_b_640x640_b256_s400k", "vit-b", 640, 115.2, ""),
    "obj365-vit-l-640": Official("obj365_pretrain/vit_l_640x640_b256_s400k", "vit-l", 640, 341.2, ""),
    "coco-resnet50-640": Official("coco_det_finetune/resnet_640x640", "resnet50", 640, 36.6, "box AP 39.1"),
    "coco-resnet50-1024": Official("coco_det_finetune/resnet_1024x1024", "resnet50", 1024, 36.6, "box AP 41.7"),
    "coco-resnet50-1333": Official("coco_det_finetune/resnet_1333x1333", "resnet50", 1333, 36.6, "box AP 42.6"),
    "coco-resnet50-c4-640": Official("coco_det_finetune/resnetc_640x640", "resnet50-c4", 640, 84.7, "box AP 44.7"),
    "coco-resnet50-c4-1024": Official("coco_det_finetune/resnetc_1024x1024", "resnet50-c4", 1024, 84.7, "box AP 46.9"),
    "coco-resnet50-c4-1333": Official("coco_det_finetune/resnetc_1333x1333", "resnet50-c4", 1333, 84.7, "box AP 47.3"),
    "coco-vit-b-640": Official("coco_det_finetune/vit_b_640x640", "vit-b", 640, 115.2, "box AP 44.2"),
    "coco-vit-b-1024": Official("coco_det_finetune/vit_b_1024x1024", "vit-b", 1024, 115.2, "box AP 46.5"),
    "coco-vit-b-1333": Official("coco_det_finetune/vit_b_1333x1333", "vit-b", 1333, 115.2, "box AP 47.1"),
    "coco-vit-l-640": Official("coco_det_finetune/vit_l_640x640", "vit-l", 640, 341.2, "box AP 47.6"),
    "coco-vit-l-1024": Official("coco_det_finetune/vit_l_1024x1024", "vit-l", 1024, 341.2, "box AP 49.2"),
    "coco-vit-l-1333": Official("coco_det_finetune/vit_l_1333x1333", "vit-l", 1333, 341.2, "box AP 50.0"),
    "multi-vit-b-640": Official("multi_task/ckpt/vit_b_640x640", "vit-b", 640, 131.6, "box AP 44.2, BLEU-4 34.3"),
    "multi-vit-b-1024": Official(
        "multi_task/ckpt/vit_b_1024x1024", "vit-b", 1024, 131.6, "box AP 46.5, mask AP 38.2, keypoint AP 64.8"
    ),
}


class Interrupted(Exception):
    """The transfer failed in a way that a retry may fix."""


def table() -> str:
    """The published checkpoints as a Markdown table, in columns of equal width."""
    rows = [("name", "backbone", "parameters, M", "image, px", "on COCO, as published", "what it does")]
    for name, item in CHECKPOINTS.items():
        rows.append((name, item.preset, f"{item.parameters}", f"{item.image_size}", item.figures, PURPOSES[item.kind]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def check(args: argparse.Namespace) -> None:
    """Raise UserError for a mistake in the command line, before anything is downloaded."""
    if args.name not in CHECKPOINTS:
        raise UserError(f"there is no official checkpoint named {args.name!r}; --list shows their names")
    if args.text_model and CHECKPOINTS[args.name].kind != "multi_task":
        raise UserError(f"--text-model is for the multi-task checkpoints; {args.name} predicts no captions")
    if args.text_model and not args.text_model.is_file():
        raise UserError(f"--text-model expects a SentencePiece file, and there is none at {args.text_model}")
    if not re.match("https?://", args.base_url):
        raise UserError(f"--base-url expects an address that starts with https:// or http://, got {args.base_url!r}")


def obtain(args: argparse.Namespace) -> Path:
    """Download and convert; return the path of the weights, or with `--no-convert` the checkpoint's folder."""
    check(args)
    item = CHECKPOINTS[args.name]
    folder = CACHE / args.name
    weights = CACHE / f"{args.name}{'' if args.dtype == 'fp32' else '-' + args.dtype}.safetensors"
    if args.convert and weights.is_file():
        return weights
    base_url = args.base_url.rstrip("/") + "/"
    with disk_errors(CACHE):
        checkpoint = fetch_checkpoint(base_url + item.folder, folder)
        text_model = args.text_model
        if item.kind == "multi_task" and text_model is None:
            text_model = CACHE / TEXT_MODEL.rpartition("/")[2]
            fetch(base_url + TEXT_MODEL, text_model)
    if not args.convert:
        return folder
    convert(item, checkpoint, weights, args.dtype, text_model)
    if not args.keep:
        shutil.rmtree(folder)
    return weights


def fetch_checkpoint(url: str, folder: Path) -> Path:
    """Download the newest checkpoint below `url` into `folder`; return its prefix, `folder/ckpt-N`.

    No list of files is needed: the file `checkpoint` names the newest checkpoint, whose index begins with the number of
    data files. `checkpoint` is written last: if it exists, all files are complete and no request is made.
    """
    state = folder / "checkpoint"
    if state.is_file():
        return folder / _newest(state.read_text(encoding="utf-8"), state)
    text = _read_small(f"{url}/checkpoint")
    name = _newest(text, f"{url}/checkpoint")
    index = folder / f"{name}.index"
    fetch(f"{url}/{index.name}", index)
    shards = _count_shards(index)
    for shard in range(shards):
        data = f"{name}.data-{shard:05d}-of-{shards:05d}"
        fetch(f"{url}/{data}", folder / data)
    partial = folder / "checkpoint.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, state)
    return folder / name


def fetch(url: str, path: Path) -> None:
    """Download `url` to `path` unless it exists; an interrupted transfer resumes where it stopped, in any later call.

    Raises UserError if the server refuses, or if several tries in a row transfer no new bytes.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    most_bytes = failures = 0
    while True:
        try:
            _transfer(url, partial)
            break
        except Interrupted as error:
            got_bytes = partial.stat().st_size if partial.is_file() else 0
            failures = 1 if got_bytes > most_bytes else failures + 1
            most_bytes = max(most_bytes, got_bytes)
            if failures > len(PAUSES_S):
                raise UserError(
                    f"{url} stopped after {got_bytes:,} bytes ({error}); run the command again to resume from there"
                ) from None
            pause_s = PAUSES_S[failures - 1]
            print(f"{path.name}: {error}; next try in {pause_s} s", file=sys.stderr)
            time.sleep(pause_s)
    os.replace(partial, path)
    _version_file(partial).unlink()


def _transfer(url: str, partial: Path) -> None:
    """Download the rest of `partial` with one request, or all of it if the remote file has changed meanwhile."""
    version_file = _version_file(partial)
    start = partial.stat().st_size if partial.is_file() and version_file.is_file() else 0
    with _open(url, start) as response:
        first, total = _extent(response, url)
        version = f"{response.headers.get('ETag', '')} {total}"
        appends = start > 0 and first == start and version == version_file.read_text(encoding="utf-8")
        if start and response.status == 206 and not appends:
            partial.unlink()
            return _transfer(url, partial)
        begun = {"initial": start if appends else 0, "total": total, "desc": partial.stem}
        with open(partial, "ab" if appends else "wb") as file, tqdm(**begun, unit="B", unit_scale=True) as bar:
            version_file.write_text(version, encoding="utf-8")  # after the bytes of another version are truncated
            while block := _read(response):
                file.write(block)
                bar.update(len(block))
    size = partial.stat().st_size
    if size != total:
        raise Interrupted(f"{size:,} of {total:,} bytes arrived")


def _open(url: str, start: int = 0) -> HTTPResponse:
    """The server's response with the bytes from `start` on, or with all bytes if it does not support ranges."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and start:
            return _open(url)
        if error.code in (408, 429) or error.code >= 500:
            raise Interrupted(f"the server responded {error.code} {error.reason}") from None
        raise UserError(
            f"{url} cannot be downloaded: the server responded {error.code} {error.reason}; "
            "name a mirror with --base-url"
        ) from None
    except (OSError, HTTPException) as error:
        raise Interrupted(_reason(error)) from None


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise Interrupted(_reason(error)) from None


def _read_small(url: str) -> str:
    """A small file as text, without retries, so that a missing network is reported at once."""
    try:
        with _open(url) as response:
            return _read(response).decode(errors="replace")
    except Interrupted as error:
        raise UserError(
            f"{url} cannot be reached ({error}); check the network, or name a mirror with --base-url"
        ) from None


def _reason(error: OSError | HTTPException) -> str:
    """The reason of a failed connection in one line."""
    cause = error.reason if isinstance(error, URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _extent(response: HTTPResponse, url: str) -> tuple[int, int]:
    """The position of the response's first byte in the file, and the file's size, in bytes."""
    header = response.headers.get("Content-Range" if response.status == 206 else "Content-Length", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)" if response.status == 206 else r"()(\d+)", header)
    if match is None:
        raise UserError(f"{url} does not report its size, so it cannot be checked; name a mirror with --base-url")
    return int(match[1] or 0), int(match[2])


def _version_file(partial: Path) -> Path:
    """The file beside an unfinished one that records the version of the remote file it is a part of."""
    return partial.with_name(partial.name + ".version")


def _newest(state: str, origin: str | Path) -> str:
    """The name `ckpt-N` from TensorFlow's checkpoint state, a text proto."""
    match = re.search(r'^model_checkpoint_path: "(?:[^"]*/)?([\w.-]*\w)"', state, re.MULTILINE)
    if match is None:
        raise UserError(f"{origin} names no checkpoint; expected 'model_checkpoint_path: \"ckpt-N\"'")
    return match[1]


def _count_shards(index: Path) -> int:
    """The number of data files of a checkpoint, read from its index.

    The index is an uncompressed table sorted by key. Its first entry has the empty key and holds TensorFlow's
    BundleHeaderProto, whose first field is the number: two empty key lengths, the value's length, field tag 8, number.
    """
    head = index.read_bytes()[:5]
    if len(head) < 5 or head[:2] != b"\0\0" or head[3] != 8 or not 0 < head[4] < 128:
        index.unlink()
        raise UserError(f"the downloaded {index.name} is no index of a TensorFlow checkpoint; run the command again")
    return head[4]


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a UserError; network errors are already Interrupted here."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); "
            "fix this and run the command again: it resumes where it stopped"
        ) from None


def convert(item: Official, checkpoint: Path, weights: Path, dtype: str, text_model: Path | None) -> None:
    """Convert a checkpoint; imports the converter, whose libraries take seconds to load."""
    from pix2seq.weights.conversion import convert as convert_official

    classes = "objects365" if item.kind == "obj365_pretrain" else "coco"
    convert_official(
        checkpoint, weights, dtype=dtype, image_size=item.image_size, classes=classes, text_model=text_model
    )


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="name of the checkpoint, see --list")
    parser.add_argument("--list", action="store_true", help="print the published checkpoints")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="numbers in the weights file")
    parser.add_argument("--text-model", type=Path, help="SentencePiece model of captions; default: the official one")
    parser.add_argument("--keep", action="store_true", help="keep the TensorFlow files beside the weights")
    parser.add_argument("--no-convert", dest="convert", action="store_false", help="only download the TensorFlow files")
    parser.add_argument("--base-url", default=BASE_URL, help="a mirror of the official storage (%(default)s)")
    args = parser.parse_args()
    if not args.list and args.name is None:
        parser.error("name a checkpoint; --list shows their names")
    return args


def main() -> None:
    args = parse_args()
    print(table() if args.list else obtain(args))


if __name__ == "__main__":
    run_script(main)
