"""The training loop that every train script calls: several tasks in one step, on one encoding of the images."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pix2seq.config import CFG, TrainCFG, check_training, decoding_of, parse_tasks, replace, to_json
from pix2seq.dataset.batches import Batch, build_loader
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.inspection import mixture_table, report
from pix2seq.dataset.mixture import Mixture
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.training_data import evaluated_one, open_training
from pix2seq.errors import UserError
from pix2seq.evaluate.run import evaluate_weights
from pix2seq.evaluate.tokens import TokenCounts, token_columns, token_numbers
from pix2seq.models.auxiliary_head import AuxiliaryHead
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime import distributed
from pix2seq.runtime.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from pix2seq.runtime.device import check_precision, computes_bf16, image_format, pick_device
from pix2seq.runtime.paths import writable_folder
from pix2seq.tasks import choose_tasks
from pix2seq.train.announce import SCENES_ARE_DRAWN, Forecast, describe_data, describe_steps, steps_left
from pix2seq.train.auxiliary_loss import auxiliary_loss
from pix2seq.train.curves import Metrics, draw_curves
from pix2seq.train.finetune import lacks_backbone, start_from, table
from pix2seq.train.loss import token_loss
from pix2seq.train.optimizer import Optimizers, learning_rate
from pix2seq.train.progress import Progress
from pix2seq.weights.find import find_weights


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the model's; early steps count more, so that the start is soon forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Mixed precision where it gains time, and on the CPU plain attention, which is quicker there to train through."""
    kernel = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
    with kernel, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and computes_bf16(device)):
        yield


def batch_losses(
    model: Pix2Seq,
    batch: Batch,
    train: TrainCFG,
    auxiliary_head: AuxiliaryHead | None = None,
    counts: Mapping[str, TokenCounts] | None = None,
) -> dict[str, Tensor]:
    """Token loss of each task in the batch, and with a head its loss `auxiliary` on the memory's cells.

    With `counts` the target tokens are added to those of their task.
    """
    memory = model.encode(batch.images)
    groups = [(part.tokens, part.image_index) for part in batch.tasks.values()]
    losses = {}
    for (task, part), logits in zip(batch.tasks.items(), model.decode_groups(memory, groups), strict=True):
        losses[task] = token_loss(logits, part.targets, part.weights, train.coord_sigma, train.label_smoothing)
        if counts:
            counts[task].add(logits, part.targets, part.weights)
    return losses | ({"auxiliary": auxiliary_loss(auxiliary_head, memory, batch.objects)} if auxiliary_head else {})


