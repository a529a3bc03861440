"""What is tried before the first step: the longest batch, which changes nothing."""

import pytest
import torch

from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch
from pix2seq.tokenizers.vocabulary import max_length
from pix2seq.train.engine import Trainer
from pix2seq.train.preflight import try_longest_batch


def test_the_longest_batch_is_tried_and_changes_nothing(tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(tiny_cfg)
    tried: list[Batch] = []
    backward = trainer.backward
    monkeypatch.setattr(trainer, "backward", lambda batch: tried.append(batch) or backward(batch))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    try_longest_batch(trainer)
    lengths = {name: max_length(tokenizer) for name, tokenizer in trainer.tokenizers.by_task.items()}
    assert {name: part.tokens.shape[1] for name, part in tried[0].tasks.items()} == lengths
    assert all((part.weights == 1).all() for part in tried[0].tasks.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
