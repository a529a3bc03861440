"""What a checkpoint holds of a run, and how a run goes on from it: exactly, or with a line that says what is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from msgspec import UNSET, Meta, Struct, UnsetType
from tqdm import tqdm

from pix2seq.config import CFG, DECODING, FIELDS, GROUP_OF, flag, from_json, parse_tasks, replace, to_json, value_of
from pix2seq.errors import UserError, plain
from pix2seq.metadata import ClassId, Keypoints, Text, Whole
from pix2seq.runtime import distributed
from pix2seq.runtime.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint
from pix2seq.runtime.run_folder import SETTINGS, newest
from pix2seq.schema import convert, read_bytes
from pix2seq.tokenizers.captioning import TextVocabulary, read_text
from pix2seq.train.parallel import load_whole, whole

if TYPE_CHECKING:
    from pix2seq.train.engine import Trainer

# Settings that made the model, its optimizers, or the meaning of its tokens what they are.
FIXED = {
    *(name for name, group in GROUP_OF.items() if group == "model"),
    *("preset", "task", "seed", "vocab", "text_model", "caption_min_count"),
    *("start_from", "pretrained", "optimizer", "frozen_stages"),
} - {"dropout", "attention_dropout", "drop_path"}
# Where a run lies and how it was begun is no setting of it; the number of token ids follows from the captions.
IGNORED = {"run_dir", "resume", "overwrite", "vocab_size"}
COMPARED = [name for name in FIELDS if (GROUP_OF[name] != "infer" or name in DECODING) and name not in IGNORED]

MOST_RETURNS = 3  # to the last checkpoint, each with half the learning rate of the one before


class Labels(Struct):
    """What gives the token ids of a run their meaning (see `labels_of`)."""

    class_names: dict[ClassId, str]
    text: Text
    keypoints: Keypoints


class State(Struct):
    """What `collect` gives, but for tensors; earlier versions wrote some of it."""

    trained: dict[str, Any]
    average: dict[str, Any]
    optimizers: list[dict[str, Any]]
    step: Whole
    epoch: Whole
    best: Annotated[float, Meta(ge=0)]
    task: str = ""
    seen: Whole = 0
    images: Whole = 0
    world_size: Annotated[int, Meta(ge=1)] = 1
    cfg: str = "{}"
    labels: Labels | UnsetType = UNSET
    random: list[dict[str, Any]] = []
    skipped: Annotated[tuple[Whole, ...], Meta(min_length=2, max_length=3)] = (0, 0)
    recent: list[dict[str, float]] = []
    validated: list[float] = []
    rows: Whole | None = None


def after_restart(cfg: CFG) -> CFG:
    """The settings with which processes that torchrun has started anew go on: those of the run that they are of, from
    its last checkpoint, or from its beginning where it has none yet. Otherwise `cfg`."""
    if not distributed.restarts() or cfg.train.resume:
        return cfg
    folder = newest(Path(cfg.train.run_dir))
    if not any((folder / name).is_file() for name in (CHECKPOINT, PREVIOUS)):
        return replace(cfg, run_dir=str(folder), overwrite=True)
    cfg = from_json(read_bytes(folder / SETTINGS).decode())
    return replace(cfg, run_dir=str(folder), resume=True, overwrite=False)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """The state of a run in its last sound checkpoint; raise UserError, which names the field, for one of no run."""
    state = load_checkpoint(path, device)
    convert(_without_tensors(state), State, str(path), "name another run, or start without --resume")
    known = ("random", "world_size", "images", "labels", "cfg")
    if "random" in state and (missing := [name for name in known if name not in state]):
        raise UserError(f"{path} has no {missing[0]}; name another run, or start without --resume")
    return state


def _without_tensors(value: Any) -> Any:
    """The same with empty bytes in place of tensors, which are of no plain type."""
    if isinstance(value, dict):
        return {key: _without_tensors(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(inner) for inner in value]
    return b"" if isinstance(value, torch.Tensor) else value


class SaveClock:
    """When a checkpoint within an epoch is due: by number of steps, and by time in the first process."""

    def __init__(self, steps: int, minutes: float) -> None:
        self.steps, self.seconds, self.since = steps, 60 * minutes, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after step number `step`."""
        is_late = self.seconds and distributed.rank() == 0 and time.monotonic() - self.since >= self.seconds
        return bool(is_late or (self.steps and step % self.steps == 0))

    def restart(self) -> None:
        """A checkpoint was written."""
        self.since = time.monotonic()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that this process draws dropout and sampling from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Let this process draw on from `states`."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever the block draws, training goes on as without it: a resumed run may not have it."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)


