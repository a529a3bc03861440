"""A weights file describes itself, and a file that does not is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pix2seq.config import CFG, from_json, to_json
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights, write_metadata
from pix2seq.runtime.paths import ROOT, weights_path

NAMES = {1: "person", 18: "dog"}
TEXT = {"words": ["<unk>", "a", "dög"]}


@pytest.fixture
def path(tiny_model: Pix2Seq, tiny_model_cfg: CFG, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.safetensors"
    save_weights(file, Weights(tiny_model, tiny_model_cfg, NAMES, TEXT))
    return file


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - it is no dict


@torch.no_grad()
def test_a_loaded_model_gives_the_same_logits(tiny_model: Pix2Seq, path: Path):
    images, tokens, index = torch.rand(1, 3, 64, 64), torch.randint(0, 3200, (2, 9)), torch.tensor([0, 0])
    loaded = load_weights(path).model
    assert not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in tiny_model.state_dict().items())
    torch.testing.assert_close(loaded(images, tokens, index), tiny_model(images, tokens, index), atol=1e-4, rtol=0)


def test_settings_classes_and_text_come_from_the_file(tiny_model_cfg: CFG, path: Path):
    weights = load_weights(path)
    assert (weights.cfg, weights.class_names, weights.text) == (tiny_model_cfg, NAMES, TEXT)


def test_a_file_of_the_first_version_has_a_word_list(path: Path):
    tensors, metadata = contents(path)
    del metadata["text"]
    save_file(tensors, path, metadata | {"words": '["<unk>", "a"]'})
    assert load_weights(path).text == {"words": ["<unk>", "a"]}


def test_a_file_of_the_first_version_has_the_model_that_it_describes(tmp_path: Path):
    text = (ROOT / "tests" / "first_version_cfg.json").read_text(encoding="utf-8")
    model = Pix2Seq(from_json(text).model)
    described = {"format": "pix2seq-toolkit", "cfg": text, "class_names": '{"1": "person"}', "words": '["<unk>", "a"]'}
    save_file(model.state_dict(), tmp_path / "first.safetensors", described)
    weights = load_weights(tmp_path / "first.safetensors")
    assert (weights.cfg.model.max_objects, weights.class_names) == (33, {1: "person"})


def test_the_shipped_file_has_names_of_an_earlier_version_and_loads():
    assert load_weights(weights_path("scenes")).cfg.train.auxiliary_weight == 1.0


def test_metadata_can_be_read_without_the_toolkit(tiny_model_cfg: CFG, path: Path):
    _, metadata = contents(path)
    named = {"class_names", "text", "keypoints", "category_ids", "decoding", "domain", "licence"}
    assert set(metadata) == {"format", "cfg", "step"} | named
    assert from_json(metadata["cfg"]) == tiny_model_cfg


def test_decoding_settings_come_from_the_file(tiny_model: Pix2Seq, tiny_model_cfg: CFG, path: Path):
    decoding = {"end_threshold": 0.25, "coord_window": 0, "suppress_invisible": True}
    save_weights(path, Weights(tiny_model, tiny_model_cfg, NAMES, TEXT, decoding=decoding))
    assert load_weights(path).decoding == decoding


def test_a_file_without_decoding_settings_has_the_coordinate_window_of_its_model(path: Path):
    tensors, metadata = contents(path)
    old = json.loads(metadata["cfg"])
    del metadata["decoding"], old["infer"]["coord_window"]
    old["model"]["coord_window"] = 7
    save_file(tensors, path, metadata | {"cfg": json.dumps(old)})
    assert load_weights(path).decoding == {"coord_window": 7}


def test_other_settings_than_those_of_decoding_are_not_taken_from_a_file(path: Path):
    tensors, metadata = contents(path)
    save_file(tensors, path, metadata | {"decoding": '{"output_dir": "/", "invented_later": 3, "top_k": 5}'})
    assert load_weights(path).decoding == {"top_k": 5}


@pytest.mark.parametrize(("name", "value"), [("end_threshold", 2), ("top_k", 0.5), ("mask_threshold", "high")])
def test_a_decoding_setting_out_of_range_is_named(path: Path, name: str, value: object):
    tensors, metadata = contents(path)
    save_file(tensors, path, metadata | {"decoding": json.dumps({name: value})})
    with pytest.raises(UserError, match=rf"tiny\.safetensors.* {name} expects a .*number .*, got {value!r}"):
        load_weights(path)


def test_domain_and_licence_of_a_stranger_s_file_are_short_plain_text(path: Path):
    tensors, metadata = contents(path)
    domain = "photographs\n of \x1b[31mdogs\u202e" + "!" * 300
    save_file(tensors, path, metadata | {"domain": domain, "licence": "Apache 2.0"})
    weights = load_weights(path)
    assert weights.domain.startswith("photographs of [31mdogs!!!") and len(weights.domain) == 200
    assert weights.licence == "Apache 2.0"


def test_metadata_are_replaced_and_tensors_stay_byte_for_byte(path: Path):
    before, (_, metadata) = path.read_bytes(), contents(path)
    write_metadata(path, {"decoding": '{"top_k": 3}'})
    after, (_, changed) = path.read_bytes(), contents(path)
    assert changed == metadata | {"decoding": '{"top_k": 3}'} and load_weights(path).decoding == {"top_k": 3}
    starts = [8 + int.from_bytes(data[:8], "little") for data in (before, after)]
    assert before[starts[0] :] == after[starts[1] :] and starts[1] % 8 == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_metadata_that_cannot_be_replaced_leave_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="no space left"):
        write_metadata(path, {"decoding": "{}"})
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]


@torch.no_grad()
def test_half_precision_halves_the_file_and_hardly_moves_logits(tiny_model: Pix2Seq, tiny_model_cfg: CFG, path: Path):
    half = path.with_name("half.safetensors")
    save_weights(half, Weights(tiny_model, tiny_model_cfg, NAMES, TEXT), torch.float16)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    images, tokens, index = torch.rand(1, 3, 64, 64), torch.randint(0, 3200, (2, 9)), torch.tensor([0, 0])
    found = load_weights(half).model(images, tokens, index)
    torch.testing.assert_close(found, tiny_model(images, tokens, index), atol=0.05, rtol=0)


def test_nothing_unfinished_is_left(path: Path):
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no weights file .*none\.safetensors"):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N.", b"\xff" * 200])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a safetensors file|checkpoint of PyTorch"):
        load_weights(path)


def test_a_truncated_file_is_refused(path: Path):
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_file_is_refused(tmp_path: Path, metadata: dict | None):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(UserError, match="not written by this toolkit"):
        load_weights(path)


def test_a_tensor_of_another_shape_is_named(path: Path):
    tensors, metadata = contents(path)
    tensors["decoder.bias"] = torch.zeros(7)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=r"1 tensors differ, among them decoder\.bias"):
        load_weights(path)


def test_missing_and_unexpected_tensors_are_counted(path: Path):
    tensors, metadata = contents(path)
    tensors["invented"] = tensors.pop("decoder.bias")
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="2 tensors differ"):
        load_weights(path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"cfg": "{}"}, {"cfg": "no json"}, {"cfg": "[]"}, {"text": "{"}, {"class_names": "[]"}),
        *({"decoding": "["}, {"decoding": "[]"}, {"decoding": '{"end_threshold": NaN}'}),
    ],
)
def test_damaged_metadata_are_refused(tiny_model_cfg: CFG, path: Path, changes: dict[str, str]):
    tensors, metadata = contents(path)
    assert metadata["cfg"] == to_json(tiny_model_cfg)
    save_file(tensors, path, metadata | changes)
    with pytest.raises(UserError, match=r"tiny\.safetensors"):
        load_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_pytorch_is_named_as_one(tmp_path: Path, zipped: bool):
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"checkpoint of PyTorch, which is never loaded"):
        load_weights(tmp_path / "model.pt")