class Trainer:
    """One run: data, model, optimizer, and what is written about them."""

    def __init__(self, cfg: CFG) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.train.run_dir)
        check_training(cfg)
        self.tasks = choose_tasks(cfg.tasks)
        self.device = distributed.start(pick_device(cfg.device))
        check_precision(cfg.train.precision, self.device)
        writable_folder(self.folder, "--run-dir")
        torch.manual_seed(cfg.seed)
        self._open_data()
        cfg = self.cfg  # with token ids for all words of the captions
        self.model = self._new_model()
        if cfg.train.small_epochs and self.model.encoder.backbone.is_vit:
            raise UserError(f"--small-epochs needs a convnet: {cfg.model.backbone} has one canvas size; set it to 0")
        self.model.to(self.device, memory_format=image_format(self.device))
        self.model.encoder.backbone.freeze(cfg.train.frozen_stages)
        self.average = copy.deepcopy(self.model).eval() if cfg.train.ema_decay else self.model
        self.loss_weights = dict(cfg.loss_weights)
        self.auxiliary_head = None
        if cfg.train.auxiliary_weight:
            num_classes = max(self.class_names, default=0) + 1
            head = AuxiliaryHead(cfg.model.decoder_width, num_classes, len(self.skeleton))
            self.auxiliary_head = head.to(self.device)
            self.loss_weights["auxiliary"] = cfg.train.auxiliary_weight
        self.trained = nn.ModuleList(part for part in (self.model, self.auxiliary_head) if part)
        self.optimizers = Optimizers(self.model, self.auxiliary_head, cfg)
        self.step, self.epoch, self.best = 0, 0, math.inf
        self.metrics = None
        if cfg.train.resume:
            self._resume()
        if distributed.rank() == 0:
            (self.folder / "cfg.json").write_text(to_json(cfg), encoding="utf-8")
            columns = [f"loss/{name}" for name in self.loss_weights] + [f"val/{task}" for task in cfg.tasks]
            columns += ["lr", "grad_norm", "images_per_s", "data_wait"]
            columns += [f"{kind}{name}" for kind in ("", "val_") for name in token_columns(self.tokenizers.by_task)]
            self.metrics = Metrics(self.folder, columns, self.step)

    def _new_model(self) -> Pix2Seq:
        """As initialised, or with what a weights file knows: backbone layers that it lacks are ImageNet's."""
        train, model = self.cfg.train, self.cfg.model
        if train.resume:
            return Pix2Seq(model)
        if not train.start_from:
            return Pix2Seq(model, train.pretrained)
        path = find_weights(train.start_from)
        weights = load_weights(path)
        fresh = Pix2Seq(model)
        if train.pretrained and lacks_backbone(fresh, weights.model):
            fresh = Pix2Seq(model, pretrained=True)
        rows = start_from(fresh, weights, self.class_names, self.text)
        if distributed.rank() == 0:
            print(f"started from {path}\n{table(rows)}")
        return fresh

    def _open_data(self) -> None:
        cfg = self.cfg
        training, validation = open_training(cfg, self.tasks, complete=False)
        self.class_names, self.skeleton = training.class_names, training.skeleton
        self.category_ids = training.category_ids
        self.tokenizers = training_tokenizers(training, self.tasks, cfg)
        self.text, vocab_size = self.tokenizers.labels.text, self.tokenizers.vocab_size
        if vocab_size > cfg.model.vocab_size and distributed.rank() == 0:
            print(f"{vocab_size} token ids, more than --vocab-size, for {len(self.text)} words or word pieces")
        self.cfg = cfg = replace(cfg, vocab_size=vocab_size)
        self.evaluated = evaluated_one(cfg, self.tasks, validation)
        if cfg.data.check_data:
            for name, split in (("training", training), ("validation", validation)):
                split.leave_out_unreadable()
                if split.complete and distributed.rank() == 0:
                    print(f"{name}\n{report(split, self.tasks, self.tokenizers, cfg)}")
        ranks = distributed.rank(), distributed.world_size()
        train_set = SampleDataset(training, self.tasks, self.tokenizers, cfg, augment=True, replace_unreadable=True)
        if distributed.rank() == 0:
            print(describe_data(cfg, training, validation, len(train_set)))
            if isinstance(training, Mixture):
                print(mixture_table(training, self.tasks, cfg.data.train_difficult))
                if cfg.train.eval_every:
                    print(f"--eval-every evaluates {self.evaluated.task} on {self.evaluated.data.data_root}")
        self.sampler = EpochSampler(train_set.parts, cfg.train.batch_size, cfg.seed, *ranks)
        self.loader = build_loader(train_set, self.sampler, cfg.data.workers)
        val_set = SampleDataset(validation, self.tasks, self.tokenizers, cfg, augment=False, replace_unreadable=True)
        val_sampler = EpochSampler(len(val_set), cfg.train.batch_size, cfg.seed)
        val_sampler.set_epoch(0, cfg.model.image_size, max(cfg.train.eval_images // cfg.train.batch_size, 1))
        self.val_loader = build_loader(val_set, val_sampler, 0)
        self.forecast = Forecast(SCENES_ARE_DRAWN if training.to_draw else "")

    def begin_epoch(self, epoch: int) -> None:
        size = self.cfg.model.image_size
        small = size * 2 // 3 if epoch < self.cfg.train.small_epochs else size
        self.sampler.set_epoch(epoch, small, self.cfg.train.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        self.begin_epoch(self.epoch)
        return len(self.sampler) * self.cfg.train.epochs

    def run(self) -> None:
        """Train all epochs; after each, validate and write checkpoint, weights and curves."""
        started, total = time.monotonic(), self.total_steps
        if distributed.rank() == 0:
            print(describe_steps(self.cfg, self.step, total, self.device, self.folder), flush=True)
        while self.epoch < self.cfg.train.epochs:
            self._train_epoch(total)
            self.epoch += 1
            if distributed.rank() == 0:
                self._finish_epoch()
            distributed.barrier()
            if self.cfg.train.eval_every and self.epoch % self.cfg.train.eval_every == 0:
                self._evaluate()
            clock = torch.tensor([(time.monotonic() - started) / 60], device=self.device)
            distributed.average([clock])  # all processes must agree on when to stop
            if self.cfg.train.limit_minutes and clock.item() >= self.cfg.train.limit_minutes:
                if distributed.rank() == 0:
                    print(f"stopped after {clock.item():.0f} minutes; go on with --resume")
                break

    def _train_epoch(self, total: int) -> None:
        self.begin_epoch(self.epoch)
        self.model.train()
        train = self.cfg.train
        title, images = f"epoch {self.epoch + 1}/{train.epochs}", train.batch_size * distributed.world_size()
        progress = Progress(title, images, self.metrics, self.forecast)
        for batch in progress.follow(self.loader):
            rate = learning_rate(self.step, total, self.cfg)
            counts = self._token_counts() if progress.is_logged(self.step + 1) else {}
            losses, grad_norm = self.train_step(batch.to(self.device), rate, counts)
            self.step += 1
            progress.step_done(self.step, losses, rate, grad_norm, counts, steps_left(self.cfg, self.step, total))

    def _token_counts(self) -> dict[str, TokenCounts]:
        return {task: TokenCounts(self.text.end) for task in self.cfg.tasks}

    def train_step(
        self, batch: Batch, rate: float, counts: Mapping[str, TokenCounts] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One update, unless no process's batch has anything to learn; each loss and the gradient's norm."""
        train = self.cfg.train
        if not (self.auxiliary_head or any(distributed.gather([bool(batch.tasks)]))):
            return {}, torch.zeros(())
        with arithmetic(self.device, train.precision):
            if batch.tasks or self.auxiliary_head:
                losses = batch_losses(self.model, batch, train, self.auxiliary_head, counts)
                total = sum(self.loss_weights[name] * loss for name, loss in losses.items())
            else:  # batch norms of the other processes wait for this one's images, forward and back
                losses, total = {}, 0 * self.model.encode(batch.images).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{task} {loss.item():.3g}" for task, loss in losses.items())
            raise UserError(
                f"the loss is not finite at step {self.step} ({values}); lower --lr or use --precision fp32"
            )
        self.optimizers.zero_grad()
        total.backward()
        distributed.average(self._gradients())
        grad_norm = nn.utils.clip_grad_norm_(self.trained.parameters(), train.clip_norm or math.inf)
        self.optimizers.step(rate)
        if train.ema_decay:
            update_average(self.average, self.model, self.step, train.ema_decay)
        return losses, grad_norm

    def _gradients(self) -> list[Tensor]:
        """Those of all weights that learn: zeros where this process's batch gave none but another's may have."""
        learning = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        if distributed.world_size() > 1:
            for parameter in learning:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in learning if parameter.grad is not None]

    @torch.inference_mode()
    def validate(self, counts: Mapping[str, TokenCounts] | None = None) -> dict[str, float]:
        """Mean token loss of each task over validation images, by the averaged weights; tokens add to `counts`."""
        self.average.eval()
        sums: dict[str, list[float]] = {}
        for batch in self.val_loader:
            with arithmetic(self.device, self.cfg.train.precision):
                losses = batch_losses(self.average, batch.to(self.device), self.cfg.train, counts=counts)
            for task, loss in losses.items():
                sums.setdefault(task, []).append(loss.item())
        return {task: sum(values) / len(values) for task, values in sums.items()}

    def _finish_epoch(self) -> None:
        counts = self._token_counts()
        losses = self.validate(counts)
        numbers = {f"val/{task}": loss for task, loss in losses.items()}
        numbers |= {f"val_{name}": value for name, value in token_numbers(counts).items()}
        self.metrics.add(self.step, numbers)
        print("validation:", ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items()))
        total = sum(self.loss_weights[task] * loss for task, loss in losses.items())
        described = self.class_names, self.text.describe(), self.skeleton.to_dict(), self.category_ids
        words = self.cfg.train.domain, self.cfg.train.licence
        weights = Weights(self.average, self.cfg, *described, self.step, decoding_of(self.cfg), *words)
        dtype = torch.float16 if self.cfg.train.store == "fp16" else torch.float32
        save_weights(self.folder / "last.safetensors", weights, dtype)
        if total < self.best:
            self.best = total
            save_weights(self.folder / "best.safetensors", weights, dtype)
        save_checkpoint(self.folder / CHECKPOINT, self._state())
        draw_curves(self.folder / "metrics.csv", self.folder / "curves.png")

    def _evaluate(self) -> None:
        """All figures of the weights that were just written, on all processes; what hinders it ends no training."""
        weights = str(self.folder / "last.safetensors")
        cfg = replace(self.evaluated, weights=weights, device=str(self.device))
        try:
            evaluate_weights(cfg, self.folder)
        except UserError as error:
            if distributed.rank() == 0:
                print(f"the evaluation failed, the training goes on: {error}")

    def _state(self) -> dict:
        parts = {"trained": self.trained, "average": self.average, "optimizers": self.optimizers}
        numbers = {"step": self.step, "epoch": self.epoch, "best": self.best, "task": self.cfg.task}
        return {name: part.state_dict() for name, part in parts.items()} | numbers

    def _resume(self) -> None:
        state = load_checkpoint(self.folder / CHECKPOINT, self.device)
        tasks = parse_tasks(state.get("task", self.cfg.task))  # older checkpoints do not name them
        if tasks != self.cfg.tasks:
            raise UserError(
                f"--task is {self.cfg.task}, but {self.folder}/checkpoint.pt was written with {','.join(tasks)}; "
                "resume with these tasks in this order, or start from its weights with --start-from"
            )
        try:
            for name in ("trained", "average", "optimizers"):
                getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.folder}/checkpoint.pt was written by a run with other settings; resume with those of "
                f"{self.folder}/cfg.json ({str(error).splitlines()[0]})"
            ) from None
        self.step, self.epoch, self.best = state["step"], state["epoch"], state["best"]


def train(cfg: CFG) -> None:
    """Train as `cfg` says; results are in its run folder."""
    trainer = Trainer(cfg)
    trainer.run()
    if distributed.rank() == 0:
        print(f"wrote {trainer.folder}: best.safetensors, last.safetensors, metrics.csv, curves.png")
    distributed.stop()