def collect(trainer: Trainer) -> dict[str, Any]:
    """The state of a run in tensors and plain values; every process must call this."""
    parts = {name: whole(getattr(trainer, name).state_dict()) for name in ("trained", "average", "optimizers")}
    numbers = {"step": trainer.step, "epoch": trainer.epoch, "best": trainer.best, "task": trainer.cfg.task}
    position = {"seen": trainer.seen, "images": trainer.sampler.length, "world_size": distributed.world_size()}
    return {
        **parts,
        **numbers,
        **position,
        "cfg": to_json(trainer.cfg),
        "labels": labels_of(trainer),
        "random": distributed.gather([random_state(trainer.device)]),
        "skipped": [trainer.finite.skipped, trainer.finite.in_a_row, trainer.finite.returns],
        "recent": trainer.recent_losses(),
        "validated": trainer.validated,
        "rows": trainer.metrics.rows if trainer.metrics else 0,
    }


def labels_of(trainer: Trainer) -> dict[str, Any]:
    """What gives the token ids of a run their meaning."""
    return {
        "class_names": dict(trainer.class_names),
        "text": trainer.text.describe(),
        "keypoints": trainer.skeleton.to_dict(),
    }


def settings_in(state: Mapping[str, Any], cfg: CFG) -> CFG:
    """The settings that a checkpoint was written with; those given where an earlier version wrote none."""
    try:
        return from_json(state["cfg"]) if "cfg" in state else cfg
    except (UserError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint's settings cannot be read ({error}); start without --resume") from None


def vocabulary_in(state: Mapping[str, Any]) -> TextVocabulary | None:
    """The caption vocabulary of a run; None where an earlier version did not keep it."""
    if "labels" not in state:
        return None
    return read_text(state["labels"]["text"], from_json(state["cfg"]).model.vocab_size)


def require_same_run(state: Mapping[str, Any], cfg: CFG) -> None:
    """List the settings that are other than in the run; raise UserError if one of them cannot change any more."""
    folder, tasks = cfg.train.run_dir, parse_tasks(state.get("task", cfg.task))  # older checkpoints name no tasks
    if tasks != cfg.tasks:
        raise UserError(
            f"--task is {cfg.task}, but {folder}/checkpoint.pt was written with {plain(','.join(tasks))}; "
            "resume with these tasks in this order, or start from its weights with --start-from"
        )
    before = settings_in(state, cfg)
    changed = [name for name in COMPARED if value_of(cfg, name) != value_of(before, name)]
    switched = "auxiliary_weight" in changed and not (cfg.train.auxiliary_weight and before.train.auxiliary_weight)
    for name in changed:
        if name in FIXED or (name == "auxiliary_weight" and switched):
            raise UserError(
                f"{flag(name)} is {_shown(value_of(cfg, name))}, but the run in {folder} was made with other settings: "
                f"{_shown(value_of(before, name))}; leave it out, or start from its weights with --start-from"
            )
    if changed and distributed.rank() == 0:
        rows = (f"{name} {_shown(value_of(before, name))} → {_shown(value_of(cfg, name))}" for name in changed)
        print(f"changed from here on: {', '.join(rows)}")


def _shown(value: Any) -> str:
    return "on" if value is True else "off" if value is False else plain(str(value)) or "empty"


def require_same_labels(state: Mapping[str, Any], trainer: Trainer) -> None:
    """Raise UserError if the data now give class ids or keypoints another meaning than in the run."""
    if "labels" not in state:
        return
    now = labels_of(trainer)
    for kind, name in (("classes", "class_names"), ("keypoints", "keypoints")):
        before = state["labels"][name]
        if now[name] != before:
            raise UserError(
                f"the {kind} of the data are not those of the run in {trainer.cfg.train.run_dir} "
                f"({_difference(before, now[name])}): token ids would change their meaning; bring back the data of the "
                "run, or start a new one with --start-from, which matches names"
            )


def _difference(before: Mapping, now: Mapping) -> str:
    key = next(key for key in [*before, *now] if before.get(key) != now.get(key))
    then, today = (plain(str(names.get(key, "nothing"))) for names in (before, now))
    return f"{plain(str(key))}: {then} then, {today} now"


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put a run where it was; a line says what cannot be as it was. Raises UserError for a state of another run."""
    cfg, device = trainer.cfg, trainer.device
    try:
        _restore_learned(trainer, state)
        trainer.step, trainer.epoch, trainer.best = state["step"], state["epoch"], state["best"]
        states = state.get("random", [])
        if distributed.rank() < len(states):
            set_random_state(states[distributed.rank()], device)
        else:
            torch.manual_seed(cfg.seed + state["step"] + distributed.rank())
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(
            f"{cfg.train.run_dir}/checkpoint.pt was written by a run with other settings; resume with those of "
            f"{cfg.train.run_dir}/cfg.json ({plain(str(error) or type(error).__name__)})"
        ) from None
    trainer.seen = state.get("seen", 0)
    finite = trainer.finite
    finite.skipped, finite.in_a_row, finite.returns = [*state.get("skipped", (0, 0)), 0][:3]
    if cfg.train.lr != settings_in(state, cfg).train.lr:
        finite.returns = 0  # the rate that was chosen now holds
    known = trainer.loss_weights.keys()  # other names have no column in the metrics
    trainer.recent = [{name: row[name] for name in row.keys() & known} for row in state.get("recent", [])]
    trainer.validated = state.get("validated", [])
    if distributed.rank() == 0:
        for line in _what_is_not_exact(trainer, state):
            print(f"not exact: {line}")


def _restore_learned(trainer: Trainer, state: Mapping[str, Any]) -> None:
    for name in ("trained", "average"):
        load_whole(getattr(trainer, name), state[name])
    trainer.optimizers.load_state_dict(state["optimizers"], settings_in(state, trainer.cfg))


def go_back(trainer: Trainer) -> None:
    """Take weights, average and moments of the last checkpoint, and half the learning rate from here on, because no
    step can be made from those of now. Raises UserError if there is none, or after MOST_RETURNS of that."""
    finite, path = trainer.finite, trainer.folder / CHECKPOINT
    if finite.returns == MOST_RETURNS or not path.is_file():
        tried = f"{finite.returns} times half the learning rate has not helped" if finite.returns else "none is there"
        error = UserError(
            f"{finite.in_a_row} steps in a row were not finite, and the last checkpoint is no way out ({tried}): begin "
            f"again with a lower --lr, with --clip-norm, or with --precision fp32; {trainer.folder} stays as it is"
        )
        error.everywhere = True
        raise error
    state = read_state(path, trainer.device)
    _restore_learned(trainer, state)
    finite.returns += 1
    if distributed.rank() == 0:
        tqdm.write(
            f"went back: {finite.in_a_row} steps in a row were not finite; the weights are those of step "
            f"{state['step']} again, the learning rate is {finite.rate_factor:g} of the schedule's from here on"
        )
    finite.in_a_row = 0


def _what_is_not_exact(trainer: Trainer, state: Mapping[str, Any]) -> Iterator[str]:
    if "random" not in state:
        yield "the checkpoint is of an earlier version, without random states (dropout begins anew) and class names"
        return
    before, now = state["world_size"], distributed.world_size()
    if before != now:
        images = trainer.cfg.train.batch_size
        yield (
            f"{now} processes instead of {before}: a step has {images * now} images instead of {images * before}, and "
            "dropout begins anew in added ones"
        )
    if state["images"] != trainer.sampler.length:
        yield f"an epoch has {trainer.sampler.length} images instead of {state['images']}, in another order"
