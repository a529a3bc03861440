"""Download an official Pix2Seq checkpoint and print its weights' path; `--weights NAME` does so by itself when needed.

python weights/download.py --list
python weights/download.py coco-vit-b-640
python weights/download.py multi-vit-b-640 --dtype fp16
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pix2seq.command_line import run_script
from pix2seq.errors import UserError
from pix2seq.weights.official import BASE_URL, CHECKPOINTS, MIRROR, base_url, table


def check(args: argparse.Namespace) -> None:
    """Raise UserError for a mistake in the command line, before anything is downloaded."""
    if args.name not in CHECKPOINTS:
        raise UserError(f"there is no official checkpoint named {args.name!r}; --list shows their names")
    if args.text_model and CHECKPOINTS[args.name].kind != "multi_task":
        raise UserError(f"--text-model is for the multi-task checkpoints; {args.name} predicts no captions")
    if args.text_model and not args.text_model.is_file():
        raise UserError(f"--text-model expects a SentencePiece file, and there is none at {args.text_model}")
    base_url()


def download(args: argparse.Namespace) -> Path:
    """The path of the weights, or with `--no-convert` the checkpoint's folder."""
    if args.base_url:
        os.environ[MIRROR] = args.base_url
    check(args)
    from pix2seq.weights.official_fetch import obtain, obtain_files

    return obtain(args.name, args.dtype, args.text_model) if args.convert else obtain_files(args.name)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="name of the checkpoint, see --list")
    parser.add_argument("--list", action="store_true", help="print the published checkpoints")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="numbers in the weights file")
    parser.add_argument("--text-model", type=Path, help="SentencePiece model of captions; default: the official one")
    parser.add_argument(
        "--no-convert", dest="convert", action="store_false", help="only download the TensorFlow files, all of them"
    )
    parser.add_argument("--base-url", default="", help=f"a mirror of {BASE_URL}, as {MIRROR} names one")
    args = parser.parse_args()
    if not args.list and args.name is None:
        parser.error("name a checkpoint; --list shows their names")
    return args


def main() -> None:
    args = parse_args()
    print(table() if args.list else download(args))


if __name__ == "__main__":
    run_script(main)
