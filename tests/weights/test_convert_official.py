"""Official checkpoints are converted to weights files, completely or not at all."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.command_line import parse_args
from pix2seq.config import PRESETS, InferCFG
from pix2seq.errors import UserError
from pix2seq.infer.load import load_predictor
from pix2seq.infer.predictor import Predictor
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS
from pix2seq.weights.conversion import convert, read_class_names
from pix2seq.weights.convert_official import main
from pix2seq.weights.official_names import place
from pix2seq.weights.official_settings import PUBLISHED, official_cfg
from pix2seq.weights.official_tensors import Source, check_fit, empty_model, find_sources
from pix2seq.weights.tf_checkpoint import Variable, find_checkpoint, open_checkpoint
from tests.weights.bundle_writer import write_bundle, write_checkpoint
from tests.weights.official_vit import Sizes, vit_arrays

SCRIPT = ROOT / "weights" / "convert_official.py"
OFFICIAL = [("resnet50", "resnet"), ("resnet50-c4", "resnet-c"), ("vit-b", "vit-b"), ("vit-l", "vit-l")]
Shapes = dict[str, tuple[int, ...]]


def without_affixes(key: str) -> str:
    """The path in a checkpoint's key."""
    return key.removeprefix("model/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")


def sources_of(shapes: Shapes) -> dict[str, Source]:
    return find_sources([Variable(path, tuple(shape), (path,)) for path, shape in shapes.items()])


def settings_of(sources: dict[str, Source], image_size: int | None = 640, **options) -> config.CFG:
    return official_cfg({name: source.variable.shape for name, source in sources.items()}, image_size, **options)


@pytest.fixture
def listing(reference_path: Callable) -> Callable[[str], tuple[Shapes, dict]]:
    """Load the variables of a published architecture as path → shape, and the whole content of its file."""

    def load(name: str) -> tuple[Shapes, dict]:
        content = json.loads(reference_path(f"real_config_variables/{name}.json").read_text(encoding="utf-8"))
        return {without_affixes(entry["key"]): entry["shape"] for entry in content["variables"]}, content

    return load


@pytest.mark.parametrize(("preset", "name"), OFFICIAL)
def test_every_variable_of_a_published_model_is_converted(listing: Callable, preset: str, name: str):
    shapes, content = listing(name)
    sources = sources_of(shapes)
    cfg = settings_of(sources)
    assert cfg == config.replace(PRESETS[preset], task="detection", **PUBLISHED)
    model = empty_model(cfg)
    check_fit(sources, model.state_dict())
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == content["n_params_trainable"]
    statistics = sum(tensor.numel() for name, tensor in model.state_dict().items() if "running_" in name)
    assert trained + statistics == content["n_params_all"]


@pytest.mark.parametrize("size", [1024, 1333])
def test_the_image_size_changes_no_tensor(listing: Callable, size: int):
    sources = sources_of(listing("vit-b")[0])
    cfg = settings_of(sources, image_size=size)
    assert (cfg.preset, cfg.model.image_size) == ("vit-b", size)
    check_fit(sources, empty_model(cfg).state_dict())


def test_a_model_with_text_has_all_tasks(listing: Callable):
    shapes, _ = listing("vit-b")
    shapes |= {
        "decoder/ar_decoder.Stoken_embedding": (35000, 512),
        "decoder/ar_decoder.Soutp_bias": (35000,),
    }
    cfg = settings_of(sources_of(shapes))
    assert (cfg.preset, cfg.tasks, cfg.model.vocab_size) == ("vit-b", tuple(TASKS), 35000)


def test_other_dimensions_are_no_preset(listing: Callable):
    shapes, _ = listing("vit-b")
    cfg = settings_of(sources_of({path: shape for path, shape in shapes.items() if "enc_layers/11/" not in path}))
    assert (cfg.preset, cfg.model.encoder_layers) == ("", 11)


