"""The optimizers and their learning rate."""

from __future__ import annotations

import math

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.train.muon import make_muon
from pix2seq.train.parallel import sharded_like

ADAM_EPS = 1e-8


def learning_rate(step: int, total: int, cfg: CFG) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up, the schedule's decay, its last rate.

    The `tail_steps` at the end have the last rate, where the official code lets half a cosine and the exponential fall
    on. With warm-up the first update has rate 0: it only fills the optimizer's moments, as in the official code. A run
    too short for its warm-up would never learn at the full rate: the warm-up is a third of it at most.
    """
    train = cfg.train
    warmup = min(train.warmup_steps, total // 3)
    if step < warmup:
        return train.lr * step / warmup
    progress = min((step - warmup) / max(total - warmup - train.tail_steps, 1), 1)
    if train.schedule == "exponential":
        return train.lr * train.end_lr_factor**progress
    falling = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress * train.cosine_share)),
        "linear": 1 - progress,
        "constant": 1,
    }
    return train.lr * (train.end_lr_factor + (1 - train.end_lr_factor) * falling[train.schedule])


def moving_average(model: nn.Module, decay: float, foreach: bool = True) -> ModelEmaV3:
    """An average of parameters and buffers, a copy of `model` that is its `module`; update `step`, from 0, decays it by
    (1 + step) / (10 + step) up to `decay`, so that the start is soon forgotten.

    torch's own AveragedModel counts updates itself, which checkpoints would have to keep, copies batch norms'
    statistics or rounds their counters, and joins parameters and buffers in one operation, which FSDP2 forbids. Without
    `foreach` timm's average works tensor by tensor, as sharded parameters beside whole buffers need it.
    """
    return ModelEmaV3(
        model, decay, use_warmup=True, warmup_gamma=9, warmup_power=1, update_after_step=-2, foreach=foreach
    )


class Optimizers:
    """AdamW, or Muon for the transformers' matrices and AdamW for the rest, behind one `step`.

    Every group's rate is the schedule's rate times the group's `factor`.
    """

    def __init__(self, model: Pix2Seq, head: nn.Module | None, cfg: CFG) -> None:
        self.model, self.head = model, head
        train = cfg.train
        muon, others = _split(model, head, train.optimizer == "muon")
        own_backbone = {id(p) for p in model.encoder.backbone.parameters()}
        decaying = _decaying(model, head, train.decay)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for p in others:
            factor = train.backbone_lr_factor if id(p) in own_backbone else 1.0
            groups.setdefault((factor, train.weight_decay if id(p) in decaying else 0.0), []).append(p)
        adamw = [{"params": ps, "factor": key[0], "weight_decay": key[1]} for key, ps in groups.items()]
        fused = torch.optim.AdamW(adamw, lr=0.0, betas=(0.9, train.beta2), fused=True)
        self.parts: list[torch.optim.Optimizer] = [fused]
        self.updates = 0
        if muon:
            group = {"params": muon, "factor": train.muon_lr_factor}
            self.parts.append(make_muon([group], train.weight_decay, model.device))

    def step(self, rate: float) -> None:
        """One update at the schedule's `rate`."""
        self.updates += 1
        _join_eps_to_uncorrected_moment(self.parts[0], self.updates)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * group["factor"]
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> list[dict]:
        """State of every optimizer."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict], written_with: CFG) -> None:
        """Take the moments that `state_dict` gave in a run with the settings `written_with`; rates and decays stay as
        they are set now, and so may parameters be grouped otherwise. Raise ValueError if it is of other optimizers."""
        self.updates = int(max((state["step"] for state in states[0]["state"].values()), default=0))
        before = Optimizers(self.model, self.head, written_with)
        for part, other, state in zip(self.parts, before.parts, states, strict=True):
            other.load_state_dict(state)
            for parameter, moments in other.state.items():
                for name, moment in moments.items():
                    if getattr(moment, "shape", None) not in ((), parameter.shape):
                        raise ValueError(f"{name} has another shape than its weights")
            for parameter, moments in other.state.items():
                part.state[parameter] = {name: sharded_like(moment, parameter) for name, moment in moments.items()}


def _join_eps_to_uncorrected_moment(adamw: torch.optim.Optimizer, update: int) -> None:
    """Let `update`, counted from 1, be that of Keras, whose models are converted to ours.

    torch adds eps to √(v / (1 − β₂ᵗ)), Keras to √v: its eps is torch's eps / √(1 − β₂ᵗ) at update t. In the first
    updates that is five times as much, which shows where gradients are small.
    """
    for group in adamw.param_groups:
        group["eps"] = ADAM_EPS / math.sqrt(1 - group["betas"][1] ** update)


def _decaying(model: Pix2Seq, head: nn.Module | None, decay: str) -> set[int]:
    """Ids of the parameters that decay: all of them, matrices (convolutions and embeddings too), or only the kernels of
    linear layers and convolutions."""
    parts = [part for part in (model, head) if part]
    if decay != "kernels":
        return {id(p) for part in parts for p in part.parameters() if decay == "all" or p.ndim >= 2}
    layers = [m for part in parts for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    output = getattr(model.decoder, "output", None)  # token embeddings, though a linear layer applies them
    return {id(layer.weight) for layer in layers if layer is not output}


def _split(model: Pix2Seq, head: nn.Module | None, use_muon: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters for Muon and for AdamW. Muon is for the transformers' hidden matrices: embeddings, heads and
    convolutions are left to AdamW (Jordan et al., 2024)."""
    parameters = [p for part in (model, head) if part for p in part.parameters() if p.requires_grad]
    if not use_muon:
        return [], parameters
    rooms = [model.encoder.stem, model.encoder.layers, model.projection, model.decoder.layers]
    hidden = {id(p) for room in rooms for p in room.parameters() if p.ndim == 2}
    return [p for p in parameters if id(p) in hidden], [p for p in parameters if id(p) not in hidden]
