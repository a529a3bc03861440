"""A captioning run with a SentencePiece model: its weights file is sufficient to predict captions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import load_weights
from pix2seq.tasks import TASKS
from pix2seq.token_ids import TEXT_SHIFT
from pix2seq.tokenizers.captioning import SentencePieceVocabulary
from pix2seq.train.engine import Trainer, train


def test_weights_of_a_run_with_a_text_model_caption_images(tiny_cfg: CFG, text_model_path: Path, tmp_path: Path):
    model = tmp_path / "mine.model"
    model.write_bytes(text_model_path.read_bytes())
    cfg = config.replace(tiny_cfg, task="captioning", text_model=str(model), steps_per_epoch=2)
    train(cfg)
    model.unlink()
    weights = load_weights(Path(cfg.train.run_dir) / "last.safetensors")
    predictor = Predictor.from_weights(weights, TASKS, cfg.infer, torch.device("cpu"))
    text = SentencePieceVocabulary.read(text_model_path)
    assert predictor.tokenizers["captioning"].text == text
    (captions,) = predictor.predict("captioning", [np.zeros((40, 60, 3), dtype=np.uint8)])
    assert isinstance(captions.best, str) and "⁇" not in captions.best


def test_token_ids_grow_to_a_larger_text_model(tiny_cfg: CFG, text_model_path: Path, capsys: pytest.CaptureFixture):
    cfg = config.replace(tiny_cfg, task="captioning", text_model=str(text_model_path), vocab_size=3010)
    pieces = len(SentencePieceVocabulary.read(text_model_path))
    grown = -(-(TEXT_SHIFT + pieces) // 64) * 64
    train(cfg)
    assert f"{grown} token ids, more than --vocab-size, for {pieces} words" in capsys.readouterr().out
    path = Path(cfg.train.run_dir) / "last.safetensors"
    weights = load_weights(path)
    assert weights.cfg.model.vocab_size == len(weights.model.decoder.embedding.weight) == grown > 3010
    again = Trainer(config.replace(cfg, resume=True))
    assert again.cfg == config.replace(cfg, resume=True, vocab_size=grown) and again.step == 3
    started = Trainer(config.replace(cfg, start_from=str(path), run_dir=f"{cfg.train.run_dir}_2"))
    rows = slice(TEXT_SHIFT, TEXT_SHIFT + pieces)
    assert torch.equal(started.model.decoder.embedding.weight[rows], weights.model.decoder.embedding.weight[rows])
