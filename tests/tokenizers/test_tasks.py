"""Four tokenizers: decoding inverts encoding, any tokens can be decoded, and grammars allow only valid sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pix2seq.tasks import TASKS
from pix2seq.token_ids import COORD_BINS, COORD_SHIFT, END, FAKE, INVISIBLE, SEPARATOR, TEXT_SHIFT
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import FAKE_CLASS, DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import MIN_POINTS, SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import Grammar, TokenSequence, max_length

VOCAB_SIZE = 3200
HALF_BIN = 0.5 / (COORD_BINS - 1) + 1e-6
CLASS_IDS = (1, 3, 18, 90)
BOX = np.array([0.1, 0.2, 0.6, 0.9])
PROMPTS = {"detection": 10, "segmentation": 11, "keypoint": 12, "captioning": 13}
WORDS = ("<unk>", "a", "boat", "by", "the", "red", "tree")

full_detection = DetectionTokenizer(VOCAB_SIZE, CLASS_IDS, max_objects=12, end_weight=0.25, noise_weight=0.5, full=True)
tokenizers = {
    "detection": DetectionTokenizer(VOCAB_SIZE, CLASS_IDS, max_objects=12, end_weight=0.25, noise_weight=1.0),
    "segmentation": SegmentationTokenizer(VOCAB_SIZE, max_points=48),
    "keypoint": KeypointTokenizer(VOCAB_SIZE, 17, invisible_weight=0.3),
    "captioning": CaptioningTokenizer(VOCAB_SIZE, WordVocabulary(WORDS), max_words=64, end_weight=1.0),
}
detection, segmentation, keypoint, captioning = (tokenizers[task] for task in TASKS)

fractions = st.floats(0, 1)
corners = st.one_of(fractions, st.sampled_from([0.0, 1.0]))
polygon_lists = st.lists(
    hnp.arrays(np.float64, st.tuples(st.integers(3, 12), st.just(2)), elements=corners), min_size=1, max_size=4
)
any_tokens = hnp.arrays(
    np.int64,
    st.integers(0, 80),
    elements=st.one_of(
        st.integers(0, VOCAB_SIZE - 1),
        st.integers(COORD_SHIFT, COORD_SHIFT + COORD_BINS - 1),
        st.sampled_from([0, 30, 40, 41, 100, 101, 999, 1000, 1999, 2000, 2999, 3000, VOCAB_SIZE, 40_000]),
    ),
)


@st.composite
def detections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 12))
    boxes = draw(hnp.arrays(np.float64, (count, 4), elements=corners))
    return boxes, np.array(draw(st.lists(st.sampled_from(CLASS_IDS), min_size=count, max_size=count)), dtype=np.int64)


@st.composite
def people(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    return draw(hnp.arrays(np.float64, (17, 2), elements=corners)), draw(hnp.arrays(bool, 17))


def response(sequence: TokenSequence) -> np.ndarray:
    """The response of a sequence: the prompt's tokens are the leading ones without weight."""
    first = np.flatnonzero(sequence.weight)[0]
    return sequence.target[first:]


def decode(task: str, tokens: np.ndarray):
    """The decoded `tokens` of any task."""
    if task in ("segmentation", "captioning"):
        return tokenizers[task].decode(tokens)
    return tokenizers[task].decode(tokens, np.full(len(tokens), 0.5))


def walk(grammar: Grammar, choices: np.random.Generator, length: int) -> np.ndarray:
    """Random allowed tokens; coordinates, ends and separators are all chosen often."""
    state, tokens = 0, []
    for _ in range(length):
        allowed = np.flatnonzero(grammar.allowed[state])
        rare = allowed[(allowed < 100)]
        token = choices.choice(rare if len(rare) and choices.random() < 0.2 else allowed)
        tokens.append(token)
        state = grammar.next_state[state, token]
    return np.array(tokens)


# What is encoded comes back


@given(detections())
def test_boxes_and_classes_are_recovered(target: tuple[np.ndarray, np.ndarray]):
    boxes, classes = target
    sequence = detection.encode(boxes, classes)
    found = detection.decode(sequence.target, np.ones(len(sequence.target)))
    assert np.array_equal(found.classes, classes)
    assert np.all(np.abs(found.boxes - boxes) <= HALF_BIN)


@given(polygon_lists)
def test_polygons_are_recovered(polygons: list[np.ndarray]):
    found = segmentation.decode(response(segmentation.encode(BOX, 1, polygons)))
    assert [len(polygon) for polygon in found] == [len(polygon) for polygon in polygons]
    assert all(np.all(np.abs(a - b) <= HALF_BIN) for a, b in zip(found, polygons, strict=True))


