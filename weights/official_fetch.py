"""Official weights by name: fetched and converted once for all processes, and kept in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pix2seq.errors import UserError
from pix2seq.runtime.alone import alone
from pix2seq.runtime.paths import cache_folder
from pix2seq.runtime.transfer import Refused, Unreachable, fetch
from pix2seq.weights.conversion import convert_checkpoint
from pix2seq.weights.fetch_checkpoint import CONFIG, fetch_files, fetch_model
from pix2seq.weights.official import CHECKPOINTS, MIRROR, TEXT_MODEL, Official, base_url
from pix2seq.weights.official_config import OfficialConfig, config_of
from pix2seq.weights.tensor_bundle import Damaged
from pix2seq.weights.tf_checkpoint import STATE, open_checkpoint


def official_folder() -> Path:
    """Where weights are kept: `NAME.safetensors`, and whole checkpoints of TensorFlow in `NAME/`."""
    return cache_folder("official", in_checkout="weights/official")


def obtain(name: str, dtype: str = "fp32", text_model: Path | None = None) -> Path:
    """The weights file of an official checkpoint, fetched and converted unless it is in the cache.

    A checkpoint that lies in the cache as TensorFlow's files is converted without a network. `text_model` is another
    SentencePiece file than the official one.
    """
    folder, item = official_folder(), CHECKPOINTS[name]
    out = folder / f"{name}{'' if dtype == 'fp32' else '-' + dtype}.safetensors"
    if out.is_file():
        return out
    with _disk_errors(folder), _with_way_out(), _alone(folder):
        if not out.is_file():
            _fetch_and_convert(name, item, out, dtype, text_model)
    return out


def obtain_files(name: str) -> Path:
    """The folder with all files of an official checkpoint as they were published, for other programs."""
    folder, item = official_folder() / name, CHECKPOINTS[name]
    with _disk_errors(folder), _with_way_out(), _alone(folder.parent):
        fetch_files(base_url() + item.folder, folder)
    return folder


def _fetch_and_convert(name: str, item: Official, out: Path, dtype: str, text_model: Path | None) -> None:
    whole, parts = out.parent / name, out.parent / f"{name}.parts"
    try:
        if any(whole.glob("*.data-?????-of-?????")):  # all of it, put there by hand or by `obtain_files`
            folder, checkpoint = whole, open_checkpoint(whole)
        else:
            folder, checkpoint = parts, fetch_model(base_url() + item.folder, parts)
        if item.kind == "multi_task" and text_model is None:
            text_model = _fetch_text_model(out.parent)
        config = config_of(folder) if folder == whole else _fetched_config(folder)
        if config.canvas is None:
            config = replace(config, canvas=(item.image_size, item.image_size))
        classes = "objects365" if item.kind == "obj365_pretrain" else "coco"
        convert_checkpoint(checkpoint, out, config, dtype, classes=classes, text_model=text_model)
    except Unreachable as error:
        raise UserError(f"{name}: {error}; {_by_hand(item, whole)}") from None
    except Damaged:
        shutil.rmtree(parts, ignore_errors=True)  # so that the next call fetches it again
        raise
    shutil.rmtree(parts, ignore_errors=True)


def _fetched_config(folder: Path) -> OfficialConfig:
    """The settings beside a fetched checkpoint; a `config.json` that cannot be used is not kept there."""
    try:
        return config_of(folder, advice=f"name a mirror with {MIRROR}")
    except UserError:
        (folder / CONFIG).unlink()
        raise


def _fetch_text_model(folder: Path) -> Path:
    """The official SentencePiece model in `folder`; what the server sends instead of one is not kept there."""
    path = folder / Path(TEXT_MODEL).name
    if not path.is_file():
        from pix2seq.tokenizers.captioning import SentencePieceVocabulary

        fetch(base_url() + TEXT_MODEL, path, patient=False)
        try:
            SentencePieceVocabulary.read(path)
        except UserError:
            path.unlink()
            raise
    return path


def _by_hand(item: Official, folder: Path) -> str:
    """What to do without a network."""
    text = f", and {TEXT_MODEL} into {folder.parent}" if item.kind == "multi_task" else ""
    return (
        f"connect, name a mirror with {MIRROR}, or put {STATE}, ckpt-N.index, ckpt-N.data-00000-of-00001 and, if there "
        f"is one, {CONFIG} of {base_url()}{item.folder} into {folder}{text}"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, in a folder that may have to be made."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock", "fetches official weights"):
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a UserError; those of the network are none here."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); "
            "fix this and run the command again: it resumes where it stopped"
        ) from None


@contextmanager
def _with_way_out() -> Iterator[None]:
    """Say where else the files may be had, when a server refuses them."""
    try:
        yield
    except Refused as error:
        raise type(error)(f"{error}; name a mirror with {MIRROR}") from None
