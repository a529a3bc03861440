"""Encoder and decoder: shapes for any backbone, and the same logits with and without a cache or groups."""

import dataclasses
import json

import pytest
import torch

from pix2seq.config import CFG, ModelCFG
from pix2seq.errors import UserError
from pix2seq.models.layers import sincos_1d, sincos_2d
from pix2seq.models.pix2seq import Pix2Seq
from tests.conftest import FP16

ROUNDING = {"atol": 1e-4, "rtol": 0}  # of logits up to ten, in float32, in whatever order they are added
SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(1, 3200, (5, 12), generator=torch.Generator().manual_seed(0))


IMAGE_INDEX = torch.tensor([2, 0, 0, 1, 2])


def with_backbone(cfg: CFG, backbone: str, encoder_layers: int = 0, **kwargs) -> ModelCFG:
    return dataclasses.replace(
        cfg.model, backbone=backbone, backbone_kwargs=json.dumps(kwargs), encoder_layers=encoder_layers
    )


# The same logits whichever way the decoder is run


@torch.no_grad()
@pytest.mark.parametrize("prompt_length", [1, 6, 12])
def test_cached_decoding_equals_uncached(tiny_model: Pix2Seq, images, tokens, prompt_length: int):
    expected = tiny_model(images, tokens, IMAGE_INDEX)
    decoder = tiny_model.prepare()
    cache = decoder.start(tiny_model.encode(images), IMAGE_INDEX, tokens.shape[1])
    steps = [tokens[:, :prompt_length], *tokens.split(1, dim=1)[prompt_length:]]
    logits = torch.stack([decoder.step(step, cache) for step in steps], dim=1)
    torch.testing.assert_close(logits, expected[:, prompt_length - 1 :], **ROUNDING)