@given(people())
def test_visible_keypoints_are_recovered(target: tuple[np.ndarray, np.ndarray]):
    points, visible = target
    sequence = keypoint.encode(BOX, 1, points, visible)
    found = keypoint.decode(response(sequence), np.ones(34))
    assert np.array_equal(found.visible, visible)
    assert np.all(np.abs(found.points - points)[visible] <= HALF_BIN)


@given(st.lists(st.sampled_from(WORDS[1:]), max_size=30).map(" ".join))
def test_captions_of_known_words_are_recovered(caption: str):
    assert captioning.decode(response(captioning.encode(caption))) == caption


# Any tokens can be decoded


@pytest.mark.parametrize("task", TASKS)
@given(tokens=any_tokens)
def test_any_tokens_can_be_decoded(task: str, tokens: np.ndarray):
    decode(task, tokens)


@given(any_tokens)
def test_decoded_detections_are_valid_whatever_the_tokens(tokens: np.ndarray):
    found = decode("detection", tokens)
    assert len(found.boxes) == len(found.classes) == len(found.scores)
    assert np.all((found.boxes >= 0) & (found.boxes <= 1))
    assert np.all((found.classes > 0) & (found.classes < 900))


@given(any_tokens)
def test_decoded_polygons_are_valid_whatever_the_tokens(tokens: np.ndarray):
    for polygon in decode("segmentation", tokens):
        assert len(polygon) >= MIN_POINTS
        assert np.all((polygon >= 0) & (polygon <= 1))


@given(any_tokens)
def test_decoded_keypoints_are_valid_whatever_the_tokens(tokens: np.ndarray):
    found = decode("keypoint", tokens)
    assert found.points.shape == (17, 2)
    assert np.all((found.points >= 0) & (found.points <= 1))
    assert np.all(found.points[~found.visible] == 0)
    assert 0 <= found.score <= 1


