"""The command line of every script: flags made from CFG's fields, `--config` files, and errors shown as one line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pix2seq.config import (
    CALIBRATION,
    CFG,
    DECODING,
    FIELDS,
    GROUP_OF,
    PRESETS,
    RENAMED,
    TEXTS,
    check_training,
    flag,
    from_json,
    notices,
    replace,
    value_of,
    what_is_wrong,
    with_decoding,
)
from pix2seq.config_file import read_settings
from pix2seq.errors import UserError, listed, plain
from pix2seq.runtime.console import print_anything, tell
from pix2seq.runtime.memory import lacks_memory
from pix2seq.runtime.threads import let_threads_sleep
from pix2seq.schema import read_bytes
from pix2seq.weights.find import describe_names, find_weights

TITLES = {"": "run", "model": "model", "data": "data", "train": "training", "infer": "inference and evaluation"}
NAMES_SHOWN = 5
MOST_OF_ERROR = 4000  # characters: lists of classes are long
HELP_COLUMN = 31
WIDTH_OFF_TERMINAL = (120, 40)  # of help that goes into a file or another program


@dataclass(frozen=True)
class Uses:
    """The settings that a script uses, by name: `essential` ones, which --help lists, and `others`, of --help-all.

    Those of tasks that the script does not do are no flags of it. A script that `detects` finds the instances for other
    tasks by itself; of one that `trains`, the settings must fit together.
    """

    essential: tuple[str, ...]
    others: tuple[str, ...] = ()
    trains: bool = False
    detects: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the essential ones first."""
        return tuple(dict.fromkeys(self.essential + self.others))

    def without(self, *names: str) -> Uses:
        """The same but for some settings."""
        essential, others = (
            tuple(name for name in part if name not in names) for part in (self.essential, self.others)
        )
        return dataclasses.replace(self, essential=essential, others=others)

    def for_tasks(self, tasks: Iterable[str]) -> Uses:
        """The same but for settings that only other tasks use."""
        done = set(tasks)
        if self.detects and done != {"captioning"}:
            done.add("detection")
        return self.without(*(name for name in self.names if not _serves(name, done)))


def names_of(*groups: str) -> tuple[str, ...]:
    """The settings of some groups (`model`, `data`, `train`, `infer`)."""
    return tuple(name for name in FIELDS if GROUP_OF[name] in groups)


# Which data, of whatever split.
SOURCE = (
    *("data_root", "train_split", "val_split", "train_json", "val_json", "train_images", "val_images", "classes"),
    *("val_share", "outside_images", "shard_cache_gb", "scenes_train", "scenes_val", "scenes_seed"),
)
# What of a model's settings has to do with images and sequences: all but the network.
SEQUENCES = (
    *("image_size", "pad_value", "pixels", "crop_padding", "segment_whole", "crop_inside", "full_detection"),
    *("max_tokens", "max_objects", "max_points", "max_words", "separators", "vocab_size"),
)
TRAINING = Uses(
    essential=(
        *("preset", "task", "seed", "device"),
        *("data_root", "data_weights", "train_split", "val_split", "train_json", "val_json"),
        *("run_dir", "resume", "start_from", "epochs", "steps_per_epoch", "batch_size", "lr", "eval_every"),
        *("image_size", "backbone"),
    ),
    others=(
        "task_weights",
        *("precision", "compile"),
        *names_of("model", "data", "train"),
        *DECODING,
        "eval_batch_size",
        "max_images",
    ),
    trains=True,
).without("shard_size")
INFERENCE = Uses(
    essential=(
        *("image", "weights", "output_dir", "box", "box_class", "score_threshold", "end_threshold", "num_samples"),
        *("num_captions", "task", "seed", "device"),
    ),
    others=(
        *("precision", "compile"),
        *(name for name in DECODING if name != "points_score_weight"),
        "eval_batch_size",
        *("max_megapixels", "max_megabytes"),
        "skip_existing",
        "pictures",
    ),
    detects=True,
)
VIDEO = dataclasses.replace(
    INFERENCE.without(*("image", "box", "box_class", "skip_existing", "max_megabytes", "num_captions", "pictures")),
    essential=(
        *("video", "weights", "output_dir", "stride", "max_frames", "eval_batch_size", "score_threshold"),
        *("end_threshold", "num_samples", "task", "seed", "device"),
    ),
)
RAY_INFERENCE = dataclasses.replace(
    INFERENCE,
    essential=("image", "weights", "output_dir", "task", "ray_address", "ray_workers", *INFERENCE.essential[3:]),
).without("box", "box_class", "pictures")
APP = Uses(
    essential=(
        *("weights", "host", "port", "queue_size", "max_sessions", "max_megabytes", "max_megapixels"),
        *("score_threshold", "top_p", "task", "seed", "device"),
    ),
    others=("precision", "compile", "temperature", "coord_window", "mask_threshold", "eval_batch_size"),
    detects=True,
)
EVALUATION = Uses(
    essential=(
        *("weights", "output_dir", "watch", "max_images", "eval_batch_size", "score_threshold", "end_threshold"),
        *("num_samples", "data_root", "val_split", "val_json", "val_images", "workers", "task", "seed", "device"),
    ),
    others=("precision", "compile", *DECODING, "prompt_threshold", "watch_minutes", *SOURCE, "eval_images"),
    detects=True,
)
EVERYTHING = Uses(essential=tuple(FIELDS))