@pytest.mark.parametrize(
    ("attribute", "keras"),
    [
        ("decoder/token_embedding", "decoder/ar_decoder.Stoken_embedding"),
        ("decoder/seq_pos_emb", "decoder/ar_decoder.Sseq_pos_embedding"),
        ("decoder/outp_bias", "decoder/ar_decoder.Soutp_bias"),
        ("decoder/outp_token_embedding", "decoder/ar_decoder.Soutp_token_embedding"),
        ("encoder/cls_token_emb", "encoder/vit.Scls_token_embedding"),
        ("encoder/vis_pos_emb", "encoder/rest.Svis_pos_embedding"),
        ("vis_pos_emb", "proj.Svis_pos_embedding"),
    ],
)
def test_both_names_of_a_weight_lead_to_the_same_tensor(attribute: str, keras: str):
    assert place(attribute) == place(keras) is not None


def test_a_variable_that_the_table_lacks_is_named(listing: Callable):
    shapes, _ = listing("vit-b")
    with pytest.raises(UserError, match=r"1 variables are not .* encoder/stem_scale"):
        sources_of(shapes | {"encoder/stem_scale": (768,)})


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("proj_ln/gamma", None, "there is no variable for projection.norm.weight"),
        ("proj_ln/gamma", (511,), r"proj_ln/gamma of \[511\] does not fill projection.norm.weight of \[512\]"),
        (
            "decoder/decoder/dec_layers/2/self_mha/_key_dense/kernel",
            (512, 512),
            "dec_layers/2/self_mha/_key_dense/kernel",
        ),
        (
            "encoder/resnet/initial_conv_relu_max_pool/0/conv2d/kernel",
            (7, 7, 3, 64),
            "conv2d/kernel is not part of the model",
        ),
        ("encoder/stem_conv/kernel", (14, 14, 3, 768), "does not fill encoder.stem.0.weight"),
        ("encoder/stem_conv/kernel", None, "no variable for encoder.stem.0.weight"),
        ("proj_mlp/mlp_layers/0/dense1/kernel", None, "--projection"),
    ],
)
def test_variables_that_do_not_fit_are_named(listing: Callable, path: str, shape: tuple[int, ...] | None, message: str):
    shapes, _ = listing("vit-b")
    shapes.pop(path, None)
    with pytest.raises(UserError, match=message):
        sources = sources_of(shapes | ({path: shape} if shape else {}))
        cfg = settings_of(sources)
        own = empty_model(PRESETS["vit-b"] if "resnet" in path else cfg).state_dict()
        check_fit(sources, own)


@pytest.mark.parametrize("name", ["vit-b", "resnet-c"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_of_a_variable_fits_or_is_refused(listing: Callable, name: str, data: st.DataObject):
    """Whatever is 0, enormous, or has other dimensions than it should."""
    shapes, _ = listing(name)
    shapes |= {"encoder/vis_pos_emb": (1600, 768)}
    sides = st.one_of(st.integers(0, 4), st.sampled_from([512, 768, 3000, 2**31, 2**62]))
    shapes[data.draw(st.sampled_from(sorted(shapes)))] = tuple(data.draw(st.lists(sides, max_size=5)))
    with contextlib.suppress(UserError):
        sources = sources_of(shapes)
        settings_of(sources)
        assert sum(source.fits(torch.Size([768])) for source in sources.values()) < len(sources)


def test_a_converted_file_has_each_variable_of_the_checkpoint(converted: Weights, reference_model: Path):
    bundle = open_checkpoint(reference_model / "ckpt").bundle
    state = converted.model.state_dict()
    count = 0
    for key in bundle.entries:
        if key.startswith("model/") and ".OPTIMIZER_SLOT" not in key:
            found = place(without_affixes(key))
            # Key biases in particular cannot be checked by a model's predictions: softmax is invariant to them.
            np.testing.assert_array_equal(np.sort(state[found.name], axis=None), np.sort(bundle.read(key), axis=None))
            count += 1
    assert count == len([name for name in state if "num_batches" not in name])


def test_the_file_describes_an_official_model(converted: Weights, reference_model: Path):
    official = json.loads((reference_model / "config.json").read_text(encoding="utf-8"))["model"]
    cfg = converted.cfg
    assert (cfg.preset, cfg.tasks[0], cfg.model.image_size) == ("", "detection", max(official["image_size"]))
    assert (cfg.model.normalize, cfg.model.pad_value, cfg.model.full_detection) == (False, 0.3, True)
    found = cfg.model.encoder_width, cfg.model.encoder_heads, cfg.model.decoder_width, cfg.model.vocab_size
    assert found == tuple(official[name] for name in ("dim_att", "num_heads", "dim_att_dec", "vocab_size"))
    assert converted.class_names[90] == "toothbrush" and len(converted.class_names) == 80


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("bf16", 8e-3)])
def test_half_precision_halves_the_file(checkpoint_folder: Path, tmp_path: Path, dtype: str, tolerance: float):
    whole, half = (tmp_path / f"{name}.safetensors" for name in ("fp32", dtype))
    full = convert(checkpoint_folder, whole).model.state_dict()
    convert(checkpoint_folder / "ckpt-402", half, dtype=dtype)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for name, tensor in load_weights(half).model.state_dict().items():
        torch.testing.assert_close(tensor, full[name], atol=1e-6, rtol=tolerance)


