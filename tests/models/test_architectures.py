"""Variants of the encoder-decoder: official presets, llama style, positions, embeddings, freezing."""

import dataclasses
import json

import pytest
import torch

from pix2seq.config import CFG, PRESETS, ModelCFG, replace
from pix2seq.errors import UserError
from pix2seq.models.decoder import Rows
from pix2seq.models.encoders import GridPositions
from pix2seq.models.layers import Attention, LayerCFG, RMSNorm, rotary_2d, rotate
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.resnet import BatchNorm, ResNet

IMAGE_INDEX = torch.tensor([1, 0, 1, 1])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(1, 3200, (4, 10), generator=torch.Generator().manual_seed(0))


def patches(cfg: CFG, **values) -> ModelCFG:
    return dataclasses.replace(cfg.model, backbone="patches", backbone_kwargs="{}", encoder_layers=2, **values)


# The official presets


@pytest.mark.parametrize(
    "name, parameters",  # n_params_trainable of the official listings; published as 36.6, 84.7, 115.2 and 341.2 M
    [("resnet50", 36_587_768), ("resnet50-c4", 84_697_592), ("vit-b", 115_169_976), ("vit-l", 341_161_912)],
)
def test_official_presets_have_the_official_number_of_parameters(name: str, parameters: int):
    with torch.device("meta"):
        model = Pix2Seq(PRESETS[name].model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "kwargs, height, width, grid",
    [({}, 96, 160, (3, 5)), ({"stages": 3}, 65, 112, (5, 7)), ({"stages": 3}, 63, 64, (4, 4))],
    ids=["stride 32", "odd height", "odd stem"],
)
@torch.no_grad()
def test_resnet_grids_are_rounded_up(kwargs: dict, height: int, width: int, grid: tuple[int, int]):
    features = ResNet(width=0.125, **kwargs).eval()(torch.rand(1, 3, height, width))
    assert features.shape[2:] == grid


def test_patches_are_the_patch_convolution(tiny_model_cfg: CFG, images):
    model = Pix2Seq(patches(tiny_model_cfg))
    weight = model.encoder.stem[0].weight.unflatten(1, (16, 16, 3)).permute(0, 3, 1, 2)
    expected = torch.conv2d(images, weight, model.encoder.stem[0].bias, stride=16).flatten(2).transpose(1, 2)
    found = model.encoder.stem[0](model.encoder.backbone(images)[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_patches_beyond_the_last_whole_one_are_left_out(tiny_model_cfg: CFG):
    model = Pix2Seq(patches(tiny_model_cfg)).eval()
    assert model.encode(torch.rand(1, 3, 70, 95)).shape[1] == 4 * 5


def test_running_variance_is_biased():
    norm = BatchNorm(2).train()
    x = torch.randn(2, 2, 3, 1) * 5
    norm(x)
    biased = x.transpose(0, 1).flatten(1).var(1, unbiased=False)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * biased)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.transpose(0, 1).flatten(1).mean(1))


def test_official_attention_starts_with_keras_fans(tiny_model_cfg: CFG):
    model = Pix2Seq(patches(tiny_model_cfg, init="official"))
    attention = model.decoder.layers[0].cross_attention
    limit = (6 / (32 * (2 + 16))) ** 0.5  # width 32, 2 heads of 16 channels
    for linear in (attention.query, attention.key, attention.value):
        assert 0.9 * limit < linear.weight.abs().max() <= limit
    assert attention.out.weight.abs().max() <= (6 / (2 * (16 + 32))) ** 0.5


# Llama style


def test_rms_norms_are_taken_in_full_precision():
    x, norm = torch.randn(4, 32), RMSNorm(32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(x.bfloat16()), norm(x.bfloat16().float()), atol=0, rtol=0)


@pytest.mark.parametrize("backbone", ["patches", "resnet18"])
@torch.no_grad()
def test_llama_cached_decoding_equals_uncached(tiny_model_cfg: CFG, images, tokens, backbone: str):
    llama = replace(tiny_model_cfg, transformer="llama", class_token=True)
    cfg = patches(llama) if backbone == "patches" else llama.model
    model = Pix2Seq(cfg).eval()
    expected = model(images, tokens, IMAGE_INDEX)
    decoder = model.prepare()
    cache = decoder.start(model.encode(images), IMAGE_INDEX, tokens.shape[1])
    steps = [tokens[:, :3], *tokens.split(1, dim=1)[3:]]
    logits = torch.stack([decoder.step(step, cache) for step in steps], dim=1)
    torch.testing.assert_close(logits, expected[:, 2:], atol=1e-4, rtol=0)


