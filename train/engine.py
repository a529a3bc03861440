"""The training loop that every train script calls: several tasks in one step, on one encoding of the images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pix2seq.config import CFG, check_training, decoding_of, replace, to_json
from pix2seq.dataset.batches import Batch, build_loader
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.inspection import mixture_table, report
from pix2seq.dataset.mixture import Mixture
from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.training_data import describe_layouts, evaluated_one, open_training
from pix2seq.errors import UserError
from pix2seq.evaluate.examples import Examples
from pix2seq.evaluate.run import evaluate_weights
from pix2seq.evaluate.tokens import TokenCounts, token_columns, token_numbers
from pix2seq.models.auxiliary_head import AuxiliaryHead
from pix2seq.models.joint_norm import join_statistics
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime import distributed
from pix2seq.runtime.checkpoint import CHECKPOINT, save_checkpoint
from pix2seq.runtime.console import tell
from pix2seq.runtime.device import (
    arithmetic,
    attention_kernel,
    check_precision,
    has_compiler,
    image_format,
    pick_device,
)
from pix2seq.runtime.files import write_whole
from pix2seq.runtime.interrupt import StopRequest
from pix2seq.runtime.run_folder import BEST, CURVES, LAST, METRICS, SETTINGS, RunFolder, claim
from pix2seq.tasks import choose_tasks
from pix2seq.tokenizers.captioning import TextVocabulary
from pix2seq.train import resume
from pix2seq.train.announce import (
    SCENES_ARE_DRAWN,
    Forecast,
    describe_data,
    describe_learning,
    describe_steps,
    describe_time,
    steps_left,
)
from pix2seq.train.curves import Metrics, draw_curves
from pix2seq.train.finetune import lacks_backbone, start_from, table
from pix2seq.train.finite import FiniteSteps
from pix2seq.train.learner import Learner
from pix2seq.train.loss import batch_losses, count_tokens
from pix2seq.train.optimizer import Optimizers, learning_rate, moving_average
from pix2seq.train.parallel import engine_of, shard, summing, whole
from pix2seq.train.preflight import failures, require_room, seconds_a_step, try_longest_batch
from pix2seq.train.progress import Progress
from pix2seq.train.schedule import describe_choice, fit_to_data, total_steps
from pix2seq.train.trackers import Tracker, require_tracker
from pix2seq.weights.find import find_weights


class Trainer:
    """One run: data, model, optimizer, and what is written about them."""

    def __init__(self, cfg: CFG) -> None:
        check_training(cfg)
        self.tasks = choose_tasks(cfg.tasks)
        self.device = distributed.start(pick_device(cfg.device))
        check_precision(cfg.training_precision, self.device)
        self.run_folder: RunFolder | None = None  # in the first process, which alone writes
        self.folder = distributed.from_first(lambda: self._claim(cfg))
        self.cfg = cfg = replace(cfg, run_dir=str(self.folder))
        with distributed.together():
            self._prepare(cfg)
        with distributed.together():
            if distributed.rank() == 0:
                self._begin_files()

    def _claim(self, cfg: CFG) -> Path:
        require_tracker(cfg.train.tracker)
        self.run_folder = claim(Path(cfg.train.run_dir), cfg.train.resume, cfg.train.overwrite)
        return self.run_folder.path

    def _prepare(self, cfg: CFG) -> None:
        """Data, model and optimizers, at the start or where a checkpoint was written."""
        state = resume.read_state(self.folder / CHECKPOINT, self.device) if cfg.train.resume else {}
        if state:
            resume.require_same_run(state, cfg)
        torch.manual_seed(cfg.seed)
        self._open_data(resume.vocabulary_in(state))
        resume.require_same_labels(state, self)
        cfg = self.cfg  # with token ids for all words of the captions
        self.model = self._new_model()
        if cfg.train.small_epochs and self.model.encoder.backbone.is_vit:
            raise UserError(f"--small-epochs needs a convnet: {cfg.model.backbone} has one canvas size; set it to 0")
        self.is_sharded = cfg.train.parallel == "fsdp" and distributed.world_size() > 1
        in_order = torch.contiguous_format if self.is_sharded else image_format(self.device)  # FSDP2 takes no other
        self.model.to(self.device, memory_format=in_order)
        self.model.encoder.backbone.freeze(cfg.train.frozen_stages)
        if distributed.world_size() > 1:
            join_statistics(self.model.encoder.backbone, self.device)
        decay = cfg.train.ema_decay
        self.ema = moving_average(self.model, decay, foreach=not self.is_sharded) if decay else None
        self.average = self.ema.module if self.ema else self.model
        self.loss_weights = dict(cfg.loss_weights)
        self.auxiliary_head = None
        if cfg.train.auxiliary_weight:
            num_classes = max(self.class_names, default=0) + 1
            head = AuxiliaryHead(cfg.model.decoder_width, num_classes, len(self.skeleton))
            self.auxiliary_head = head.to(self.device)
            self.loss_weights["auxiliary"] = cfg.train.auxiliary_weight
        self.learner = Learner(self.model, self.auxiliary_head, cfg.train, self.loss_weights)
        self.trained = self.learner.parts
        if self.is_sharded:
            shard(self.learner, self.model, self.device)
            if self.average is not self.model:
                shard(self.average, self.average, self.device)
        if cfg.train.recompute:
            self.model.recompute()
        if cfg.compile and has_compiler(self.device):
            self.learner.compile(dynamic=True)
        self.engine = engine_of(self.learner, in_parts=cfg.train.accumulate > 1)
        self.optimizers = Optimizers(self.model, self.auxiliary_head, cfg)
        self.finite = FiniteSteps(self.model)
        self.step, self.epoch, self.best = 0, 0, math.inf
        self.seen = 0  # images of this epoch that all processes have learned
        self.validated: list[float] = []  # losses after each epoch, in the first process
        self.recent: list[dict[str, float]] = []  # losses since the last row of metrics, of a run that goes on
        self.progress: Progress | None = None
        self.metrics: Metrics | None = None
        self.rows = state.get("rows")  # of metrics when the checkpoint was written
        self.clock = resume.SaveClock(cfg.train.save_steps, cfg.train.save_minutes)
        self.stopped_by = 0
        if state:
            resume.restore(self, state)

    def _begin_files(self) -> None:
        """Settings and metrics of the run; what was written after the checkpoint, or by an earlier run, goes."""
        require_room(self.folder, self.trained, self.average)
        if not self.cfg.train.resume:
            self.run_folder.clear()
        write_whole(self.folder / SETTINGS, to_json(self.cfg))
        columns = [f"loss/{name}" for name in self.loss_weights] + [f"val/{task}" for task in self.cfg.tasks]
        columns += ["lr", "grad_norm", "images_per_s", "data_wait"]
        columns += [f"{kind}{name}" for kind in ("", "val_") for name in token_columns(self.tokenizers.by_task)]
        tracker = Tracker(self.cfg, self.folder) if self.cfg.train.tracker != "none" else None
        self.metrics = Metrics(self.folder, columns, self.step, self.rows, tracker)

    def close(self) -> None:
        """Let other processes write to the run folder."""
        if self.metrics and self.metrics.tracker:
            self.metrics.tracker.close()
        if self.run_folder:
            self.run_folder.close()

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

    def _open_data(self, text: TextVocabulary | None) -> None:
        """Images and tokenizers; `text` is the caption vocabulary that a run began with."""
        cfg = self.cfg
        training, validation = open_training(cfg, self.tasks, complete=False)
        if distributed.rank() == 0 and (lines := describe_layouts(training, validation)):
            print("\n".join(lines))
        self.class_names, self.skeleton = training.class_names, training.skeleton
        self.category_ids = training.category_ids
        self.tokenizers = training_tokenizers(training, self.tasks, cfg, text)
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
        if not cfg.train.resume:
            self.cfg = cfg = self._fit(train_set, len(validation))
        passes = [(count, weight * cfg.train.passes_per_epoch) for count, weight in train_set.parts]
        mixed = cfg.data.shards_mixed
        self.sampler = EpochSampler(passes, cfg.train.batch_size, cfg.seed, *ranks, train_set.shards, mixed)
        pinned = self.device.type == "cuda"
        self.loader = build_loader(train_set, self.sampler, cfg.data.workers, cfg.train.accumulate, pinned)
        val_set = SampleDataset(validation, self.tasks, self.tokenizers, cfg, augment=False, replace_unreadable=True)
        val_sampler = EpochSampler(len(val_set), cfg.train.batch_size, cfg.seed, shards=val_set.shards, mixed=mixed)
        val_sampler.set_epoch(0, cfg.model.image_size, max(cfg.train.eval_images // cfg.train.batch_size, 1))
        self.val_loader = build_loader(val_set, val_sampler, 0, pinned=pinned)
        self.examples = Examples(validation, self.tasks, cfg.train.example_images)
        self.forecast = Forecast(SCENES_ARE_DRAWN if training.to_draw else "")

    def _fit(self, train_set: SampleDataset, validation: int) -> CFG:
        """The settings, fitted to the number of images where they are not given."""
        images, processes = EpochSampler(train_set.parts, 1, 0).length, distributed.world_size()
        cfg = fit_to_data(self.cfg, images, validation, processes)
        line = describe_choice(self.cfg, cfg, images, total_steps(cfg, images, processes))
        if line and distributed.rank() == 0:
            print(line)
        return cfg

    def begin_epoch(self, epoch: int) -> None:
        size = self.cfg.model.image_size
        small = size * 2 // 3 if epoch < self.cfg.train.small_epochs else size
        self.sampler.set_epoch(epoch, small, self.cfg.train.steps_per_epoch, self.seen)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run: those done, and those to come with as many images each as now."""
        self.begin_epoch(self.epoch)
        return self.step - self.sampler.done + len(self.sampler) * (self.cfg.train.epochs - self.epoch)

    def run(self) -> None:
        """Train all epochs; after each, validate and write checkpoint, weights and curves.

        Ctrl-C and SIGTERM end it after a step, with a checkpoint: `stopped_by` is then the signal's number.
        """
        started, total = time.monotonic(), self.total_steps
        if distributed.rank() == 0:
            print(describe_steps(self.cfg, self.step, total, self.device, self.folder), flush=True)
        if self.device.type == "cuda":
            try_longest_batch(self)
        if (seconds := seconds_a_step(self)) and distributed.rank() == 0:
            validated = len(self.val_loader) * (self.cfg.train.epochs - self.epoch)
            print(describe_time(seconds, steps_left(self.cfg, self.step, total), validated), flush=True)
        with StopRequest() as stop:
            while self.epoch < self.cfg.train.epochs and not self.stopped_by:
                self._train_epoch(total, stop)
                if self.stopped_by:
                    break
                self._end_epoch()
                if any(distributed.any_of([bool(stop.signal)])):
                    self._stop(stop)
                elif self._is_late(started):
                    break
        if not self.stopped_by and (doubt := describe_learning(self.validated)):
            tell(doubt)
        if self.stopped_by and distributed.rank() == 0:
            print(f"stopped after step {self.step} of {total}; go on with --resume {self.folder}")

    def _is_late(self, started: float) -> bool:
        """Whether the time limit has passed, for all processes alike."""
        minutes, limit = (time.monotonic() - started) / 60, self.cfg.train.limit_minutes
        (is_late,) = distributed.any_of([bool(limit) and minutes >= limit])
        if is_late and distributed.rank() == 0:
            print(f"stopped after {minutes:.0f} minutes; go on with --resume {self.folder}")
        return is_late

    def _train_epoch(self, total: int, stop: StopRequest) -> None:
        self.begin_epoch(self.epoch)
        self.model.train()
        train = self.cfg.train
        title, images = f"epoch {self.epoch + 1}/{train.epochs}", train.batch_size * distributed.world_size()
        self.progress = Progress(title, images, train.log_steps, self.metrics, self.forecast)
        self.progress.recall(self.recent)
        for batch in self.progress.follow(self.loader, len(self.sampler), self.sampler.done):
            rate = learning_rate(self.step, total, self.cfg) * self.finite.rate_factor
            counts = self._token_counts() if self.progress.is_logged(self.step + 1) else {}
            losses, grad_norm = self.train_step(batch.to(self.device), rate, counts)
            if self.finite.is_lost:
                resume.go_back(self)
            self.step, self.seen = self.step + 1, self.seen + images
            is_removed = self._make_folder_again()
            self.progress.step_done(self.step, losses, rate, grad_norm, counts, steps_left(self.cfg, self.step, total))
            is_due = self.clock.is_due(self.step) and not self.finite.in_a_row  # else the last one may be a way out
            is_due, is_asked = distributed.any_of([is_due or is_removed, bool(stop.signal)])
            if is_due or is_asked:
                self.save()
            if is_asked:
                return self._stop(stop)
        self.progress, self.recent = None, []

    def _make_folder_again(self) -> bool:
        """Whether the first process found that somebody had removed the run's folder. What was learned is not lost with
        it: the run goes on, and a checkpoint of now is due."""
        if not self.run_folder or not self.run_folder.make_again():
            return False
        write_whole(self.folder / SETTINGS, to_json(self.cfg))
        self.metrics.begin(self.step, [])
        return True

    def _stop(self, stop: StopRequest) -> None:
        """Remember the signal that asked some process to stop."""
        self.stopped_by = max(distributed.gather([stop.signal]))

    def save(self) -> None:
        """Write a checkpoint; every process must call this."""
        state = resume.collect(self)
        with distributed.together():
            if distributed.rank() == 0:
                save_checkpoint(self.folder / CHECKPOINT, state)
        self.clock.restart()

    def recent_losses(self) -> list[dict[str, float]]:
        """The losses of the steps since the last row of metrics."""
        return self.progress.recent_losses() if self.progress else []

    def _token_counts(self) -> dict[str, TokenCounts]:
        return {task: TokenCounts(self.text.end) for task in self.cfg.tasks}

    def train_step(
        self, batch: Batch, rate: float, counts: Mapping[str, TokenCounts] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One update, unless no process's batch has anything to learn or something is not finite; each loss of it over
        all processes, and the gradient's norm. The target tokens are added to the `counts` of their task."""
        train = self.cfg.train
        self.finite.begin()
        mine = self.backward(batch, counts)
        if not mine:
            return {}, torch.zeros(())
        losses = self._over_all(mine)
        grad_norm = whole(nn.utils.clip_grad_norm_(self.trained.parameters(), train.clip_norm or math.inf))
        if not self.finite.accept(
            self.step, self._sum(losses), grad_norm, mine, [name for part in batch.parts for name in part.names]
        ):
            return {}, grad_norm
        self.optimizers.step(rate)
        if self.ema:
            self.ema.update(self.model, self.step)
        return losses, grad_norm

    def backward(self, batch: Batch, counts: Mapping[str, TokenCounts] | None = None) -> dict[str, Tensor]:
        """The gradients of a step, which are the mean over all processes, and this one's losses, whose mean is that of
        the step; empty if no process has anything to learn."""
        parts = batch.parts
        totals = self.learner.totals(parts, self.cfg.tasks)
        self.optimizers.zero_grad()
        if not totals:
            return {}
        names = [name for name in self.loss_weights if name in totals or name == "auxiliary"]
        sums = {name: torch.zeros((), device=self.device) for name in names}
        for part in parts:
            # the kernel for the backward pass too, which may compute layers again
            with summing(self.engine, last=part is parts[-1]), attention_kernel(self.device):
                with arithmetic(self.device, self.cfg.training_precision):
                    total, losses, logits = self.engine(part, totals)
                total.backward()
            for name, loss in losses.items():
                sums[name] += loss
            count_tokens(counts, part, logits)
        return sums

    def _over_all(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each loss over all processes."""
        sums = distributed.summed(torch.stack(list(losses.values()))) / distributed.world_size()
        return dict(zip(losses, sums.unbind(), strict=True))

    def _sum(self, losses: Mapping[str, Tensor]) -> Tensor:
        return sum(self.loss_weights[name] * loss for name, loss in losses.items())

    @torch.inference_mode()
    def validate(
        self, counts: Mapping[str, TokenCounts] | None = None, model: Pix2Seq | None = None
    ) -> dict[str, float]:
        """Mean token loss of each task over validation images, by the averaged weights (of a whole `model` where they
        are sharded); tokens add to `counts`."""
        model = (model or self.average).eval()
        sums: dict[str, list[float]] = {}
        for batch in self.val_loader:
            with arithmetic(self.device, self.cfg.training_precision):
                losses, logits = batch_losses(model, batch.to(self.device), self.cfg.train)
            count_tokens(counts, batch, logits)
            for task, loss in losses.items():
                sums.setdefault(task, []).append(loss.item())
        return {task: sum(values) / len(values) for task, values in sums.items()}

    def _end_epoch(self) -> None:
        """Validate, write weights and a checkpoint, and evaluate where that is due."""
        self.epoch, self.seen = self.epoch + 1, 0
        with resume.undisturbed(self.device):
            average = self._whole_average()
            with distributed.together():
                if distributed.rank() == 0:
                    self._validate_and_write(average)
            self.save()
            if self.cfg.train.eval_every and self.epoch % self.cfg.train.eval_every == 0:
                self._evaluate()

    def _whole_average(self) -> Pix2Seq:
        """The averaged weights; of a sharded model a whole copy, in the first process. Every process must call this."""
        if not self.is_sharded:
            return self.average
        state = whole(self.average.state_dict())
        if distributed.rank() > 0:
            return self.average
        model = Pix2Seq(self.cfg.model).to(self.device, memory_format=image_format(self.device))
        model.load_state_dict(state)
        return model

    def _validate_and_write(self, average: Pix2Seq) -> None:
        counts = self._token_counts()
        losses = self.validate(counts, average)
        numbers = {f"val/{task}": loss for task, loss in losses.items()}
        numbers |= {f"val_{name}": value for name, value in token_numbers(counts).items()}
        self._make_folder_again()
        self.metrics.add(self.step, numbers)
        print("validation:", ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items()))
        total = sum(self.loss_weights[task] * loss for task, loss in losses.items())
        self.validated.append(total)
        described = self.class_names, self.text.describe(), self.skeleton.to_dict(), self.category_ids
        words = self.cfg.train.domain, self.cfg.train.licence
        weights = Weights(average, self.cfg, *described, self.step, decoding_of(self.cfg), *words)
        dtype = torch.float16 if self.cfg.train.store == "fp16" else torch.float32
        save_weights(self.folder / LAST, weights, dtype)
        if total < self.best:
            self.best = total
            save_weights(self.folder / BEST, weights, dtype)
        draw_curves(self.folder / METRICS, self.folder / CURVES)
        grids = self.examples.draw(weights, self.cfg, self.device)
        self.metrics.add_pictures(self.step, {f"val/{task}": grid for task, grid in grids.items()})

    def _evaluate(self) -> None:
        """All figures of the weights that were just written, on all processes; what hinders it ends no training."""
        weights = str(self.folder / LAST)
        cfg = replace(self.evaluated, weights=weights, device=str(self.device))
        try:
            shown = evaluate_weights(cfg, self.folder)
        except UserError as error:
            if distributed.rank() == 0:
                print(f"the evaluation failed, the training goes on: {error}")
            return
        if shown:
            self.metrics.add_evaluation(shown)


def train(cfg: CFG) -> None:
    """Train as `cfg` says; results are in its run folder. Ends the program if a signal stopped it."""
    cfg = resume.after_restart(cfg)
    with failures(cfg):
        trainer = Trainer(cfg)
        try:
            trainer.run()
        finally:
            trainer.close()
    if distributed.rank() == 0 and not trainer.stopped_by:
        print(f"wrote {trainer.folder}: {BEST}, {LAST}, {METRICS}, {CURVES}")
    distributed.stop()
    if trainer.stopped_by:
        raise SystemExit(128 + trainer.stopped_by)