def test_options_of_the_official_models(tiny_arrays: dict, tmp_path: Path):
    rng = np.random.default_rng(1)
    extra = {
        "encoder/cls_token_emb": (1, 48),
        "encoder/vis_pos_emb": (36, 48),
        "vis_pos_emb": (36, 32),
        "decoder/outp_token_embedding": (3000, 32),
    }
    arrays = tiny_arrays | {path: rng.normal(size=shape).astype(np.float32) for path, shape in extra.items()}
    arrays["decoder/inp_token_embedding"] = arrays.pop("decoder/token_embedding")
    del arrays["decoder/seq_pos_emb"], arrays["decoder/outp_bias"]
    write_checkpoint(tmp_path / "ckpt-7", arrays)
    convert(tmp_path, tmp_path / "out.safetensors")
    weights = load_weights(tmp_path / "out.safetensors")
    model, state = weights.cfg.model, weights.model.state_dict()
    assert (model.class_token, model.encoder_positions, model.decoder_positions) == (True, "learned", "sincos")
    assert (model.shared_embedding, model.image_size, model.max_tokens) == (False, 6 * 16, 512)
    assert not state["decoder.bias"].any()
    for name, path in (
        ("encoder.class_token", "encoder/cls_token_emb"),
        ("encoder.positions.weight", "encoder/vis_pos_emb"),
        ("projection.positions.weight", "vis_pos_emb"),
        ("decoder.embedding.weight", "decoder/inp_token_embedding"),
        ("decoder.output.weight", "decoder/outp_token_embedding"),
    ):
        np.testing.assert_array_equal(state[name].numpy().squeeze(), arrays[path].squeeze())


@pytest.mark.parametrize("projection", ["linear", "linear_p"])
def test_a_projection_without_mlp_must_be_named(tiny_arrays: dict, tmp_path: Path, projection: str):
    write_checkpoint(
        tmp_path / "ckpt-7", {path: array for path, array in tiny_arrays.items() if "proj_mlp" not in path}
    )
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=r"--projection"):
        convert(tmp_path, out, image_size=64)
    convert(tmp_path, out, image_size=64, projection=projection)
    assert load_weights(out).cfg.model.projection == projection
    config_json(tmp_path, dec_proj_mode=projection)
    assert convert(tmp_path, out).cfg.model.projection == projection


def test_a_projection_that_the_checkpoint_does_not_have_is_refused(damaged: Path):
    with pytest.raises(UserError, match=r"projection is mlp, not linear; leave out --projection"):
        convert(damaged, damaged.parent / "out.safetensors", projection="linear")


