"""Files of settings: recipes, a run's `cfg.json`, and one's own, in YAML or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pix2seq.config import FIELDS, PRESETS, RENAMED, as_tuple, flat, parse_tasks, what_is_wrong
from pix2seq.errors import UserError, plain, shown
from pix2seq.runtime.paths import ROOT, recipe_path
from pix2seq.runtime.text import decode_text
from pix2seq.runtime.yaml_text import parse_yaml
from pix2seq.schema import Settings, convert, read_bytes

MOST_BYTES = 64 * 2**10  # of a file of settings


def read_settings(name_or_path: str) -> dict[str, Any]:
    """The settings by name in a file, or in the recipe of that name.

    They stand there by their names (`image_size: 640`), also below the names of their groups as in `cfg.json`. Raises
    UserError with the file and the key for what is no setting or has a value that it cannot have.
    """
    path = recipe_path(name_or_path)
    settings: dict[str, Any] = {}
    for key, value in flat(_read(path, name_or_path)):
        name, value = RENAMED.get(key, key), as_tuple(value)
        if name not in FIELDS:
            near = get_close_matches(str(key).replace("-", "_"), FIELDS, 1)
            raise UserError(
                f"{path}: there is no setting {plain(str(key))}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if name in settings:
            raise UserError(f"{path}: {key} is there twice; leave one of them out")
        if expected := _what_is_wrong(name, value):
            raise UserError(f"{path}: {key} expects {expected}, got {shown(value)}")
        settings[name] = value
    return settings


def recipes() -> list[str]:
    """The names of the recipes."""
    return sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def _what_is_wrong(name: str, value: Any) -> str:
    """As `config.what_is_wrong`, of presets and tasks as well."""
    if expected := what_is_wrong(name, value):
        return expected
    if name == "preset" and value not in PRESETS:
        return f"one of {', '.join(PRESETS)}"
    if name == "task":
        from pix2seq.tasks import choose_tasks  # --help does not need it

        try:
            choose_tasks(parse_tasks(value))
        except UserError as error:
            return str(error).partition(" expects ")[2].partition(", got ")[0] or "each task once"
    return ""


def _read(path: Path, name: str) -> Settings:
    """The mapping in a file."""
    try:
        text = decode_text(read_bytes(path, MOST_BYTES), path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {name}: --config expects a file, or one of the recipes {', '.join(recipes())}"
        ) from None
    except (OSError, ValueError) as error:  # the latter for a name that no file has
        raise UserError(f"{path} cannot be read ({error}); --config expects a text file") from None
    try:
        content = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else parse_yaml(text, _once)
    except RecursionError:
        raise UserError(f"{path} is nested too deep; settings stand at most below their group's name") from None
    except ValueError as error:
        raise UserError(f"{path}: {plain(str(error))}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} expects settings such as image_size: 640, one a line")
    return convert(content, Settings, str(path), "settings stand at most below their group's name")


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs; raise ValueError if a key is there twice, of which one value would be lost."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"the key {shown(key)} is no setting")
        if key in found:
            raise ValueError(f"{plain(key)} is there twice; leave one of them out")
        found[key] = value
    return found