@pytest.mark.parametrize("count", [100, pytest.param(25_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", TASKS)
def test_random_token_sequences_can_be_decoded(task: str, count: int):
    """Uniform tokens, those of one kind, and those that a response has, cut anywhere: with four tasks 100,000."""
    rng = np.random.default_rng(0)
    ranges = [(0, VOCAB_SIZE), (COORD_SHIFT, COORD_SHIFT + COORD_BINS), (0, 50), (TEXT_SHIFT - 5, 2 * VOCAB_SIZE)]
    for _ in range(count):
        tokens = rng.integers(*ranges[rng.integers(len(ranges))], rng.integers(0, 130))
        coords = rng.random(len(tokens)) < rng.random()
        tokens[coords] = rng.integers(COORD_SHIFT, COORD_SHIFT + COORD_BINS, coords.sum())
        decode(task, tokens)


# Grammars


@pytest.mark.parametrize("task", TASKS)
def test_the_end_can_be_reached_from_every_state(task: str):
    grammar = tokenizers[task].grammar()
    ending = {grammar.end}
    while True:
        more = {
            state
            for state in range(grammar.num_states)
            if ending & set(grammar.next_state[state, grammar.allowed[state]].tolist())
        }
        if more <= ending:
            break
        ending |= more
    assert ending == set(range(grammar.num_states + 1))


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 2**32))
def test_sequences_that_the_grammar_allows_are_decoded_without_loss(task: str, seed: int):
    tokens = walk(tokenizers[task].grammar(), np.random.default_rng(seed), 120)
    ends = np.flatnonzero(tokens == END)
    predicted = tokens[: ends[0]] if len(ends) else tokens
    assert not tokens[len(predicted) :].any()
    found = decode(task, tokens)
    if task == "detection":
        assert len(found.classes) == len(predicted) // 5
        assert set(found.classes.tolist()) <= set(CLASS_IDS)
    elif task == "segmentation":
        points = sum(len(polygon) for polygon in found)
        unfinished = 0 if len(ends) else 2 * MIN_POINTS  # a walk cut short may stop within a polygon
        assert 2 * points >= np.sum(predicted >= COORD_SHIFT) - unfinished
    elif task == "keypoint":
        assert len(predicted) == 34
        assert found.visible.sum() == np.sum(predicted >= COORD_SHIFT) // 2
    else:
        assert len(found.split()) == len(predicted) > 0
        assert "<unk>" not in found


@given(detections())
def test_detection_targets_obey_the_grammar(target: tuple[np.ndarray, np.ndarray]):
    assert detection.grammar().accepts(detection.encode(*target).target)


@given(polygon_lists)
def test_segmentation_targets_obey_the_grammar(polygons: list[np.ndarray]):
    assert segmentation.grammar().accepts(response(segmentation.encode(BOX, 1, polygons)))


@given(people())
def test_keypoint_targets_obey_the_grammar(target: tuple[np.ndarray, np.ndarray]):
    tokens = response(keypoint.encode(BOX, 1, *target))
    assert keypoint.grammar().accepts(np.append(tokens, END))


def test_caption_targets_obey_the_grammar():
    assert captioning.grammar().accepts(response(captioning.encode("a red boat by the tree")))


def test_grammars_forbid_an_end_within_an_object():
    for task, tokens in {
        "detection": [1000, 1000, 1500, 1500, END],
        "segmentation": [1000, 1000, 1500, 1500, END],
        "keypoint": [1000, 1000, END],
        "captioning": [END],
    }.items():
        assert not tokenizers[task].grammar().accepts(np.array(tokens)), task


def test_a_full_detection_never_ends():
    grammar = full_detection.grammar()
    assert not grammar.allowed[: grammar.num_states, END].any()
    assert np.array_equal(grammar.allowed[0, 1:], detection.grammar().allowed[0, 1:])


@given(polygon_lists)
def test_polygons_are_recovered_from_pairs_of_separators(polygons: list[np.ndarray]):
    tokenizer = SegmentationTokenizer(VOCAB_SIZE, max_points=48, separators=2)
    tokens = response(tokenizer.encode(BOX, 1, polygons))
    assert tokenizer.grammar().accepts(tokens)
    assert np.sum(tokens == SEPARATOR) == 2 * (len(polygons) - 1)
    assert [len(polygon) for polygon in tokenizer.decode(tokens)] == [len(polygon) for polygon in polygons]


def test_pairs_of_separators_are_never_single():
    triangle = [1000, 1000, 1500, 1500, 1000, 1500]
    grammar = SegmentationTokenizer(VOCAB_SIZE, max_points=48, separators=2).grammar()
    assert grammar.accepts(np.array([*triangle, SEPARATOR, SEPARATOR, *triangle, END]))
    assert not grammar.accepts(np.array([*triangle, SEPARATOR, *triangle, END]))
    assert not grammar.accepts(np.array([*triangle, SEPARATOR, SEPARATOR, SEPARATOR]))


def test_detection_predicts_only_classes_that_exist():
    allowed = np.flatnonzero(detection.grammar().allowed[4])
    assert allowed.tolist() == [101, 103, 118, 190]


# Lengths


def triangles(num_points: int) -> list[np.ndarray]:
    """As many polygons as can be made of the given number of points."""
    count = num_points // MIN_POINTS
    return [np.zeros((MIN_POINTS + (num_points % MIN_POINTS if not number else 0), 2)) for number in range(count)]


polygon_tokenizers = [
    SegmentationTokenizer(VOCAB_SIZE, points, separators) for points in (48, 50) for separators in (1, 2)
]
LONGEST = [
    (detection, detection.encode(np.zeros((12, 4)), np.full(12, 3))),
    (full_detection, full_detection.encode(np.zeros((12, 4)), np.full(12, 3), noise=np.zeros((0, 4)))),
    *((part, part.encode(BOX, 1, triangles(part.max_points))) for part in polygon_tokenizers),
    (keypoint, keypoint.encode(BOX, 1, np.full((17, 2), 0.5), np.arange(17) % 2 == 0)),
    (captioning, captioning.encode("a boat " * 40)),
]


@pytest.mark.parametrize("tokenizer, sequence", LONGEST)
def test_the_longest_targets_have_the_longest_length(tokenizer, sequence: TokenSequence):
    tokens = sequence.response(tokenizer.prompt_length)
    assert len(tokens) == tokenizer.max_response
    assert len(sequence.input) == max_length(tokenizer)
    assert tokenizer.grammar().accepts(tokens)


@given(detections())
def test_no_detection_target_exceeds_the_longest(target: tuple[np.ndarray, np.ndarray]):
    assert len(detection.encode(*target).input) <= max_length(detection)
    noise = np.zeros((12 - len(target[0]), 4))
    assert len(full_detection.encode(*target, noise).input) == max_length(full_detection)


@pytest.mark.parametrize("tokenizer", polygon_tokenizers)
@given(polygons=polygon_lists)
def test_no_segmentation_target_exceeds_the_longest(tokenizer: SegmentationTokenizer, polygons: list[np.ndarray]):
    sequence = tokenizer.encode(BOX, 1, polygons)
    assert len(sequence.input) <= max_length(tokenizer)
    assert len(response(sequence)) == tokenizer.length(sum(map(len, polygons)), len(polygons))


@given(people())
def test_every_keypoint_target_is_as_long_as_the_longest(target: tuple[np.ndarray, np.ndarray]):
    assert len(keypoint.encode(BOX, 1, *target).input) == max_length(keypoint)


@given(st.lists(st.sampled_from(WORDS), max_size=90).map(" ".join))
def test_no_caption_exceeds_the_longest(caption: str):
    assert len(captioning.encode(caption).input) <= max_length(captioning)


# Weights


EXAMPLES = {
    "detection": (1, detection.encode(np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([3]))),
    "segmentation": (6, segmentation.encode(BOX, 1, [np.array([[0, 0], [0, 1], [1, 1.0]])])),
    "keypoint": (6, keypoint.encode(BOX, 1, np.full((17, 2), 0.5), np.arange(17) % 2 == 0)),
    "captioning": (1, captioning.encode("a boat")),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_begins_with_its_task(task: str):
    assert EXAMPLES[task][1].input[0] == PROMPTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_exactly_the_response_is_trained_from_its_first_token(task: str):
    prompt_length, sequence = EXAMPLES[task]
    assert tokenizers[task].prompt_length == prompt_length
    untrained = prompt_length - 1
    assert np.all(sequence.weight[:untrained] == 0)
    assert np.all(sequence.weight[untrained:] > 0)
    assert np.array_equal(sequence.input[1:], sequence.target[:-1])


def test_detection_end_has_its_own_weight():
    sequence = EXAMPLES["detection"][1]
    assert sequence.target[-1] == END
    assert sequence.weight.tolist() == [1, 1, 1, 1, 1, 0.25]


def test_noise_follows_the_objects_and_needs_no_end():
    boxes = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.7]])
    sequence = full_detection.encode(boxes[:1], np.array([3]), boxes[1:])
    assert sequence.target[[4, 9]].tolist() == [103, FAKE]
    assert sequence.weight.tolist() == [1] * 5 + [0] * 4 + [0.5]
    same = full_detection.encode(boxes, np.array([3, FAKE_CLASS]), pad_to=2)
    assert np.array_equal(sequence.target, same.target)


