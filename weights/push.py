"""Write weights in the Hugging Face hub's form, model card included, into a folder or to the hub.

python weights/push.py --weights runs/multi_task/best.safetensors --to my_model
python weights/push.py --weights runs/multi_task/best.safetensors --to hf://owner/repo --private
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.command_line import run_script
from pix2seq.config import flag, to_json
from pix2seq.errors import UserError
from pix2seq.runtime.files import output_folder, writing
from pix2seq.weights.find import find_weights
from pix2seq.weights.hub import HUB, HUB_FILE, require_login, upload

if TYPE_CHECKING:
    from pix2seq.config import CFG
    from pix2seq.models.weights import Weights

REPO = re.compile(rf"{HUB}([\w.-]+/[\w.-]+)")


def push(args: argparse.Namespace) -> None:
    """Do what the command line says; raise UserError, before anything is written, where that cannot be done."""
    repo = _repo(args.to)
    if repo:
        require_login()
    elif args.private:
        raise UserError(f"--private is for repositories on the hub, and --to {args.to} is a folder; leave it out")
    elif (taken := _taken(Path(args.to))) and not args.overwrite:
        raise UserError(f"--to {args.to} has {', '.join(taken)} already; choose another folder, or --overwrite")
    path = find_weights(args.weights)
    files = _contents(path, args.to if repo else HUB_FILE, args.datasets)
    if repo:
        print(f"{args.to}: {upload(files, repo, args.private, args.overwrite)}")
    else:
        _write(files, Path(args.to))
        print(f"{args.to}: {', '.join(files)}")


def _repo(to: str) -> str | None:
    """The repository that `--to` names, None for a folder."""
    match = REPO.fullmatch(to)
    if to.startswith(HUB) and match is None:
        raise UserError(f"--to expects a folder or {HUB}owner/repo, got {to}")
    return match and match[1]


def _taken(folder: Path) -> list[str]:
    """What is in the folder under the names that would be written."""
    return [name for name in (HUB_FILE, "README.md", "config.json") if os.path.lexists(folder / name)]


def _contents(path: Path, address: str, datasets: list[str]) -> dict[str, bytes | Path]:
    """The files by name. Weights that could not be loaded again are refused."""
    from pix2seq.metadata import read_metadata  # not needed by --help
    from pix2seq.models.weights import load_weights
    from pix2seq.tasks import choose_tasks
    from pix2seq.weights.card import config, model_card

    weights = load_weights(path)
    _report(weights)
    tasks = choose_tasks(weights.cfg.tasks)
    title = address.rpartition("/")[2] if address.startswith(HUB) else path.stem
    dtype = ", ".join(sorted(set(read_metadata(path).kinds.values())))
    card = model_card(weights, tasks, title, address, dtype, datasets)
    return {HUB_FILE: path, "README.md": card.encode(), "config.json": config(weights, tasks).encode()}


def _report(weights: Weights) -> None:
    """Say what the file leaves open, and what it tells strangers."""
    if not weights.licence:
        print("note: the weights name no licence, and so the card names none; train with --licence, or edit the card")
    if private := _private(weights.cfg):
        print(f"note: readers of the file see what {', '.join(private)} of its training were: places on a machine")


def _private(cfg: CFG) -> list[str]:
    """The settings that name absolute paths."""
    groups = (group for group in json.loads(to_json(cfg)).values() if isinstance(group, dict))
    settings = {name: value for group in groups for name, value in group.items() if isinstance(value, str)}
    return [
        flag(name)
        for name, value in settings.items()
        if any(part.startswith(("/", "~")) or part[1:3] == ":\\" for part in value.split(","))
    ]


def _write(files: Mapping[str, bytes | Path], folder: Path) -> None:
    """All files or none."""
    with output_folder(folder, "--to") as staging, writing(folder, "--to"):
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, staging / name)
            else:
                (staging / name).write_bytes(content)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a weights file, or any name that --weights takes elsewhere")
    parser.add_argument("--to", required=True, help=f"a folder, or {HUB}owner/repo (log in with `hf auth login`)")
    parser.add_argument(
        "--datasets",
        type=lambda text: text.split(","),
        default=[],
        help="what it learned from, names on the hub with commas",
    )
    parser.add_argument("--private", action="store_true", help="a new repository is for its owner alone")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(lambda: push(parse_args()))
