"""Finetuning: classes and words keep their weights under new token ids; the rest is initialized and reported."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pix2seq import config
from pix2seq.command_line import TRAINING, parse_args
from pix2seq.config import CFG, decoding_of
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.train.engine import Trainer
from pix2seq.train.finetune import lacks_backbone, start_from, table

CLASSES = {1: "person", 3: "car", 18: "dog"}
WORDS = ["<unk>", "a", "dog"]


@pytest.fixture
def weights(tiny_model: Pix2Seq, tiny_model_cfg: CFG) -> Weights:
    return Weights(tiny_model, tiny_model_cfg, CLASSES, {"words": WORDS})


def started(weights: Weights, names: dict, words: list[str], **values) -> tuple[Pix2Seq, dict[str, torch.Tensor], dict]:
    """A finetuned model of changed settings, its state before, and the rows of the reported table by name."""
    model = Pix2Seq(config.replace(weights.cfg, **values).model).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = start_from(model, weights, names, WordVocabulary(words))
    return model, before, {what: (kept, new) for what, kept, new in rows}


@torch.no_grad()
def test_the_same_classes_and_words_give_the_same_model(weights: Weights):
    model, _, rows = started(weights, CLASSES, WORDS)
    images, tokens, index = torch.rand(1, 3, 64, 64), torch.tensor([[10, 1500, 101, 3001]]), torch.tensor([0])
    known = [*range(100), 101, 103, 118, *range(1000, 2000), 3000, 3001, 3002]
    found, expected = (each(images, tokens, index)[..., known] for each in (model, weights.model))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert rows["classes"] == ("3: person, car, dog", "0") and rows["words"] == ("3", "0")


def test_classes_and_words_are_found_by_name(weights: Weights):
    model, before, rows = started(weights, {1: "dog", 2: "cat", 3: "person"}, ["<unk>", "cat", "dog"])
    new, old = model.decoder.embedding.weight, weights.model.decoder.embedding.weight
    for token, source in ((101, 118), (103, 101), (3002, 3002), (0, 0), (41, 41), (1999, 1999)):
        assert torch.equal(new[token], old[source])
    for token in (102, 118, 3001, 3100):  # a new class, an id that is free now, a new word, a free one
        assert torch.equal(new[token], before["decoder.embedding.weight"][token])
    assert rows["classes"] == ("2: dog, person", "1: cat") and rows["words"] == ("2", "1")


def test_a_file_without_room_for_text_gives_its_other_rows(tiny_model_cfg: CFG):
    cfg = config.replace(tiny_model_cfg, vocab_size=2100)
    weights = Weights(Pix2Seq(cfg.model).eval(), cfg, CLASSES, {"words": ["<unk>"]})
    model, before, _ = started(weights, CLASSES, WORDS, vocab_size=3200)
    new, old = model.decoder.embedding.weight, weights.model.decoder.embedding.weight
    assert torch.equal(new[1000:2000], old[1000:2000]) and torch.equal(new[118], old[118])
    assert torch.equal(new[3000:], before["decoder.embedding.weight"][3000:])


def test_classes_are_found_by_voc_s_and_coco_s_names(weights: Weights):
    model, _, rows = started(weights, {4: "Car", 5: "sofa"}, ["<unk>"])
    assert torch.equal(model.decoder.embedding.weight[104], weights.model.decoder.embedding.weight[103])
    assert rows["classes"] == ("1: Car", "1: sofa")
    of_coco = dataclasses.replace(weights, class_names={9: "couch"})
    assert started(of_coco, {5: "sofa"}, ["<unk>"])[2]["classes"] == ("1: sofa", "0")


def test_the_bias_moves_with_its_class(weights: Weights):
    with torch.no_grad():
        weights.model.decoder.bias[118] = 5
    try:
        model, _, _ = started(weights, {7: "dog"}, ["<unk>"])
        assert model.decoder.bias[107] == 5 and model.decoder.bias[118] == 0
    finally:
        with torch.no_grad():
            weights.model.decoder.bias[118] = 0


def test_longer_sequences_keep_the_existing_positions(weights: Weights):
    model, before, rows = started(weights, CLASSES, WORDS, max_tokens=200)
    assert torch.equal(model.decoder.positions[:160], weights.model.decoder.positions)
    assert torch.equal(model.decoder.positions[160:], before["decoder.positions"][160:])
    assert rows["token positions"] == ("160", "40")


def test_a_larger_vocabulary_keeps_its_rows(weights: Weights):
    model, _, _ = started(weights, CLASSES, WORDS, vocab_size=3300)
    assert torch.equal(model.decoder.embedding.weight[1000:2000], weights.model.decoder.embedding.weight[1000:2000])


def test_other_widths_and_layers_are_named_with_their_shapes(weights: Weights):
    model, before, rows = started(weights, CLASSES, WORDS, decoder_layers=3, encoder_layers=0)
    assert "decoder.layers.2.norm_mlp.weight" in rows and "only in the file" in rows
    assert rows["projection.dense.weight"] == ("file has 32 × 32", "32 × 24")
    name = "decoder.layers.2.norm_mlp.weight"
    assert rows[name] == ("none", "32") and torch.equal(model.state_dict()[name], before[name])


def test_a_vit_s_positions_are_resampled_to_another_canvas(tiny_model_cfg: CFG):
    small = '{"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 16}'
    cfg = config.replace(tiny_model_cfg, backbone="deit3_small_patch16_384", backbone_kwargs=small, encoder_layers=0)
    weights = Weights(Pix2Seq(cfg.model), cfg, CLASSES, {"words": WORDS})
    name = "encoder.backbone.net.pos_embed"
    with torch.no_grad():
        weights.model.state_dict()[name].fill_(0.25)
    model, _, rows = started(weights, CLASSES, WORDS, image_size=96)
    assert name not in rows
    torch.testing.assert_close(model.state_dict()[name], torch.full((1, 36, 32), 0.25))


def test_the_table_has_a_heading_and_a_line_for_each_row():
    lines = table([("classes", "1: dog", "2: cat, cow")]).splitlines()
    assert len(lines) == 2 and "newly initialised" in lines[0] and lines[1].endswith("2: cat, cow")


# From the command line to a run


@pytest.fixture
def path(weights: Weights, tmp_path: Path) -> Path:
    save_weights(tmp_path / "start.safetensors", weights)
    return tmp_path / "start.safetensors"


def test_model_settings_come_from_the_file_unless_a_flag_sets_others(weights: Weights, path: Path):
    assert parse_args(["--start-from", str(path)]).model == weights.cfg.model
    changed = parse_args(["--start-from", str(path), "--max-tokens", "300"]).model
    assert changed == config.replace(weights.cfg, max_tokens=300).model


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes | None):
    file = tmp_path / "none.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="--start-from"):
        parse_args(["--start-from", str(file)])


def test_a_run_starts_from_a_file_and_reports_it(tiny_cfg: CFG, path: Path, capsys: pytest.CaptureFixture):
    trainer = Trainer(config.replace(tiny_cfg, start_from=str(path), task="detection"))
    given = load_weights(path).model.state_dict()
    own = trainer.model.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in own if name.startswith("encoder."))
    printed = capsys.readouterr().out
    assert "started from" in printed and "person, car" in printed and "stop sign" in printed


def test_written_weights_have_keypoints_and_category_ids(tiny_cfg: CFG):
    trainer = Trainer(tiny_cfg)
    trainer._validate_and_write(trainer.average)
    weights = load_weights(Path(tiny_cfg.train.run_dir) / "last.safetensors")
    assert weights.keypoints["names"][0] == "nose" and weights.keypoints["class_ids"] == (1,)
    assert weights.category_ids == {number: number for number in weights.class_names}


def test_decoding_settings_of_the_start_are_those_of_the_run_but_for_its_calibration(weights: Weights, path: Path):
    decoding = {"coord_window": 0, "end_threshold": 0.5, "calibration_slope": 0.5}
    save_weights(path, dataclasses.replace(weights, decoding=decoding))
    cfg = parse_args(["--start-from", str(path), "--end-threshold", "0.25"], None, TRAINING)
    assert (cfg.infer.coord_window, cfg.infer.end_threshold, cfg.infer.calibration_slope) == (0, 0.25, 1.0)
    assert decoding_of(cfg) == {"coord_window": 0, "end_threshold": 0.25}


def test_deeper_feature_maps_join_what_the_file_knows(weights: Weights):
    model, before, rows = started(weights, CLASSES, WORDS, backbone_levels=2)
    stem, known = model.encoder.stem[0].weight, weights.model.encoder.stem[0].weight
    assert torch.equal(stem[:, : known.shape[1]], known)
    assert torch.equal(stem[:, known.shape[1] :], before["encoder.stem.0.weight"][:, known.shape[1] :])
    assert rows["channels of the backbone"] == (str(known.shape[1]), str(stem.shape[1] - known.shape[1]))
    assert lacks_backbone(model, weights.model) and not lacks_backbone(weights.model, model)
