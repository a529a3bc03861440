"""On a GPU the shipped weights answer as on a processor, in every precision, and decoding never waits for the host."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.infer.load import load_predictor
from pix2seq.infer.pipeline import Failed, Job, Loaded, predict_batch
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Instances, Prompt, prompts_for
from pix2seq.models import generate as generate_module
from pix2seq.models.generate import generate
from pix2seq.models.sampling import Sampling
from pix2seq.models.step import Cache, StepDecoder
from pix2seq.tasks import TASKS

GREEDY = dict(detection_votes=1, detection_top_p=0.0, num_samples=1, keypoint_votes=1, keypoint_top_p=0.0, views=1)
GREEDY |= dict(caption_votes=1, caption_top_p=0.0, coord_window=0, end_threshold=0.0, invisible_threshold=0.0)
ROUNDING = 1e-3  # of probabilities
BYTES = 2**20


def predictor_of(weights: str, device: torch.device, **values) -> Predictor:
    """Of shipped weights, with the settings of the file but for `values`."""
    return load_predictor(config.replace(CFG(device=str(device)), weights=weights, **values))


@dataclass(frozen=True)
class Asked:
    """Questions about `images` to some weights, and a processor's greedy answers by task; `instances` were found."""

    weights: str
    images: Sequence[np.ndarray]
    prompts: Sequence[Prompt]
    answers: Mapping[str, Sequence[Response]]
    instances: Sequence[Instances]