def test_llama_has_no_biases_but_the_output_bias_and_as_many_weights(tiny_model_cfg: CFG):
    size = {"encoder_width": 48, "decoder_width": 48, "mlp_ratio": 4}
    models = [Pix2Seq(patches(replace(tiny_model_cfg, transformer=style, **size))) for style in ("standard", "llama")]
    biases = [name for name, _ in models[1].named_parameters() if name.endswith("bias")]
    assert sorted(biases) == ["decoder.bias", "encoder.stem.0.bias"]
    counts = [sum(p.numel() for p in model.decoder.layers.parameters() if p.ndim == 2) for model in models]
    assert counts[0] == counts[1]
    assert not hasattr(models[1].decoder, "positions")


def test_rotated_attention_depends_on_distance_only():
    query, key = torch.randn(2, 1, 16)
    angles = rotary_2d(7, 9, 16)

    def score(a: tuple[int, int], b: tuple[int, int]) -> torch.Tensor:
        rows = [(y * 9 + x) for y, x in (a, b)]
        return (rotate(query, angles[rows[:1]]) * rotate(key, angles[rows[1:]])).sum()

    torch.testing.assert_close(score((0, 1), (2, 5)), score((4, 3), (6, 7)), atol=1e-4, rtol=0)
    assert (score((0, 1), (2, 5)) - score((0, 1), (2, 4))).abs() > 1e-4


@torch.no_grad()
def test_a_llama_decoder_depends_on_the_order_of_tokens(tiny_model_cfg: CFG, images, tokens):
    model = Pix2Seq(patches(replace(tiny_model_cfg, transformer="llama"))).eval()
    swapped = tokens[:, [1, 0, *range(2, 10)]]
    memory = model.encode(images)
    before, after = (model.decode_groups(memory, [(t, IMAGE_INDEX)])[0][:, -1] for t in (tokens, swapped))
    assert (before - after).abs().max() > 1e-4


# Positions, embeddings, dropouts


@pytest.mark.parametrize("kind, tensors", [("learned", 2), ("sincos", 0)])
@torch.no_grad()
def test_encoder_positions_fit_any_grid(tiny_model_cfg: CFG, kind: str, tensors: int):
    model = Pix2Seq(patches(tiny_model_cfg, encoder_positions=kind)).eval()
    assert sum("positions.weight" in name for name in model.state_dict()) == tensors
    for size in ((64, 64), (96, 48)):
        assert model.encode(torch.rand(1, 3, *size)).shape == (1, size[0] * size[1] // 256, 32)


def test_learned_positions_keep_their_shape_when_stretched():
    positions = GridPositions("learned", 1, (4, 4))
    with torch.no_grad():
        positions.weight.copy_(torch.arange(4.0).repeat_interleave(4)[:, None])  # grows with y
    stretched = positions.code((8, 8), torch.device("cpu")).view(8, 8)
    assert (stretched[1:] - stretched[:-1] >= -1e-3).all()
    torch.testing.assert_close(stretched[:, 0], stretched[:, 7])


@torch.no_grad()
def test_a_class_token_stands_before_the_grid(tiny_model_cfg: CFG, images):
    model = Pix2Seq(patches(tiny_model_cfg, class_token=True)).eval()
    tokens, grid, num_prefix, _ = model.encoder.embed(images)
    assert tokens.shape[1] == 17 and grid == (4, 4) and num_prefix == 1
    torch.testing.assert_close(tokens[0, 0], model.encoder.class_token)  # it has no position


@torch.no_grad()
def test_separate_output_embedding_and_computed_positions(tiny_model_cfg: CFG, images, tokens):
    model = Pix2Seq(patches(tiny_model_cfg, shared_embedding=False, decoder_positions="sincos")).eval()
    before = model(images, tokens, IMAGE_INDEX)
    model.decoder.output.weight.mul_(2)
    torch.testing.assert_close(model(images, tokens, IMAGE_INDEX), 2 * before)
    assert "decoder.positions" not in model.state_dict()


@pytest.mark.parametrize("projection, code", [("linear", False), ("linear_p", True)])
@torch.no_grad()
def test_simpler_projections(tiny_model_cfg: CFG, images, projection: str, code: bool):
    model = Pix2Seq(patches(tiny_model_cfg, projection=projection)).eval()
    plain = model.projection.norm(model.projection.dense(model.encoder(images)[0]))
    assert torch.allclose(model.encode(images), plain, atol=1e-5) is not code


def test_dropouts_act_in_training_only(tiny_model_cfg: CFG, images, tokens):
    for name in ("dropout", "attention_dropout", "drop_path"):
        model = Pix2Seq(patches(tiny_model_cfg, **{name: 0.5}))
        first, second = (model.train()(images, tokens, IMAGE_INDEX) for _ in range(2))
        assert (first - second).abs().max() > 1e-2, name
        first, second = (model.eval()(images, tokens, IMAGE_INDEX) for _ in range(2))
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0, msg=name)


