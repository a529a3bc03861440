"""The command line of every script: flags made from CFG, and errors shown as one line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pix2seq.config import CFG, PRESETS, ModelCFG, from_json, replace
from pix2seq.errors import UserError
from pix2seq.runtime.console import print_anything
from pix2seq.runtime.paths import project_path
from pix2seq.runtime.threads import let_threads_sleep


def command_line(main: Callable[[CFG], None], doc: str | None, **overrides: Any) -> None:
    """Run a script whose flags are CFG's: parse them and call `main(cfg)`."""
    run_script(lambda: main(parse_args(sys.argv[1:], doc, **overrides)))


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main`; turn a UserError into one line and exit status 2."""
    let_threads_sleep()  # before `main` imports torch
    print_anything()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_args(args: list[str], doc: str | None = None, **overrides: Any) -> CFG:
    """Make the CFG of a command line: `--preset`, model settings of `--start-from`, a script's `overrides`, flags."""
    import tyro  # not needed by anyone who imports CFG as a library

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=CFG.preset)
    first.add_argument("--start-from", "--start_from", default="")
    known = first.parse_known_args(args)[0]
    name = known.preset
    if name not in PRESETS:
        raise UserError(f"--preset expects one of {', '.join(PRESETS)}, got {name!r}")
    default = replace(PRESETS[name], **overrides)
    if known.start_from:
        default = dataclasses.replace(default, model=model_settings(project_path(known.start_from)))
    return tyro.cli(CFG, default=default, args=args, description=doc, config=(tyro.conf.OmitArgPrefixes,))


def model_settings(path: Path) -> ModelCFG:
    """The model settings of a weights file, read without its tensors."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"there is no weights file {path}; --start-from expects one that this toolkit wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            return from_json((file.metadata() or {})["cfg"]).model
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise UserError(f"{path} is no weights file of this toolkit; name another with --start-from") from None
