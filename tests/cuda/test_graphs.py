"""Steps of decoding as CUDA graphs: the results of others, recorded once for a cache."""

import dataclasses

import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models import graph
from pix2seq.models.generate import generate
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.step import StepDecoder
from tests.models.test_generate import on_device, prompts, tokenizers

LENGTH = 40
INDEX = [0, 1, 1, 2, 2, 2, 2, 2]  # of images
CLOSE = {"fp32": dict(atol=1e-4, rtol=1e-4), "bf16": dict(atol=0.1, rtol=0.05), "int8": dict(atol=0.1, rtol=0.05)}


@pytest.fixture(scope="module", params=["standard", "llama"])
def model(request: pytest.FixtureRequest, tiny_model_cfg: CFG, gpu: torch.device) -> Pix2Seq:
    torch.manual_seed(0)
    return Pix2Seq(config.replace(tiny_model_cfg, transformer=request.param).model).eval().to(gpu)


@pytest.fixture
def memory(model: Pix2Seq, gpu: torch.device) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode(torch.rand(3, 3, 64, 64, device=gpu))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of sequences of all graphs that are recorded."""
    sizes: list[int] = []
    init = graph.StepGraph.__init__

    def counted(self: graph.StepGraph, run: graph.Run, tokens: torch.Tensor, *rest: object) -> None:
        sizes.append(len(tokens))
        init(self, run, tokens, *rest)

    monkeypatch.setattr(graph.StepGraph, "__init__", counted)
    return sizes


def columns(gpu: torch.device, count: int, seed: int = 0) -> list[torch.Tensor]:
    """A prompt of three tokens, and single ones."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1000, 2000, (count, LENGTH), generator=generator).to(gpu)
    return list(tokens.split([3, *[1] * (LENGTH - 3)], dim=1))


@pytest.mark.parametrize("precision", CLOSE)
def test_logits_are_those_of_other_steps(model, memory, gpu, recorded, precision: str):
    index = torch.tensor(INDEX, device=gpu)
    decoders = model.prepare(precision), model.prepare(precision, compiled=True)
    caches = [decoder.start(memory, index, LENGTH) for decoder in decoders]
    for place, column in enumerate(columns(gpu, len(INDEX))):
        if place in (10, 20):  # of eight sequences six stay, of three images two; then one of each
            kept = torch.tensor([1, 3, 4, 5, 6, 7] if place == 10 else [2], device=gpu)
            for cache in caches:
                cache.keep(kept)
            index = index[kept]
        plain, graphed = (
            decoder.step(column[: len(index)], cache) for decoder, cache in zip(decoders, caches, strict=True)
        )
        torch.testing.assert_close(graphed, plain, **CLOSE[precision])
    assert recorded == [8, 6, 1]


def test_caches_can_take_turns(model, memory, gpu, recorded):
    """Each has a graph, whose memory no other one uses."""
    plain, graphed = model.prepare(), model.prepare(compiled=True)
    index = [torch.tensor(images, device=gpu) for images in ([0, 1, 2], [2, 1, 1, 0, 0])]
    texts = [columns(gpu, len(images), seed) for seed, images in enumerate(index)]
    expected = [steps(plain, memory, *pair) for pair in zip(index, texts, strict=True)]
    caches = [graphed.start(memory, images, LENGTH) for images in index]
    found: list[list[torch.Tensor]] = [[], []]
    for place in range(len(texts[0])):
        for number, cache in enumerate(caches):
            found[number].append(graphed.step(texts[number][place], cache))
    for some, others in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.stack(some), torch.stack(others), **CLOSE["fp32"])
    assert recorded == [3, 5]


def steps(decoder: StepDecoder, memory: torch.Tensor, index: torch.Tensor, text: list) -> list[torch.Tensor]:
    cache = decoder.start(memory, index, LENGTH)
    return [decoder.step(column, cache) for column in text]


def test_a_response_needs_few_graphs(model, memory, gpu, recorded):
    grammar = on_device(tokenizers["detection"].grammar())
    grammar = dataclasses.replace(grammar, allowed=grammar.allowed.to(gpu), next_state=grammar.next_state.to(gpu))
    asked = prompts("detection", 8).to(gpu), torch.tensor(INDEX, device=gpu), grammar, 100
    generate(model.prepare(compiled=True), memory, *asked)
    assert 1 <= len(recorded) <= 3


def test_memory_of_graphs_is_given_back(model, memory, gpu):
    decoder, index = model.prepare(compiled=True), torch.tensor(INDEX, device=gpu)
    sizes = []
    for _ in range(12):
        steps(decoder, memory, index, columns(gpu, len(INDEX)))
        sizes.append(torch.cuda.memory_reserved(gpu))
    assert sizes[-1] <= sizes[2], sizes
