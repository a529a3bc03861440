"""Weights by what a user calls them: a path, a shipped name, an official name, or a file on the Hugging Face hub."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT, weights_path
from pix2seq.weights.official import CHECKPOINTS, table

HUB = "hf://"
HUB_FILE = "model.safetensors"  # where an address names none


def find_weights(name: str) -> Path:
    """The file that `--weights` or `--start-from` names, fetched (and converted) first if it is not here yet.

    `name` is a path, the name of shipped weights or of an official checkpoint, or `hf://owner/repo[/file]`. Names win
    over files of the same name; `./scenes` is always a path. Raises UserError if there is no such name, or if what is
    to be fetched cannot be.
    """
    if name.startswith(HUB):
        return _from_hub(name)
    if name in CHECKPOINTS:
        from pix2seq.weights.official_fetch import obtain

        return obtain(name)
    path = weights_path(name)
    if not path.is_file() and (near := get_close_matches(name, [*shipped(), *CHECKPOINTS], 1)):
        raise UserError(f"there is no weights file {name}; did you mean {near[0]}? --list-weights shows all names")
    return path


def shipped() -> list[str]:
    """The names of the weights that come with the project."""
    return sorted(path.stem for path in (ROOT / "weights").glob("*.safetensors"))


def describe_names() -> str:
    """What `--list-weights` prints."""
    return (
        f"shipped: {', '.join(shipped())}\n"
        f"a file on the Hugging Face hub: {HUB}owner/repo, or {HUB}owner/repo/{HUB_FILE}\n"
        f"official checkpoints, fetched when they are first used:\n{table()}"
    )


@lru_cache  # within a run it stays the same file
def _from_hub(address: str) -> Path:
    """The file in the hub's cache; asked for anew where there is a network, as the hub's library does."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:/([^/].*))?", address)
    if match is None:
        raise UserError(f"{address} is no address on the Hugging Face hub; expected {HUB}owner/repo or a file in it")
    repo, file = match[1], match[2] or HUB_FILE
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repo, file))
    except LocalEntryNotFoundError:
        reason = "it is not in the hub's cache, and the hub cannot be reached; connect, or download it elsewhere"
    except EntryNotFoundError:
        reason = f"{repo} has no file {file}; name one as in {HUB}{repo}/{HUB_FILE}"
    except RepositoryNotFoundError:
        reason = f"there is no repository {repo} that you may read; check its name, or log in with `hf auth login`"
    except Exception as error:  # of whatever library the hub's version makes its requests with
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{address} cannot be had: {reason}")
