"""A step is right on a GPU, without one: fake tensors raise where devices mix and where a shape depends on data, for
which a GPU would have to wait; and a compiler gets the whole of it as one graph."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch
from pix2seq.models import step
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.train.engine import Trainer
from pix2seq.train.learner import Learner
from pix2seq.train.optimizer import Optimizers

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True, scope="module")
def _torch_fakes_gpus() -> None:
    """Skip with an early torch, which asks for a driver even for fake tensors."""
    try:
        with FakeTensorMode() as mode:
            mode.from_tensor(torch.zeros(1)).to(CUDA)
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} has no fake GPU ({type(error).__name__})")


@pytest.fixture(scope="module")
def trainer(tiny_model_cfg: CFG, scenes_root, tmp_path_factory) -> Iterator[Trainer]:
    """A run of all tasks, about to take its first step."""
    folder = str(tmp_path_factory.mktemp("fake") / "run")
    found = Trainer(config.replace(tiny_model_cfg, data_root=str(scenes_root), run_dir=folder, check_data=False))
    found.begin_epoch(0)
    found.model.train()
    yield found
    found.close()


@pytest.fixture(scope="module")
def batch(trainer: Trainer) -> Batch:
    """Its first batch, with sequences of every task."""
    return next(iter(trainer.loader))


def learner_on(device: torch.device, cfg: CFG, trainer: Trainer) -> Learner:
    """What learns in the run, with a model as `cfg` says, and fake tensors instead of its own: call this in a mode."""
    with unset_fake_temporarily():
        learner = Learner(Pix2Seq(cfg.model), copy.deepcopy(trainer.auxiliary_head), cfg.train, trainer.loss_weights)
    for module in learner.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    own[name] = nn.Parameter(empty) if own is module._parameters else empty
    return learner.train()


def fake(batch: Batch, mode: FakeTensorMode, device: torch.device) -> Batch:
    """The batch on a device that need not be there."""
    return batch.map(lambda tensor: mode.from_tensor(tensor)).to(device)


@pytest.mark.parametrize("style", ["standard", "llama"])
def test_losses_on_a_gpu(trainer: Trainer, batch: Batch, style: str):
    with FakeTensorMode() as mode:
        learner = learner_on(CUDA, config.replace(trainer.cfg, transformer=style), trainer)
        on_gpu = fake(batch, mode, CUDA)
        totals = {name: torch.ones((), device=CUDA) for name in (*batch.tasks, "canvases", "places")}
        total, losses, logits = learner(on_gpu, totals)
        assert losses.keys() == trainer.loss_weights.keys()
        assert all(tensor.device.type == "cuda" for tensor in (total, logits, *losses.values()))


def test_gradients_have_no_shape_that_depends_on_data(trainer: Trainer, batch: Batch):
    """On the CPU: autograd asks a real driver for the streams of a GPU."""
    cpu = torch.device("cpu")
    with FakeTensorMode() as mode:
        learner = learner_on(cpu, trainer.cfg, trainer)
        totals = {name: torch.ones(()) for name in (*batch.tasks, "canvases", "places")}
        learner(fake(batch, mode, cpu), totals)[0].backward()
        assert all(p.grad is not None for p in learner.parts[0].decoder.parameters())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_updates_on_a_gpu(trainer: Trainer, optimizer: str):
    with FakeTensorMode():
        model, head = learner_on(CUDA, trainer.cfg, trainer).parts
        optimizers = Optimizers(model, head, config.replace(trainer.cfg, optimizer=optimizer))
        for _ in range(2):
            for parameter in (*model.parameters(), *head.parameters()):
                parameter.grad = torch.ones_like(parameter)
            assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).device.type == "cuda"
            optimizers.step(1e-3)


def test_a_step_of_decoding_on_a_gpu(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    """Which sequences share an image is found once, before the first step."""
    rows = step.Rows(torch.tensor([1, 0, 0]), 2)
    with FakeTensorMode() as mode, torch.no_grad():
        rows.image_index, rows.place = (mode.from_tensor(t).to(CUDA) for t in (rows.image_index, rows.place))
        monkeypatch.setattr(step, "Rows", lambda *_: rows)
        # A module of fake tensors can be neither copied nor moved.
        monkeypatch.setattr(step, "copy", SimpleNamespace(deepcopy=lambda norm: norm))
        monkeypatch.setattr(nn.LayerNorm, "to", lambda norm, _: norm)
        model = learner_on(CUDA, trainer.cfg, trainer).parts[0].eval()
        memory = model.encode(torch.rand(2, 3, 64, 64, device=CUDA))
        decoder = model.prepare()
        cache = decoder.start(memory, rows.image_index, 8)
        tokens = torch.ones(3, 3, dtype=torch.long, device=CUDA)
        for _ in range(3):
            logits = decoder.step(tokens, cache)
            tokens = logits.argmax(-1, keepdim=True)
        assert logits.device.type == "cuda" and logits.shape == (3, model.cfg.vocab_size)


@pytest.mark.slow
def test_a_step_compiles_as_one_graph(trainer: Trainer, batch: Batch):
    """With any lengths of sequences: the second batch is another graph of the same code."""
    learner, moved = trainer.learner, batch.to(trainer.device)
    totals = learner.totals([moved], trainer.cfg.tasks)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")

    def gradients(call: nn.Module) -> list[Tensor]:
        learner.zero_grad()
        call(moved, totals)[0].backward()
        return [p.grad.clone() for p in learner.parameters() if p.grad is not None]

    for found, expected in zip(gradients(compiled), gradients(learner), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