# Sequences that share an image


@pytest.mark.parametrize("image_index", [[0, 1, 2], [2, 0, 0, 1, 0], [1, 1], [0, 2]])
@torch.no_grad()
def test_sequences_of_one_image_share_its_memory(image_index: list[int]):
    layer = LayerCFG(16, 2, 2, 0.0, 0.0, 0.0, llama=False)
    attention = Attention(layer).eval()
    index, memory, x = torch.tensor(image_index), torch.randn(3, 7, 16), torch.randn(len(image_index), 4, 16)
    rows = Rows(index, 3)
    queries, (keys, values) = attention.queries(x), attention.keys_values(memory)
    found = rows.collect(attention.attend(rows.spread(queries), keys, values))
    expected = attention.attend(queries, keys[index], values[index])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    kept, images = rows.keep(torch.tensor([len(index) - 1]))
    assert images.tolist() == [image_index[-1]] and kept.image_index.tolist() == [0]


# Frozen layers


def test_frozen_stages_stay_and_the_others_are_trained(tiny_model_cfg: CFG):
    backbone = Pix2Seq(tiny_model_cfg.model).encoder.backbone
    backbone.freeze(2)
    learning = [name for name, parameter in backbone.net.named_parameters() if parameter.requires_grad]
    assert all(name.startswith(("model.layer2", "model.layer3")) for name in learning) and learning
    backbone.train()
    norms = {name: m.training for name, m in backbone.net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert not norms["model.bn1"] and not norms["model.layer1.0.bn1"] and norms["model.layer2.0.bn1"]
    backbone.freeze(len(backbone.stages))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_freezing_a_plain_vit_freezes_all_of_it(tiny_model_cfg: CFG):
    kwargs = json.dumps({"embed_dim": 32, "depth": 1, "num_heads": 2})
    model = dataclasses.replace(tiny_model_cfg.model, backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs)
    backbone = Pix2Seq(model).encoder.backbone
    backbone.freeze(1)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@torch.no_grad()
def test_deeper_feature_maps_are_magnified_and_joined(tiny_model_cfg: CFG):
    one = Pix2Seq(tiny_model_cfg.model).eval().encoder.backbone
    two = Pix2Seq(dataclasses.replace(tiny_model_cfg.model, backbone_levels=2)).eval().encoder.backbone
    two.load_state_dict(one.state_dict(), strict=False)
    images = torch.rand(2, 3, 72, 40)
    (first, grid, _), (joined, joined_grid, _) = one(images), two(images)
    assert joined_grid == grid and joined.shape[:2] == first.shape[:2] and two.reduction == one.reduction
    torch.testing.assert_close(joined[..., : one.width], first, atol=1e-5, rtol=1e-5)
    coarse = joined[..., one.width :].transpose(1, 2).unflatten(2, grid)  # (2, C, h, w)
    deeper = two.net(images)[1]
    torch.testing.assert_close(coarse[:, :, 0, 0], deeper[:, :, 0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "values", [{"backbone_levels": 4}, {"backbone_stage": 9}, {"backbone": "patches", "backbone_levels": 2}]
)
def test_feature_maps_that_a_backbone_lacks_are_refused(tiny_model_cfg: CFG, values: dict):
    with pytest.raises(UserError, match="--backbone-"):
        Pix2Seq(dataclasses.replace(tiny_model_cfg.model, **values))