def answers_of(predictor: Predictor, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> dict:
    """The responses of each task, with the probability of every token."""
    found, predictor = {}, predictor.with_answers()
    for name, task in TASKS.items():
        known = set(predictor.skeleton.class_ids)
        about = [prompt for prompt in prompts if not task.needs_skeleton or prompt.class_id in known]
        answers = predictor.ask(name, images, about if task.is_prompted else ())
        found[name] = [response for answer in answers for response in answer.responses]
    return found


@pytest.fixture(scope="module", params=["scenes", "photos"])
def asked(request: pytest.FixtureRequest, drawn, photographs) -> Asked:
    images = drawn if request.param == "scenes" else photographs
    predictor = predictor_of(request.param, torch.device("cpu"), **GREEDY)
    instances = predictor.predict("detection", images)
    prompts = [prompt for number, found in enumerate(instances) for prompt in prompts_for(found[:3], number)]
    return Asked(request.param, images, prompts, answers_of(predictor, images, prompts), instances)


def count_ties(found: Sequence[Response], expected: Sequence[Response], rounding: float = ROUNDING) -> int:
    """How many responses go apart, which they may where two tokens are as likely as each other."""
    ties = 0
    for one, other in zip(found, expected, strict=True):
        length = min(len(one.tokens), len(other.tokens))
        apart = np.flatnonzero(one.tokens[:length] != other.tokens[:length])
        end = apart[0] + 1 if len(apart) else length
        np.testing.assert_allclose(one.probs[:end], other.probs[:end], atol=rounding)
        ties += bool(len(apart))
    return ties


def share_found(found: Sequence[Instances], expected: Sequence[Instances]) -> float:
    """The share of the certain ones among the `expected` that were found: their class, with two thirds of overlap."""
    hits: list[bool] = []
    for some, others in zip(found, expected, strict=True):
        for box, class_id in zip(others.boxes[others.scores > 0.7], others.classes[others.scores > 0.7], strict=True):
            corner, opposite = np.maximum(some.boxes[:, :2], box[:2]), np.minimum(some.boxes[:, 2:], box[2:])
            inside = (opposite - corner).clip(0).prod(1)
            areas = (some.boxes[:, 2:] - some.boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - inside
            hits.append(bool(((inside > 2 / 3 * areas) & (some.classes == class_id)).any()))
    return float(np.mean(hits)) if hits else 1.0


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graphs"])
def test_greedy_answers_are_those_of_a_processor(gpu: torch.device, asked: Asked, compiled: bool):
    predictor = predictor_of(asked.weights, gpu, **GREEDY, compile=compiled)
    found = answers_of(predictor, asked.images, asked.prompts)
    for task, expected in asked.answers.items():
        ties = count_ties(found[task], expected)
        print(f"{asked.weights}, {task}: {ties} of {len(expected)} responses go apart at a near tie")
        assert ties <= max(1, len(expected) / 4), task


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_weights_find_the_same(gpu: torch.device, asked: Asked, precision: str, compiled: bool):
    predictor = predictor_of(asked.weights, gpu, **GREEDY, precision=precision, compile=compiled)
    share = share_found(predictor.predict("detection", asked.images), asked.instances)
    print(f"{asked.weights}, {precision}: {share:.3f} of the certain instances")
    assert share > 0.7
    for result in predictor.describe_images(asked.images, list(TASKS)):
        assert result.predictions["captioning"].best


def test_fp16_is_for_processors(gpu: torch.device):
    with pytest.raises(UserError, match="--precision fp16 cannot be used on cuda"):
        predictor_of("scenes", gpu, precision="fp16")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graphs"])
def test_votes_are_the_same_each_time(gpu: torch.device, drawn, compiled: bool):
    values = dict(detection_votes=8, num_samples=4, keypoint_votes=4, caption_votes=4, suppress_invisible=True, views=2)
    predictor = predictor_of("scenes", gpu, **values, compile=compiled)
    first, second = (predictor.describe_images(drawn, list(TASKS)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert len(one.instances)
        assert predictor.to_coco(1, one) == predictor.to_coco(1, other)


# Waiting


class Started:
    """A decoder whose cache has been made before: which sequences share an image is found there."""

    def __init__(self, decoder: StepDecoder, cache: Cache) -> None:
        self.cache, self.step = cache, decoder.step

    def start(self, *_: object) -> Cache:
        return self.cache


@pytest.fixture
def never_waiting() -> Iterator[Callable[[str], None]]:
    """Switches between "error", where torch raises if the host waits for a GPU, and "default"."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


SAMPLINGS = {
    "greedy": Sampling(end_threshold=0.2, invisible_threshold=0.2, coord_window=5),
    "sampled": Sampling(1.0, 50, 0.9, read_drawn=True, alternatives=5),
    "coordinates too": Sampling(1.0, top_p=0.9, coords_too=True),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("task", TASKS)
def test_decoding_does_not_wait(gpu, drawn, task: str, sampling: Sampling, never_waiting, monkeypatch):
    """But for the checks which sequences have ended; the first run fills what is kept of a grammar."""
    monkeypatch.setattr(generate_module, "CHECK_EVERY", 10**9)
    predictor = predictor_of("scenes", gpu)
    tokenizer, generator = predictor.tokenizers[task], predictor.generator
    view = predictor.encode_images(drawn[:2], ["detection"]).encoded[0]
    box = (np.array([0.2, 0.2, 0.7, 0.8]), 1) if TASKS[task].is_prompted else ()
    prompts = torch.from_numpy(np.stack([tokenizer.prompt(*box)] * 3)).to(gpu)
    index, draws = torch.tensor([0, 1, 1], device=gpu), torch.rand(6, 20, device=gpu)
    for mode in ("default", "error"):
        with torch.inference_mode():
            cache = generator.decoder.start(view.memory, index.repeat_interleave(2), prompts.shape[1] + 20)
        never_waiting(mode)
        started = Started(generator.decoder, cache)
        found = generate(started, view.memory, prompts, index, generator.grammars[task], 20, sampling, 2, draws)
        never_waiting("default")
    assert found.tokens.shape == (6, 20)


# Memory


def test_an_image_too_large_for_the_memory_is_named(gpu: torch.device, drawn):
    predictor = predictor_of("scenes", gpu, **GREEDY)
    batch = [Loaded(Job(f"{number}.jpg", "", "", number), image) for number, image in enumerate(drawn[:2])]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + BYTES) / total, gpu)
    try:
        found = predict_batch(predictor, ["detection"], batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert [each.why.partition(";")[0] for each in found if isinstance(each, Failed)] == [
        f"{number}.jpg needs more memory than there is" for number in range(2)
    ]
    assert not any(isinstance(each, Failed) for each in predict_batch(predictor, ["detection"], batch))