def command_line(main: Callable[[CFG], None], doc: str | None, uses: Uses, only: str = "", **defaults: Any) -> None:
    """Run a script: make its CFG from the flags and call `main(cfg)`; see `parse_args`."""
    run_script(lambda: main(parse_args(sys.argv[1:], doc, uses, only, **defaults)))


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main`; turn a UserError into one line and its exit status, 2 or 3, and so what the system says
    about a file that nobody expected (a name that is too long, a disk that was taken away), and a lack of memory."""
    let_threads_sleep()  # before `main` imports torch
    print_anything()
    try:
        main()
    except UserError as error:
        if not error.everywhere or os.environ.get("RANK", "0") == "0":
            print(f"error: {plain(str(error), MOST_OF_ERROR)}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {plain(str(error.filename))} cannot be used ({error.strerror}); check the path", file=sys.stderr)
        sys.exit(UserError.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not lacks_memory(error):
            raise
        reason = plain(str(error).partition("\n")[0]) or "of the machine"
        print(f"error: there is not enough memory ({reason}); give it less at a time", file=sys.stderr)
        sys.exit(UserError.exit_status)


def parse_args(
    args: list[str], doc: str | None = None, uses: Uses = EVERYTHING, only: str = "", **defaults: Any
) -> CFG:
    """Make the CFG of a command line; what comes later wins.

    `--preset`, the script's `defaults`, model and decoding settings of `--start-from`, `--config`, flags; with
    `--resume` the run's own settings instead of the first three. `only` is the task of a script for a single one. Exits
    after `--help`; raises UserError for what is no flag of it or does not fit.
    """
    uses = uses.without("task", "task_weights") if only else uses
    defaults |= {"task": only} if only else {}
    usual = replace(CFG(), **defaults)
    flags = _read_flags(args, doc, uses.for_tasks([only]) if only else uses, only, usual)
    from pix2seq.tasks import choose_tasks  # --help does not need it

    file = flags.pop("config", "")
    given = _settings_of_file(file, uses, usual) | flags if file else flags
    preset = given.get("preset", CFG.preset)
    if preset not in PRESETS:
        raise UserError(f"--preset expects one of {', '.join(PRESETS)}, got {preset!r}")
    cfg = replace(PRESETS[preset], **defaults)
    given |= _named_run(given)
    if earlier := given.get("resume") and settings_of_run(Path(given.get("run_dir", cfg.train.run_dir)), only):
        cfg = earlier
    elif start_from := given.get("start_from"):
        cfg = settings_of_start(cfg, find_weights(start_from))
    cfg = replace(cfg, **given)
    choose_tasks(cfg.tasks)
    if uses.trains:
        check_training(cfg)
    for notice in notices(cfg):
        tell(notice)
    return cfg


def settings_of_start(cfg: CFG, path: Path) -> CFG:
    """`cfg` with the model's and the decoding settings of a weights file, read without its tensors; how its scores are
    calibrated means nothing to another model."""
    from pix2seq.metadata import read_metadata  # --help does not need it

    try:
        metadata = read_metadata(path)
    except UserError as error:
        raise UserError(f"--start-from expects a weights file of this toolkit: {error}") from None
    decoding = {name: value for name, value in metadata.decoding.items() if name not in CALIBRATION}
    return with_decoding(dataclasses.replace(cfg, model=metadata.cfg.model), decoding)


def settings_of_run(folder: Path, only: str = "") -> CFG | None:
    """The settings of an earlier run; None if the folder holds none. Raises UserError if they cannot be read, or are
    of other tasks than the one of the script."""
    path = folder / "cfg.json"
    if not path.is_file():
        return None
    try:
        cfg = from_json(read_bytes(path).decode())
    except (OSError, ValueError, TypeError, UserError) as error:
        raise UserError(f"{path} holds no settings of a run ({error}); name them with flags in a new run") from None
    if only and cfg.task != only:
        raise UserError(
            f"the run in {folder} trains {cfg.task}, this script {only} alone; resume it with train_multi_task.py"
        )
    return cfg


def _named_run(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that `--resume RUN` stands for."""
    run = given.get("resume")
    if run and given.get("overwrite"):
        raise UserError("--resume goes on with a run, --overwrite begins one in its place; leave one of them out")
    if not isinstance(run, str):
        return {}
    if Path(given.get("run_dir", run)) != Path(run):
        raise UserError(f"--resume names {run}, but --run-dir {given['run_dir']}; one of them is enough")
    if not Path(run).is_dir():
        raise UserError(f"there is no folder {run}; --resume expects the folder of a run")
    return {"resume": True, "run_dir": run}


def _serves(name: str, tasks: set[str]) -> bool:
    """Whether one of `tasks` uses a setting."""
    own = FIELDS[name].metadata["tasks"]
    return not own or bool(tasks & set(own))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(message.removeprefix("argument ").replace(": expected one argument", " expects a value"))


class _ListWeights(argparse.Action):
    def __call__(self, *_: Any) -> None:
        print(describe_names())
        sys.exit()


def _read_flags(args: list[str], doc: str | None, uses: Uses, only: str, defaults: CFG) -> dict[str, Any]:
    """The settings that flags give, and `config`; exits after --help and --help-all."""
    args = [_current(arg) for arg in args]
    everything = "--help-all" in args
    parser = _make_parser(doc, uses, everything, defaults)
    if everything:
        parser.print_help()
        sys.exit()
    found, unknown = parser.parse_known_args(args)
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise UserError(_why_not(word, uses, only))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(found).items()}


def _current(arg: str) -> str:
    """A flag with dashes, and by its present name; what is no flag as it is."""
    if not arg.startswith("--"):
        return arg
    word, equals, value = arg.partition("=")
    old = word[2:].replace("-", "_")
    new = RENAMED.get(old, old)
    if new != old:
        tell(f"{word} is called {flag(new)} now; the next release does not know the old name")
    return flag(new) + equals + value


def _make_parser(doc: str | None, uses: Uses, everything: bool, defaults: CFG) -> argparse.ArgumentParser:
    """Flags of the settings that a script uses, in groups; help on the essential ones, or on everything."""
    parser = _Parser(
        usage="%(prog)s [flags]",
        description=doc,
        epilog="" if everything else f"--help-all lists all {len(uses.names)} settings of this script.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=HELP_COLUMN, width=shutil.get_terminal_size(WIDTH_OFF_TERMINAL).columns - 1
        ),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    groups = {group: parser.add_argument_group(TITLES[group]) for group in _in_order(uses)}
    general = groups.get("") or parser.add_argument_group(TITLES[""])
    general.add_argument(
        "--config", metavar="FILE", help="settings in YAML or JSON, or a recipe's name; flags win over it"
    )
    for name in uses.names:
        shown, from_weights = everything or name in uses.essential, "weights" in uses.names and name in DECODING
        _add_flag(groups[GROUP_OF[name]], name, defaults, shown, from_weights)
    if {"weights", "start_from"} & set(uses.names):
        general.add_argument(
            "--list-weights", action=_ListWeights, nargs=0, help="the names of weights, and their sizes"
        )
    general.add_argument("--help", "-h", action="help", help="this text")
    general.add_argument("--help-all", action="store_true", help="every setting of this script")
    return parser


def _in_order(uses: Uses) -> dict[str, None]:
    """The groups of settings, those of the first essential settings first."""
    return dict.fromkeys(GROUP_OF[name] for name in uses.names)


def _add_flag(group: argparse._ArgumentGroup, name: str, defaults: CFG, shown: bool, from_weights: bool) -> None:
    kind, about = FIELDS[name].type, FIELDS[name].metadata
    text = about["help"] + (f" ({', '.join(about['choices'])})" if about["choices"] else "")
    default = value_of(defaults, name)
    default = default if kind != "bool" else "on" if default else "off"
    if default not in ("", ()):
        text += f" [from the weights, or {default}]" if from_weights else f" [{default}]"
    text = text.replace("%", "%%") if shown else argparse.SUPPRESS
    if name == "resume":
        group.add_argument(flag(name), nargs="?", const=True, metavar="RUN", help=text)
        group.add_argument("--no-resume", dest=name, action="store_const", const=False, help=argparse.SUPPRESS)
    elif kind == "bool":
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text)
    else:
        metavar = {"int": "N", "float": "X", TEXTS: "PATH"}.get(kind, "TEXT")
        several = {"nargs": "+"} if kind == TEXTS else {}
        group.add_argument(flag(name), type=_reader(name), metavar=metavar, help=text, **several)


def _reader(name: str) -> Callable[[str], Any]:
    """A function that makes the value of a setting from the text of its flag, or raises UserError."""
    kind = FIELDS[name].type

    def read(text: str) -> Any:
        try:
            value = {"int": int, "float": float}.get(kind, str)(text)
        except ValueError:
            value = text
        if expected := what_is_wrong(name, (value,) if kind == TEXTS else value):
            raise UserError(f"{flag(name)} expects {expected}, got {text}")
        return value

    return read


def _why_not(word: str, uses: Uses, only: str) -> str:
    """A sentence about a word that is no flag of this script."""
    if not word.startswith("-"):
        return f"expected a flag such as --seed, got {word!r}; a value follows its flag, a switch has none"
    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    name = name if name in FIELDS else name.removeprefix("no_")
    if name not in FIELDS or name in uses.names:
        near = get_close_matches(name, uses.names, 1)
        return f"there is no flag {word}; " + (f"did you mean {flag(near[0])}?" if near else "--help-all lists them")
    own, group = FIELDS[name].metadata["tasks"], GROUP_OF[name]
    if only and name in ("task", "task_weights"):
        reason = f"this script is for {only} alone"
    elif only and own and only not in own:
        reason = f"it is for {' and '.join(own)}, this script for {only}"
    elif group == "model" and "weights" in uses.names:
        reason = "the model's settings are in the weights file"
    else:
        reason = f"this script uses no such setting of {TITLES[group]}"
    return f"{flag(name)} has no effect here: {reason}; leave it out"


def _settings_of_file(file: str, uses: Uses, defaults: CFG) -> dict[str, Any]:
    """The settings of a `--config` file that a script uses; a line names others that would have changed something."""
    settings = read_settings(file)
    idle = [name for name, value in settings.items() if name not in uses.names and value != value_of(defaults, name)]
    if idle:
        tell(f"{file}: this script does not use {listed(idle, NAMES_SHOWN)}")
    return {name: value for name, value in settings.items() if name in uses.names}
