"""The Hugging Face hub: files that are fetched from it by address, and files that are put there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pix2seq.errors import UserError, plain

HUB = "hf://"
HUB_FILE = "model.safetensors"  # where an address names none
ADDRESS = re.compile(
    rf"{HUB}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@\s]+))?(?:/(?P<file>[^/].*))?"
)


class Address(NamedTuple):
    """A file in a repository; `revision` is a branch, a tag or a commit, None the main branch as it is now."""

    repo: str
    revision: str | None
    file: str


def read_address(address: str) -> Address:
    """The parts of `hf://owner/repo[@revision][/file]`; raise UserError for what is none."""
    match = ADDRESS.fullmatch(address)
    if match is None or ".." in (match["file"] or "").split("/"):
        raise UserError(
            f"{address} is no address on the Hugging Face hub; expected {HUB}owner/repo or a file in it, "
            f"with @revision after the repo where it is not the newest"
        )
    return Address(match["repo"], match["revision"], match["file"] or HUB_FILE)


@lru_cache  # within a run it stays the same file
def fetch(address: str) -> Path:
    """The file in the hub's cache; asked for anew where there is a network, as the hub's library does."""
    repo, revision, file = read_address(address)
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError:
        reason = "it is not in the hub's cache, and the hub cannot be reached; connect, or download it elsewhere"
    except EntryNotFoundError:
        reason = f"{repo} has no file {file}; name one as in {HUB}{repo}/{HUB_FILE}"
    except RevisionNotFoundError:
        reason = f"{repo} has no branch, tag or commit {revision}; without @{revision} it is the newest"
    except RepositoryNotFoundError:
        reason = f"there is no repository {repo} that you may read; check its name, or log in with `hf auth login`"
    except Exception as error:  # of whatever library the hub's version makes its requests with
        reason = _first_line(error)
    raise UserError(f"{address} cannot be had: {reason}")


def upload(files: Mapping[str, bytes | Path], repo: str, private: bool = False, overwrite: bool = False) -> str:
    """Put files, by their names there, into a repository in one commit, and return the commit's address.

    The repository is made if there is none, for everybody or, with `private`, for its owner. Raises UserError where
    the hub cannot be reached or does not let the user write, where files of these names are there and `overwrite` is
    off, and where a repository that is to be private is not.
    """
    require_login()
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with _explained(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        there = api.model_info(repo)
        names = {file.rfilename for file in there.siblings or ()}
        if private and there.private is False:
            raise UserError(f"{HUB}{repo} can be read by everybody; make it private in its settings, or use another")
        if (taken := sorted(names & files.keys())) and not overwrite:
            raise UserError(f"{HUB}{repo} has {', '.join(taken)} already; --overwrite replaces, its history keeps them")
        contents = [CommitOperationAdd(name, content) for name, content in files.items()]
        return plain(str(api.create_commit(repo, contents, commit_message="Add weights").commit_url))


def require_login() -> None:
    """Raise UserError where the hub's library knows no token of the user."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("the hub wants to know who writes; run `hf auth login`, or set HF_TOKEN to a token for it")


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what goes wrong while a repository is written into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of whatever library the hub's version makes its requests with
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            reason = "it does not know your token; log in again with `hf auth login`, or set HF_TOKEN"
        elif status in (403, 404):
            reason = "your token may not write there; check the owner's name and what the token is for"
        elif status is not None or isinstance(error, (ValueError, RuntimeError)):
            reason = _first_line(error)
        else:
            reason = f"it cannot be reached ({_first_line(error)}); connect, or push into a folder for now"
        raise UserError(f"the hub did not take {HUB}{repo}: {reason}") from None


def _first_line(error: Exception) -> str:
    return plain((str(error).strip() or type(error).__name__).splitlines()[0])
