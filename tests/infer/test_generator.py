"""Sequence generators: encoded canvases, and generators that can be exchanged."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Prompt
from pix2seq.tasks import TASKS
from pix2seq.token_ids import CLASS_SHIFT, TEXT_SHIFT
from pix2seq.tokenizers.vocabulary import quantize

CANVASES = 6
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
indices = st.lists(st.integers(0, CANVASES - 1), max_size=20)


def encoded(image_index: list[int]) -> Encoded:
    """Encoded canvases whose memory is their index, each of an image of a different width."""
    memory = torch.arange(CANVASES * 1.0).view(-1, 1, 1).expand(-1, 3, 2).contiguous()
    geometries = [Geometry.letterbox(10 + number, 20, 64) for number in range(CANVASES)]
    return Encoded(memory, geometries, np.array(image_index, dtype=int))


# Encoded canvases


@given(indices, st.data())
def test_selected_queries_share_the_memory(image_index: list[int], data: st.DataObject):
    whole = encoded(image_index)
    queries = data.draw(st.lists(st.sampled_from(range(len(image_index))), max_size=20) if image_index else st.just([]))
    taken = whole.take(queries)
    assert taken.memory is whole.memory and taken.geometries is whole.geometries
    assert len(taken) == len(queries)
    assert taken.image_index.tolist() == [image_index[query] for query in queries]
    assert all(taken.geometry(new) is whole.geometry(old) for new, old in enumerate(queries))


@given(indices, st.integers(0, 20), st.integers(0, 20))
def test_a_chunk_has_each_queried_canvas_once(image_index: list[int], start: int, length: int):
    part = slice(start, start + length)
    memory, index = encoded(image_index).chunk(part)
    assert len(memory) == len(set(image_index[part]))
    assert memory[index, 0, 0].tolist() == image_index[part]
    assert memory.shape[1:] == (3, 2)


def test_many_queries_of_one_canvas_share_a_row_of_memory():
    whole = encoded([4] * 1000).take(range(1000))
    memory, index = whole.chunk(slice(0, 500))
    assert memory.tolist() == [[[4, 4]] * 3]
    assert index.tolist() == [0] * 500


def test_an_empty_encoding_and_an_empty_selection():
    assert len(encoded([])) == len(encoded([1, 2]).take([])) == 0
    memory, index = encoded([1, 2]).take([]).chunk(slice(0, 4))
    assert (len(memory), len(index)) == (0, 0)


def test_without_images_the_memory_is_empty(make_predictor):
    nothing = make_predictor().encode_images([]).first
    assert len(nothing) == len(nothing.memory) == 0


# Responses


def test_a_certain_response_has_probability_one():
    response = Response.certain(np.array([1000, 1001, 0]))
    assert response.probs.tolist() == [1, 1, 1]
    assert response.coords is response.coord_probs is None


# Predictors and their generators


def box(x2: float, class_id: int) -> list[int]:
    return [*quantize([0.1, 0.2, 0.3, x2]), CLASS_SHIFT + class_id, 0]


@pytest.fixture
def car(fake_generator):
    return fake_generator({"detection": [box(0.6, 3)], "captioning": [[TEXT_SHIFT + 3, 0]]})


@pytest.fixture
def dog(fake_generator):
    return fake_generator({"detection": [box(0.9, 18)], "captioning": [[TEXT_SHIFT + 1, 0]]})


def predicted(predictor: Predictor) -> tuple[list[int], list[list[float]], list[str]]:
    found = predictor.predict("detection", [IMAGE])[0]
    return (
        found.classes.tolist(),
        found.boxes.tolist(),
        [each.best for each in predictor.predict("captioning", [IMAGE])],
    )


def test_with_generator_uses_the_other_generator_and_keeps_the_rest(make_predictor, car):
    predictor: Predictor = make_predictor(num_samples=3)
    other = predictor.with_generator(car)
    assert other is not predictor and other.generator is car
    rest = {name: part for name, part in vars(predictor).items() if name != "generator"}
    assert rest and all(vars(other)[name] is part for name, part in rest.items())
    assert predicted(other)[0] == [3]
    assert car.encoded == [1, 1]


def test_with_generator_does_not_change_the_predictor(make_predictor, car):
    predictor: Predictor = make_predictor()
    generator, before = predictor.generator, predicted(predictor)
    assert predicted(predictor.with_generator(car)) != before
    assert predictor.generator is generator
    assert predicted(predictor) == before


def test_predictors_with_different_generators_do_not_influence_each_other(make_predictor, car, dog):
    model: Predictor = make_predictor()
    first, second = model.with_generator(car), model.with_generator(dog)
    expected = [predicted(first), predicted(second)]
    assert [classes for classes, _, _ in expected] == [[3], [18]]
    assert [captions for _, _, captions in expected] == [["car"], ["a"]]
    for _ in range(2):  # in turn, and in the other order
        assert [predicted(second), predicted(first)] == expected[::-1]
    encodings = len(car.encoded), len(dog.encoded)
    predicted(first)
    assert (len(car.encoded), len(dog.encoded)) == (encodings[0] + 2, encodings[1])


def test_describe_calls_the_generator_for_every_task(make_predictor, fake_generator):
    corners = quantize(np.array([[0.3, 0.3], [0.3, 0.6], [0.6, 0.6]])).ravel().tolist()
    everything = fake_generator(
        {
            "detection": [box(0.6, 1)],
            "segmentation": [[*corners, 0]],
            "keypoint": [[*quantize(np.linspace(0.3, 0.7, 34))]],
            "captioning": [[TEXT_SHIFT + 2, 0]],
        }
    )
    result = make_predictor().with_generator(everything).describe(IMAGE, list(TASKS))
    assert result.predictions["captioning"].best == "person"
    assert result.instances.classes.tolist() == [1]
    assert result.predictions["segmentation"][0].score == 1
    assert (result.predictions["keypoint"][0].keypoints[:, 2] == 2).all()


def test_prompts_of_an_image_share_its_encoding(make_predictor):
    predictor: Predictor = make_predictor(segment_whole=True)
    prompts = [Prompt(number, np.array([0.0, 0.0, 30.0, 20.0]), 1) for number in (1, 0, 1)]
    whole = predictor.encode_images([IMAGE, IMAGE[:30]])
    seen = predictor.encode_prompts("segmentation", [IMAGE, IMAGE[:30]], prompts, whole).first
    assert seen.memory is whole.first.memory
    assert seen.image_index.tolist() == [1, 0, 1]


def test_a_listener_is_told_of_tokens_while_others_are_decoded(make_predictor):
    predictor, told = make_predictor(eval_batch_size=2), []
    listening = predictor.generator.with_listener(lambda task, encoded, prompts, count, found: told.append(found))
    prompts = [Prompt(0, np.array([0.0, 0.0, 40.0 + 10 * number, 50.0]), 1) for number in range(3)]  # in two chunks
    (answer, *others) = predictor.with_generator(listening).ask("segmentation", [IMAGE], prompts)
    final = [response for each in (answer, *others) for response in each.responses]
    assert len(told) > 2 and {len(found) for found in told} == {2 * len(answer.responses), len(final)}
    for found in told:
        for response, whole in zip(found, final, strict=False):
            np.testing.assert_array_equal(response.tokens, whole.tokens[: len(response.tokens)])
    assert predictor.generator.listener is None