@pytest.mark.parametrize("size", ["64x96", "64,96", "wide"])
def test_a_canvas_of_two_sides_is_refused(damaged: Path, size: str):
    with pytest.raises(UserError, match=f"--image-size expects one number, .* square canvas, got {size}"):
        main([str(damaged), str(damaged.parent / "out.safetensors"), "--image-size", size])


@pytest.mark.parametrize("size", [-640, 0, 15])
def test_a_canvas_without_a_whole_patch_is_refused(damaged: Path, size: int):
    limits = "at least 16 for patches" if size > 0 else "a whole number from 1 to 2048"
    with pytest.raises(UserError, match=f"--image-size expects {limits}, got {size}"):
        convert(damaged, damaged.parent / "out.safetensors", image_size=size)


# Sizes that are not in the tensors


def config_json(folder: Path, **model) -> None:
    content = {
        "model": {"image_size": [96, 96], "vocab_size": 3000} | model,
        "task": {"top_p": 0.4, "temperature": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def test_the_canvas_is_never_guessed(tiny_arrays: dict, tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", tiny_arrays)
    with pytest.raises(UserError, match=r"does not tell its canvas.*name its side in pixels with --image-size"):
        convert(tmp_path, tmp_path / "out.safetensors")


@pytest.mark.parametrize(("name", "size"), [("vit_b_1024x1024", 1024), ("vit_b_640x640_b256_s400k", 640)])
def test_the_folder_s_name_tells_the_canvas(tiny_arrays: dict, tmp_path: Path, name: str, size: int):
    (tmp_path / name).mkdir()
    write_checkpoint(tmp_path / name / "ckpt-7", tiny_arrays)
    for source in (tmp_path / name, tmp_path / name / "ckpt-7"):
        assert convert(source, tmp_path / "out.safetensors").cfg.model.image_size == size


@pytest.mark.parametrize("size", [96, [96, 96]])
def test_config_json_wins_over_the_name_and_the_flag_over_both(damaged: Path, tmp_path: Path, size: object):
    config_json(damaged, image_size=size)
    out = damaged / "out.safetensors"
    assert convert(damaged, out).cfg.model.image_size == 96
    assert convert(damaged, out, image_size=64).cfg.model.image_size == 64


@pytest.mark.parametrize(("top_k", "nucleus"), [(0, 0.4), (1, 0.0)])
def test_config_json_tells_the_number_of_objects_and_the_decoding(damaged: Path, top_k: int, nucleus: float):
    task = {"top_p": 0.4, "top_k": top_k, "temperature": 0.7, "max_instances_per_image_test": 25}
    (damaged / "config.json").write_text(json.dumps({"model": {"image_size": 640}, "task": task}), encoding="utf-8")
    convert(damaged, damaged / "out.safetensors")
    weights = load_weights(damaged / "out.safetensors")
    chosen = config.with_decoding(config.CFG(), weights.decoding).infer
    assert (weights.cfg.model.max_objects, chosen.detection_top_p, chosen.temperature) == (25, nucleus, 0.7)


def test_config_json_may_tell_each_task_s_decoding(damaged: Path, capsys: pytest.CaptureFixture):
    tasks = [
        {"name": "object_detection", "top_p": 0.3, "temperature": 0.9},
        {"name": "instance_segmentation", "top_p": 0.7, "ensemble_num_samples": 4, "ensemble_threshold": 0.25}
        | {"max_points_per_object": 64, "temperature": 0.9},
        {
            "name": "keypoint_detection",
            "top_p": 0.2,
            "points_score_weight": 0.5,
            "eval_suppress_invisible_token": False,
        },
        {"name": "captioning", "top_p": 1.0, "temperature": 0.5},
    ]
    for key, other in (("task", 0.9), ("tasks", 0.6)):
        content = {"model": {"image_size": [640, 640]}, key: [*tasks[:2], tasks[2] | {"temperature": other}, tasks[3]]}
        (damaged / "config.json").write_text(json.dumps(content), encoding="utf-8")
        decoding = convert(damaged, damaged / "out.safetensors").decoding
        told = {"detection_top_p": 0.3, "top_p": 0.7, "num_samples": 4, "mask_threshold": 0.25, "mask_tokens": 128}
        told |= {"keypoint_top_p": 0.2, "points_score_weight": 0.5, "suppress_invisible": False}
        assert decoding == PUBLISHED | told | {"temperature": 0.9}
        notes = capsys.readouterr().err
        assert ("several temperatures (object_detection 0.9, instance_segmentation 0.9" in notes) == (other != 0.9)


def test_a_converted_file_decodes_as_published_unless_told_otherwise(converted: Weights, tmp_path: Path):
    path = tmp_path / "official.safetensors"
    save_weights(path, converted)
    assert converted.cfg.model.pixels == "float32"
    settings = load_predictor(config.CFG(device="cpu", infer=InferCFG(weights=str(path)))).settings
    published = {name: getattr(settings, name) for name in PUBLISHED}
    # Figures of Google's multi-task configuration; captions are greedy on its authors' advice.
    assert published == {
        **{"temperature": 1, "detection_top_p": 0.4, "read_drawn_class": True, "coord_window": 0},
        **{"num_samples": 8, "top_k": 0, "top_p": 0.8, "mask_threshold": 0.5, "mask_tokens": 256},
        **{"keypoint_top_p": 0.1, "suppress_invisible": True, "points_score_weight": 1, "caption_top_p": 0},
    }
    others = {
        **{"temperature": 0.5, "detection_top_p": 0.0, "read_drawn_class": False, "coord_window": 3},
        **{"num_samples": 1, "top_k": 5, "top_p": 0.5, "mask_threshold": 0.25, "mask_tokens": 0},
        **{"keypoint_top_p": 0.0, "suppress_invisible": False, "points_score_weight": 0.5, "caption_top_p": 0.9},
    }
    flags = [f"{config.flag(name)}={value}" for name, value in others.items() if not isinstance(value, bool)]
    flags += [f"--no-{name.replace('_', '-')}" for name, value in others.items() if value is False]
    chosen = load_predictor(parse_args([*flags, "--device", "cpu", "--weights", str(path)])).settings
    assert {name: getattr(chosen, name) for name in PUBLISHED} == others


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"coord_vocab_shift": 2000}, r"has coord_vocab_shift 2000, not 1000: its token ids mean something else"),
        ({"vocab_size": 3200}, r"has 3000 token ids, its config.json says 3200"),
        ({"image_size": "wide"}, r"config.json cannot be read: expected .*, in model.image_size; correct it"),
        ({"image_size": [0, 64]}, r"config.json cannot be read: expected .*, in model.image_size"),
        ({"image_size": 1e999}, r"config.json cannot be read"),
        ({"image_size": [64, 96]}, r"canvases of 64 x 96 pixels.*--image-size 96 converts it"),
    ],
)
def test_a_config_json_that_does_not_fit_is_refused(damaged: Path, model: dict, message: str):
    config_json(damaged, **model)
    with pytest.raises(UserError, match=message):
        convert(damaged, damaged.parent / "out.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}', "<html>", "[" * 100_000, '{"model": {}, "task": 3}'])
def test_a_file_that_is_no_config_json_is_refused(damaged: Path, text: str):
    (damaged / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json .*correct it, or take it away.*--image-size"):
        convert(damaged, damaged.parent / "out.safetensors")


# Checkpoints of other sizes than the published ones


def test_encoder_and_decoder_may_have_other_mlps(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", vit_arrays(Sizes(ratio=2, decoder_ratio=3)))
    model = convert(tmp_path, tmp_path / "out.safetensors", image_size=64).cfg.model
    assert (model.mlp_ratio, model.decoder_mlp_ratio) == (2, 3)
    state = load_weights(tmp_path / "out.safetensors").model.state_dict()
    rows = {
        name: len(state[f"{name}.mlp.up.weight"]) for name in ("encoder.layers.0", "projection", "decoder.layers.1")
    }
    assert rows == {"encoder.layers.0": 2 * 48, "projection": 2 * 32, "decoder.layers.1": 3 * 32}


def test_a_vocabulary_without_text_may_be_smaller(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", vit_arrays(Sizes(vocab=2100)))
    weights = convert(tmp_path, tmp_path / "out.safetensors", image_size=64)
    assert (weights.cfg.model.vocab_size, weights.cfg.tasks) == (2100, ("detection",))
    predictor = Predictor.from_weights(
        load_weights(tmp_path / "out.safetensors"), TASKS, InferCFG(), torch.device("cpu")
    )
    found = predictor.predict("detection", [np.zeros((40, 64, 3), np.uint8)])[0]
    assert len(found) <= weights.cfg.model.max_objects


def test_a_vocabulary_without_coordinates_is_refused(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", vit_arrays(Sizes(vocab=1900)))
    with pytest.raises(UserError, match="has 1900 token ids; coordinates end at 2000"):
        convert(tmp_path, tmp_path / "out.safetensors", image_size=64)


@torch.no_grad()
def test_learned_positions_may_be_those_of_a_wide_canvas(tmp_path: Path):
    arrays = vit_arrays(Sizes(grid=(4, 6)))
    write_checkpoint(tmp_path / "ckpt-7", arrays)
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=r"24 learned positions, which are not 4 rows of 4; name the config.json"):
        convert(tmp_path, out, image_size=96)
    config_json(tmp_path, image_size=[64, 96])
    convert(tmp_path, out, image_size=96)
    model = load_weights(out).model
    positions = model.encoder.positions
    assert (model.cfg.positions_grid, model.cfg.image_size) == ("4x6", 96)
    assert torch.equal(positions.code((4, 6), model.device), torch.from_numpy(arrays["encoder/vis_pos_emb"]))
    wide, square = (model.encode(torch.zeros(1, 3, *size)) for size in ((64, 96), (96, 96)))
    assert (wide.shape[1], square.shape[1]) == (24, 36)


def test_captions_need_their_text_model(tiny_arrays: dict, text_model_path: Path, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    more = {"decoder/token_embedding": (3100, 32), "decoder/outp_bias": (3100,)}
    write_checkpoint(
        tmp_path / "ckpt-7", tiny_arrays | {path: np.zeros(shape, np.float32) for path, shape in more.items()}
    )
    convert(tmp_path, out, image_size=64)
    assert load_weights(out).cfg.tasks == ("detection", "segmentation", "keypoint")
    convert(tmp_path, out, image_size=64, text_model=text_model_path)
    weights = load_weights(out)
    assert weights.cfg.tasks == tuple(TASKS)
    assert "sentencepiece" in weights.text


def test_a_text_model_of_another_vocabulary_is_refused(checkpoint_folder: Path, text_model_path: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"token ids for 0 word pieces"):
        convert(checkpoint_folder, tmp_path / "out.safetensors", text_model=text_model_path)


def test_numbers_beyond_half_precision_are_named(tiny_arrays: dict, tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", tiny_arrays | {"proj_ln/beta": np.full(32, 1e5, np.float32)})
    with pytest.raises(UserError, match=r"proj_ln/beta.* has numbers that torch.float16 cannot hold"):
        convert(tmp_path, tmp_path / "out.safetensors", image_size=64, dtype="fp16")


def test_the_checkpoint_that_the_state_file_names_is_used(tmp_path: Path):
    for number in (9, 10, 11):
        (tmp_path / f"ckpt-{number}.index").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "ckpt-11"
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/elsewhere/ckpt-10"\nall_model_checkpoint_paths: "ckpt-9"\n', encoding="utf-8"
    )
    assert find_checkpoint(tmp_path) == tmp_path / "ckpt-10"
    assert find_checkpoint(tmp_path / "ckpt-9") == find_checkpoint(tmp_path / "ckpt-9.index") == tmp_path / "ckpt-9"


@pytest.fixture
def damaged(checkpoint_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a checkpoint that a test may damage; after the test nothing else may be beside it."""
    folder = tmp_path / checkpoint_folder.name
    shutil.copytree(checkpoint_folder, folder, copy_function=shutil.copyfile)
    yield folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
def test_a_truncated_file_is_refused(damaged: Path, suffix: str, share: float):
    path = damaged / f"ckpt-402.{suffix}"
    with path.open("r+b") as file:
        file.truncate(int(share * path.stat().st_size))
    with pytest.raises(UserError, match=r"ckpt-402.* is cut.*download it again"):
        convert(damaged, damaged.parent / "out.safetensors")


def test_a_missing_data_file_is_named(damaged: Path):
    (damaged / "ckpt-402.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"ckpt-402.data-00000-of-00001"):
        convert(damaged, damaged.parent / "out.safetensors")


def test_changed_bytes_are_noticed(damaged: Path):
    path = damaged / "ckpt-402.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[50_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"download it again"):
        convert(damaged, damaged.parent / "out.safetensors")


def test_a_full_disk_leaves_nothing_behind(damaged: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"out.safetensors cannot be written"):
            convert(damaged, damaged.parent / "out.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_another_model_is_refused(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt-7", {"backbone/conv/kernel": np.zeros((3, 3, 3, 8), np.float32)})
    with pytest.raises(UserError, match=r"official Pix2Seq model.*backbone/conv/kernel"):
        convert(tmp_path, tmp_path / "out.safetensors", image_size=64)
    write_checkpoint(tmp_path / "ckpt-8", {}, {"net": np.ones(1, np.float32)})
    with pytest.raises(UserError, match=r"holds no `model`, only net"):
        convert(tmp_path, tmp_path / "out.safetensors", image_size=64)
    write_bundle(tmp_path / "ckpt-9", {"w": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"is no object checkpoint"):
        convert(tmp_path, tmp_path / "out.safetensors", image_size=64)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["", "ckpt-3", "nowhere"])
def test_a_place_without_checkpoint_is_refused_at_once(tmp_path: Path, name: str):
    command = [sys.executable, SCRIPT, tmp_path / name, tmp_path / "out.safetensors"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: there is no checkpoint") and run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(checkpoint_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere for out.safetensors"):
        convert(checkpoint_folder, tmp_path / "nowhere" / "out.safetensors")


def test_help_needs_no_pytorch():
    code = (
        "import sys, pix2seq.weights.convert_official as c; "
        "print({'torch', 'safetensors', 'numpy'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "{'numpy'}\n"


def test_the_script_reports_what_it_wrote(checkpoint_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    main([str(checkpoint_folder), str(tmp_path / "out.safetensors"), "--image-size", "1024", "--classes", "objects365"])
    printed = capfd.readouterr()
    assert printed.out == "no preset, 0.3 M parameters, 1024 px: detection\n"
    assert printed.err == ""
    weights = load_weights(tmp_path / "out.safetensors")
    assert (weights.cfg.model.image_size, len(weights.class_names)) == (1024, 365)


def test_class_names(tmp_path: Path):
    coco = read_class_names("coco")
    assert (len(coco), min(coco), max(coco), coco[13]) == (80, 1, 90, "stop sign")
    file = tmp_path / "names.json"
    file.write_text('{"3": "kettle"}', encoding="utf-8")
    assert read_class_names(str(file)) == {3: "kettle"}
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "missing.json", tmp_path / "pipe.json"):
        with pytest.raises(UserError, match=path.name):
            read_class_names(str(path))
    for text in ('["kettle"]', "[" * 100_000, '{"3": ' * 100_000, '{"-1": "kettle"}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"names\.json .*; write a JSON object"):
            read_class_names(str(file))