@torch.no_grad()
def test_cached_decoding_in_chunks_equals_uncached(tiny_model: Pix2Seq, images, tokens):
    expected = tiny_model(images, tokens, IMAGE_INDEX)
    decoder = tiny_model.prepare()
    cache = decoder.start(tiny_model.encode(images), IMAGE_INDEX, 40)
    for end, chunk in zip((5, 8, 12), tokens.split([5, 3, 4], dim=1), strict=True):
        torch.testing.assert_close(decoder.step(chunk, cache), expected[:, end - 1], **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", FP16, "int8"])
def test_narrow_weights_hardly_move_logits(tiny_model: Pix2Seq, images, tokens, precision: str):
    memory = tiny_model.encode(images)
    exact, narrow = (
        decoder.step(tokens, decoder.start(memory, IMAGE_INDEX, 40))
        for decoder in (tiny_model.prepare(), tiny_model.prepare(precision))
    )
    assert 0 < (narrow - exact).abs().max() < 0.05 * exact.std()


@torch.no_grad()
def test_static_shapes_give_the_same_logits(tiny_model: Pix2Seq, images, tokens):
    """What `--compile` compiles, here without a compiler."""
    plain, static = tiny_model.prepare(), tiny_model.prepare()
    static.static = static._static_run
    memory = tiny_model.encode(images)
    caches = [decoder.start(memory, IMAGE_INDEX, 40) for decoder in (plain, static)]
    for part in tokens.split([6, 1, 1, 1, 1, 1, 1], dim=1):
        logits = [decoder.step(part, cache) for decoder, cache in zip((plain, static), caches, strict=True)]
        torch.testing.assert_close(*logits, **ROUNDING)


@torch.no_grad()
def test_rows_that_a_cache_keeps_continue_unchanged(tiny_model: Pix2Seq, images, tokens):
    expected = tiny_model(images, tokens, IMAGE_INDEX)
    decoder = tiny_model.prepare()
    cache = decoder.start(tiny_model.encode(images), IMAGE_INDEX, tokens.shape[1])
    decoder.step(tokens[:, :6], cache)
    rows = torch.arange(5)
    for place, kept in ((6, [0, 2, 3, 4]), (7, [1, 3]), (8, [1])):  # of the rows that there still are
        cache.keep(torch.tensor(kept))
        rows = rows[kept]
        logits = decoder.step(tokens[rows, place : place + 1], cache)
        torch.testing.assert_close(logits, expected[rows, place], **ROUNDING)


@torch.no_grad()
def test_forward_in_groups_equals_forward(tiny_model: Pix2Seq, images, tokens):
    groups = [(tokens[:2], IMAGE_INDEX[:2]), (tokens[2:, :7], IMAGE_INDEX[2:])]
    memory = tiny_model.encode(images)
    for found, (part, index) in zip(tiny_model.decode_groups(memory, groups), groups, strict=True):
        torch.testing.assert_close(found, tiny_model(images, part, index), **ROUNDING)


@torch.no_grad()
def test_image_index_selects_the_image(tiny_model: Pix2Seq, images, tokens):
    together = tiny_model(images, tokens, IMAGE_INDEX)
    for row, image in enumerate(IMAGE_INDEX.tolist()):
        alone = tiny_model(images[image : image + 1], tokens[row : row + 1], torch.tensor([0]))
        torch.testing.assert_close(together[row], alone[0], **ROUNDING)


@torch.no_grad()
def test_the_logits_depend_on_the_image(tiny_model: Pix2Seq, images, tokens):
    first, second = (tiny_model(images, tokens[:1], torch.tensor([image])) for image in (0, 1))
    assert (first - second).abs().max() > 1e-3


@torch.no_grad()
def test_no_token_attends_to_later_ones(tiny_model: Pix2Seq, images, tokens):
    changed = tokens.clone()
    changed[:, 7:] = 5
    before, after = (tiny_model(images, t, IMAGE_INDEX) for t in (tokens, changed))
    torch.testing.assert_close(before[:, :7], after[:, :7], **ROUNDING)
    assert (before[:, 7:] - after[:, 7:]).abs().max() > 1e-3


# Shapes


@pytest.mark.parametrize(
    "backbone, layers, kwargs, memory_tokens",
    [
        ("resnet18", 1, {"channels": [8, 16, 24, 32]}, 16),
        ("resnet18", 0, {"channels": [8, 16, 24, 32]}, 16),
        ("convnext_atto", 1, {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 4),
        ("vit_tiny_patch16_224", 0, SMALL_VIT, 17),
        ("deit_tiny_patch16_224", 1, SMALL_VIT, 17),
        ("vit_tiny_patch16_224", 0, SMALL_VIT | {"class_token": False, "global_pool": "avg"}, 16),
        ("vit_tiny_patch16_224", 1, SMALL_VIT | {"reg_tokens": 4}, 21),
    ],
    ids=[
        "resnet",
        "resnet alone",
        "convnext",
        "ViT",
        "DeiT with layers",
        "ViT without class token",
        "ViT with registers",
    ],
)
@torch.no_grad()
def test_every_kind_of_backbone_gives_memory(
    tiny_model_cfg: CFG, images, tokens, backbone: str, layers: int, kwargs: dict, memory_tokens: int
):
    model = Pix2Seq(with_backbone(tiny_model_cfg, backbone, layers, **kwargs)).eval()
    assert model.encode(images).shape == (3, memory_tokens, 32)
    assert model(images, tokens, IMAGE_INDEX).shape == (5, 12, 3200)


@pytest.mark.parametrize("height, width, memory_tokens", [(64, 64, 16), (96, 96, 36), (42, 42, 9), (48, 112, 21)])
@torch.no_grad()
def test_convnets_take_any_canvas_size(tiny_model: Pix2Seq, height: int, width: int, memory_tokens: int):
    assert tiny_model.encode(torch.rand(2, 3, height, width)).shape == (2, memory_tokens, 32)


@torch.no_grad()
def test_a_canvas_of_one_memory_token_gives_finite_logits(tiny_model: Pix2Seq):
    assert tiny_model(torch.rand(1, 3, 16, 16), torch.tensor([[10]]), torch.tensor([0])).isfinite().all()


def test_an_unknown_backbone_is_refused(tiny_model_cfg: CFG):
    with pytest.raises(UserError, match="resnet1234"):
        Pix2Seq(with_backbone(tiny_model_cfg, "resnet1234"))


@pytest.mark.parametrize("kwargs", ["{", '{"no_such_argument": 1}', "[1]"])
def test_wrong_backbone_arguments_are_refused(tiny_model_cfg: CFG, kwargs: str):
    with pytest.raises(UserError, match="--backbone-kwargs"):
        Pix2Seq(dataclasses.replace(tiny_model_cfg.model, backbone_kwargs=kwargs))


# Parameters


def test_output_weights_are_the_embeddings(tiny_model: Pix2Seq):
    names = [name for name, p in tiny_model.decoder.named_parameters() if p.shape[0] == 3200]
    assert sorted(names) == ["bias", "embedding.weight"]


@pytest.mark.parametrize(
    "backbone, layers, kwargs",
    [
        ("resnet18", 1, {"channels": [8, 16, 24, 32]}),
        ("vit_tiny_patch16_224", 0, SMALL_VIT),
        ("vit_tiny_patch16_224", 0, SMALL_VIT | {"class_token": False, "global_pool": "avg"}),
    ],
    ids=["resnet", "ViT", "ViT without class token"],
)
def test_the_gradient_reaches_every_parameter(tiny_model_cfg: CFG, images, tokens, backbone, layers, kwargs):
    model = Pix2Seq(with_backbone(tiny_model_cfg, backbone, layers, **kwargs)).train()
    with torch.no_grad():  # residual branches start at zero, which would hide what feeds them
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    logits = model(images, tokens, IMAGE_INDEX)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    # Softmax ignores a key's bias: its gradient is rounding noise.
    idle = [
        name
        for name, p in model.named_parameters()
        if not name.endswith("key.bias") and (p.grad is None or not p.grad.any())
    ]
    assert idle == []


def test_coordinates_start_smooth(tiny_model_cfg: CFG):
    torch.manual_seed(0)
    coords = Pix2Seq(tiny_model_cfg.model).decoder.embedding.weight[1000:2000].detach()
    near, far = (torch.cosine_similarity(coords[:-step], coords[step:]).mean() for step in (1, 100))
    assert near > 0.9 > far + 0.1


def test_the_same_seed_gives_the_same_weights(tiny_model_cfg: CFG):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(Pix2Seq(tiny_model_cfg.model).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Position codes


@pytest.mark.parametrize("length, width", [(10, 16), (512, 32), (7, 48)])
def test_position_codes_equal_the_official_code(reference, length: int, width: int):
    expected = torch.from_numpy(reference("position_codes_and_masks.npz")[f"pos1d_{length}_{width}"][0])
    positions = torch.arange(length) / (length - 1) * 6.2831852
    torch.testing.assert_close(sincos_1d(positions, width), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("height, width, channels", [(4, 6, 48), (40, 40, 32), (3, 5, 16)])
def test_grid_codes_equal_the_official_code(reference, height: int, width: int, channels: int):
    expected = reference("position_codes_and_masks.npz")[f"pos2d_{height}_{width}_{channels}"][0]
    expected = torch.from_numpy(expected).flatten(0, 1)
    torch.testing.assert_close(sincos_2d(height, width, channels), expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_images_that_fill_up_a_batch_have_no_memory(tiny_model: Pix2Seq, images, monkeypatch: pytest.MonkeyPatch):
    memory = tiny_model.encode(images)
    monkeypatch.setattr("pix2seq.models.encoders.in_few_sizes", lambda batch: torch.cat([batch, batch[:1]]))
    torch.testing.assert_close(tiny_model.encode(images), memory, **ROUNDING)
