"""A training step on a GPU: a processor's loss and gradients, in every way of computing them, and one wait in it."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch
from pix2seq.errors import UserError
from pix2seq.models.joint_norm import join_statistics
from pix2seq.train import parallel
from pix2seq.train.engine import Trainer, train
from pix2seq.train.learner import Learner
from pix2seq.train.optimizer import Optimizers
from pix2seq.train.parallel import engine_of, shard, summing, whole

EXACT = dict(dropout=0.0, attention_dropout=0.0, drop_path=0.0, check_data=False, example_images=0)
WAYS = {
    "as shipped": {},
    "llama": {"transformer": "llama"},
    "recompute": {"recompute": True},
    "accumulate": {"accumulate": 2},
    "patches": {"backbone": "patches", "backbone_kwargs": "{}"},
    "official": {"backbone": "resnet50_official", "backbone_kwargs": '{"stages": 2, "width": 0.125}'},
}


@pytest.fixture
def make_trainer(tiny_model_cfg: CFG, scenes_root: Path, tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Make a run with some settings, about to take its first step: the same on every device."""
    made: list[Trainer] = []

    def make(device: torch.device, **values) -> Trainer:
        named = dict(data_root=str(scenes_root), run_dir=str(tmp_path / f"run{len(made)}"), device=str(device))
        made.append(Trainer(config.replace(tiny_model_cfg, **named, **{**EXACT, **values})))
        made[-1].begin_epoch(0)
        made[-1].model.train()
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def first_batch(trainer: Trainer) -> Batch:
    return next(iter(trainer.loader))


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(p.grad).cpu() for name, p in module.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float) -> None:
    """Up to a share of each gradient, or of a thousandth of all of them together: some are nothing but rounding."""
    assert found.keys() == expected.keys()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= share * (gradient.norm() + 1e-3 * total), name


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
def test_loss_and_gradients_are_those_of_a_processor(gpu: torch.device, make_trainer, values: dict):
    own, other = make_trainer(torch.device("cpu"), **values), make_trainer(gpu, **values)
    batch = first_batch(own)
    expected, found = own.backward(batch.to(own.device)), other.backward(batch.to(gpu))
    for name, loss in expected.items():
        torch.testing.assert_close(found[name].cpu(), loss, rtol=1e-4, atol=1e-5)
    assert_close(gradients(other.trained), gradients(own.trained), 1e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_in_bf16_learn_as_in_fp32(gpu: torch.device, make_trainer, optimizer: str):
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(gpu, precision=precision, optimizer=optimizer, ema_decay=0.99, warmup_steps=0)
        batch = first_batch(trainer).to(gpu)
        found = [trainer.train_step(batch, 2e-3) for _ in range(8)]
        assert all(torch.isfinite(norm) for _, norm in found)
        losses.append([sum(loss.item() for loss in each.values()) for each, _ in found])
    exact, narrow = losses
    assert narrow[0] == pytest.approx(exact[0], rel=0.02) and narrow[-1] == pytest.approx(exact[-1], rel=0.1)
    assert exact[-1] < exact[0]


@pytest.mark.parametrize("values", [{}, {"precision": "bf16", "optimizer": "muon", "recompute": True}], ids=str)
def test_a_step_waits_once(gpu: torch.device, make_trainer, values: dict, monkeypatch: pytest.MonkeyPatch):
    """For whether its loss and gradient are finite: torch raises where the host waits for the GPU elsewhere."""
    trainer = make_trainer(gpu, ema_decay=0.99, **values)
    batch = first_batch(trainer)
    assert batch.images.is_pinned()
    accept, asked = trainer.finite.accept, []

    def waiting(*arguments: object) -> bool:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        asked.append(accept(*arguments))
        torch.cuda.set_sync_debug_mode(mode)
        return asked[-1]

    monkeypatch.setattr(trainer.finite, "accept", waiting)
    trainer.train_step(batch.to(gpu), 1e-4)  # makes what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(batch.to(gpu), 1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert asked == [True, True]


def test_a_run_that_needs_more_memory_than_there_is_says_so(
    gpu: torch.device, tiny_model_cfg: CFG, scenes_root: Path, tmp_path: Path
):
    named = dict(data_root=str(scenes_root), run_dir=str(tmp_path / "run"), device=str(gpu), check_data=False)
    cfg = config.replace(tiny_model_cfg, **named, image_size=256, batch_size=12)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 40 * 2**20) / total, gpu)
    try:
        with pytest.raises(UserError, match=r"not enough memory for --batch-size 12 at --image-size 256 \(CUDA out of"):
            train(cfg)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)


# Engines for several processes, here with one


@pytest.fixture(scope="module")
def group(gpu: torch.device) -> Iterator[None]:
    """A process that has joined no other."""
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("way", ["ddp", "ddp in parts", "fsdp"])
def test_engines_compute_the_same_gradients(gpu, make_trainer, group, way: str, monkeypatch: pytest.MonkeyPatch):
    trainer = make_trainer(gpu, accumulate=2 if way == "ddp in parts" else 1)
    batch = first_batch(trainer).to(gpu)
    expected = trainer.backward(batch)
    model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)
    learner = Learner(model, copy.deepcopy(trainer.auxiliary_head), trainer.cfg.train, trainer.loss_weights)
    learner.zero_grad()
    if way == "fsdp":
        shard(learner, model, gpu)
        assert isinstance(model.decoder.bias, DTensor)
    monkeypatch.setattr(parallel, "distributed", SimpleNamespace(world_size=lambda: 2))
    engine, totals = engine_of(learner, way == "ddp in parts"), learner.totals(batch.parts, trainer.cfg.tasks)
    for part in batch.parts:
        with summing(engine, last=part is batch.parts[-1]):
            total, losses, _ = engine(part, totals)
            total.backward()
    if way != "ddp in parts":
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)
    assert_close(gradients(learner.parts), gradients(trainer.trained), 1e-2)
    optimizers = Optimizers(model, learner.head, trainer.cfg)
    norm = whole(nn.utils.clip_grad_norm_(learner.parameters(), 1.0))
    optimizers.step(1e-3)
    assert torch.isfinite(norm) and all(torch.isfinite(tensor).all() for tensor in whole(learner.state_dict()).values())


def test_batch_norms_are_joined(gpu: torch.device, make_trainer, group):
    net = make_trainer(gpu).model.encoder.backbone
    joined = copy.deepcopy(net)
    join_statistics(joined, gpu)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in joined.modules())
    images = torch.rand(4, 3, 64, 64, device=gpu)
    torch.testing.assert_close(joined.train()(images)[0], net.train()(images)[0], atol=1e-4, rtol=1e-3)


# torch.compile


@pytest.mark.slow
def test_compiled_steps_learn_the_same(gpu: torch.device, make_trainer):
    from torch._dynamo.utils import counters

    values = dict(task="detection", decoder_layers=1, batch_size=2, auxiliary_weight=0.0)
    plain, compiled = make_trainer(gpu, **values), make_trainer(gpu, **values, compile=True)
    graphs = []
    for batch in plain.loader:
        expected, found = (trainer.train_step(batch.to(gpu), 1e-4)[0] for trainer in (plain, compiled))
        graphs.append(counters["stats"]["unique_graphs"])
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    print(f"graphs after each step: {graphs}")
    assert 1 <= graphs[-1] < len(graphs)