def test_padding_replaces_missing_objects():
    sequence = detection.encode(np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([3]), pad_to=3)
    assert sequence.target[5:].tolist() == [END] * 10
    assert sequence.weight[5:].tolist() == [0.25] * 10


def test_for_an_image_without_objects_the_end_comes_first():
    sequence = detection.encode(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    assert (sequence.input.tolist(), sequence.target.tolist()) == ([PROMPTS["detection"]], [END])


def test_invisible_keypoints_have_a_smaller_weight():
    _, sequence = EXAMPLES["keypoint"]
    invisible = sequence.target == INVISIBLE
    assert invisible.sum() == 16
    np.testing.assert_allclose(sequence.weight[invisible], 0.3)
    assert np.all(sequence.weight[5:][~invisible[5:]] == 1)


def test_a_score_is_the_probability_of_the_class_token():
    sequence = detection.encode(np.array([[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]]), np.array([1, 3]))
    probs = np.linspace(0, 1, len(sequence.target))
    assert detection.decode(sequence.target, probs).scores.tolist() == [probs[4], probs[9]]


def test_an_incomplete_last_object_is_left_out():
    tokens = detection.encode(np.array([[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]]), np.array([1, 3])).target[:-2]
    assert decode("detection", tokens).classes.tolist() == [1]


def test_polygons_of_two_points_and_odd_coordinates_are_left_out():
    triangle, line = [1000, 1000, 1999, 1000, 1999, 1999], [1000, 1000, 1500, 1500]
    found = segmentation.decode(np.array([*line, 40, *triangle, 1234, 40, 40, 0]))
    assert [polygon.tolist() for polygon in found] == [[[0, 0], [1, 0], [1, 1]]]


def test_keypoint_decoding_of_too_few_tokens_leaves_the_rest_invisible():
    found = keypoint.decode(np.array([1000, 1999, 1500]), np.array([0.2, 0.4, 0.6]))
    assert found.visible.tolist() == [True] + [False] * 16
    assert found.score == pytest.approx(0.4)


def test_unknown_words_are_trained_as_unknown():
    sequence = captioning.encode("a zeppelin")
    assert sequence.target.tolist() == [TEXT_SHIFT + 1, TEXT_SHIFT, END]
