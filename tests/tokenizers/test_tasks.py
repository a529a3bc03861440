"""Four tokenizers: what is encoded comes back, any tokens can be decoded, and grammars allow only what is valid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pix2seq.config import TASKS
from pix2seq.token_ids import COORD_BINS, COORD_SHIFT, END, FAKE, INVISIBLE, SEPARATOR, TEXT_SHIFT
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import FAKE_CLASS, DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import MIN_POINTS, SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import PROMPTS, Grammar

VOCAB_SIZE = 3200
HALF_BIN = 0.5 / (COORD_BINS - 1) + 1e-6
CLASS_IDS = (1, 3, 18, 90)
BOX = np.array([0.1, 0.2, 0.6, 0.9])
WORDS = ("<unk>", "a", "boat", "by", "the", "red", "tree")

tokenizers = {
    "detection": DetectionTokenizer(VOCAB_SIZE, CLASS_IDS, 0.25, 1.0),
    "segmentation": SegmentationTokenizer(VOCAB_SIZE),
    "keypoint": KeypointTokenizer(VOCAB_SIZE, 17, 0.3),
    "captioning": CaptioningTokenizer(VOCAB_SIZE, WordVocabulary(WORDS), 64, 1.0),
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


def answer(sequence) -> np.ndarray:
    """The response of a sequence: the prompt's tokens are the leading ones without weight."""
    first = np.flatnonzero(sequence.weight)[0]
    return sequence.target[first:]


def decode(task: str, tokens: np.ndarray):
    """What `tokens` say, whatever the task."""
    if task in ("segmentation", "captioning"):
        return tokenizers[task].decode(tokens)
    return tokenizers[task].decode(tokens, np.full(len(tokens), 0.5))


def walk(grammar: Grammar, choices: np.random.Generator, length: int) -> np.ndarray:
    """Random allowed tokens; coordinates, ends and separators all have a fair chance."""
    state, tokens = 0, []
    for _ in range(length):
        allowed = np.flatnonzero(grammar.allowed[state])
        rare = allowed[(allowed < 100)]
        token = choices.choice(rare if len(rare) and choices.random() < 0.2 else allowed)
        tokens.append(token)
        state = grammar.next_state[state, token]
    return np.array(tokens)


def accepts(grammar: Grammar, tokens: np.ndarray) -> bool:
    """Whether every token is allowed where it stands."""
    state = 0
    for token in tokens:
        if not grammar.allowed[state, token]:
            return False
        state = grammar.next_state[state, token]
    return True


# What is encoded comes back


@given(detections())
def test_boxes_and_classes_come_back(target: tuple[np.ndarray, np.ndarray]):
    boxes, classes = target
    sequence = detection.encode(boxes, classes)
    found = detection.decode(sequence.target, np.ones(len(sequence.target)))
    assert np.array_equal(found.classes, classes)
    assert np.all(np.abs(found.boxes - boxes) <= HALF_BIN)


@given(polygon_lists)
def test_polygons_come_back(polygons: list[np.ndarray]):
    found = segmentation.decode(answer(segmentation.encode(BOX, 1, polygons)))
    assert [len(polygon) for polygon in found] == [len(polygon) for polygon in polygons]
    assert all(np.all(np.abs(a - b) <= HALF_BIN) for a, b in zip(found, polygons, strict=True))


@given(people())
def test_visible_keypoints_come_back(target: tuple[np.ndarray, np.ndarray]):
    points, visible = target
    sequence = keypoint.encode(BOX, 1, points, visible)
    found = keypoint.decode(answer(sequence), np.ones(34))
    assert np.array_equal(found.visible, visible)
    assert np.all(np.abs(found.points - points)[visible] <= HALF_BIN)


@given(st.lists(st.sampled_from(WORDS[1:]), max_size=30).map(" ".join))
def test_captions_of_known_words_come_back(caption: str):
    assert captioning.decode(answer(captioning.encode(caption))) == caption


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
def test_what_the_grammar_allows_decodes_without_loss(task: str, seed: int):
    tokens = walk(tokenizers[task].grammar(), np.random.default_rng(seed), 120)
    ends = np.flatnonzero(tokens == END)
    said = tokens[: ends[0]] if len(ends) else tokens
    assert not tokens[len(said) :].any()
    found = decode(task, tokens)
    if task == "detection":
        assert len(found.classes) == len(said) // 5
        assert set(found.classes.tolist()) <= set(CLASS_IDS)
    elif task == "segmentation":
        points = sum(len(polygon) for polygon in found)
        unfinished = 0 if len(ends) else 2 * MIN_POINTS  # a walk cut short may stop within a polygon
        assert 2 * points >= np.sum(said >= COORD_SHIFT) - unfinished
    elif task == "keypoint":
        assert len(said) == 34
        assert found.visible.sum() == np.sum(said >= COORD_SHIFT) // 2
    else:
        assert len(found.split()) == len(said) > 0
        assert "<unk>" not in found


@given(detections())
def test_detection_targets_obey_the_grammar(target: tuple[np.ndarray, np.ndarray]):
    assert accepts(detection.grammar(), detection.encode(*target).target)


@given(polygon_lists)
def test_segmentation_targets_obey_the_grammar(polygons: list[np.ndarray]):
    assert accepts(segmentation.grammar(), answer(segmentation.encode(BOX, 1, polygons)))


@given(people())
def test_keypoint_targets_obey_the_grammar(target: tuple[np.ndarray, np.ndarray]):
    tokens = answer(keypoint.encode(BOX, 1, *target))
    assert accepts(keypoint.grammar(), np.append(tokens, END))


def test_caption_targets_obey_the_grammar():
    assert accepts(captioning.grammar(), answer(captioning.encode("a red boat by the tree")))


def test_grammars_forbid_an_end_within_an_object():
    for task, tokens in {
        "detection": [1000, 1000, 1500, 1500, END],
        "segmentation": [1000, 1000, 1500, 1500, END],
        "keypoint": [1000, 1000, END],
        "captioning": [END],
    }.items():
        assert not accepts(tokenizers[task].grammar(), np.array(tokens)), task


def test_a_full_detection_never_ends():
    grammar = DetectionTokenizer(VOCAB_SIZE, CLASS_IDS, 0.1, 1.0, full=True).grammar()
    assert not grammar.allowed[: grammar.num_states, END].any()
    assert np.array_equal(grammar.allowed[0, 1:], detection.grammar().allowed[0, 1:])


@given(polygon_lists)
def test_polygons_come_back_through_pairs_of_separators(polygons: list[np.ndarray]):
    tokenizer = SegmentationTokenizer(VOCAB_SIZE, separators=2)
    tokens = answer(tokenizer.encode(BOX, 1, polygons))
    assert accepts(tokenizer.grammar(), tokens)
    assert np.sum(tokens == SEPARATOR) == 2 * (len(polygons) - 1)
    assert [len(polygon) for polygon in tokenizer.decode(tokens)] == [len(polygon) for polygon in polygons]


def test_pairs_of_separators_are_never_single():
    triangle = [1000, 1000, 1500, 1500, 1000, 1500]
    grammar = SegmentationTokenizer(VOCAB_SIZE, separators=2).grammar()
    assert accepts(grammar, np.array([*triangle, SEPARATOR, SEPARATOR, *triangle, END]))
    assert not accepts(grammar, np.array([*triangle, SEPARATOR, *triangle, END]))
    assert not accepts(grammar, np.array([*triangle, SEPARATOR, SEPARATOR, SEPARATOR]))


def test_detection_says_only_classes_that_exist():
    allowed = np.flatnonzero(detection.grammar().allowed[4])
    assert allowed.tolist() == [101, 103, 118, 190]


# Weights


EXAMPLES = {
    "detection": (1, detection.encode(np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([3]))),
    "segmentation": (6, segmentation.encode(BOX, 1, [np.array([[0, 0], [0, 1], [1, 1.0]])])),
    "keypoint": (6, keypoint.encode(BOX, 1, np.full((17, 2), 0.5), np.arange(17) % 2 == 0)),
    "captioning": (1, captioning.encode("a boat")),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_opens_with_its_task(task: str):
    assert EXAMPLES[task][1].input[0] == PROMPTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_exactly_the_answer_is_trained_from_its_first_token(task: str):
    prompt_length, sequence = EXAMPLES[task]
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
    tokenizer = DetectionTokenizer(VOCAB_SIZE, CLASS_IDS, 0.1, 0.5)
    sequence = tokenizer.encode(boxes[:1], np.array([3]), boxes[1:])
    assert sequence.target[[4, 9]].tolist() == [103, FAKE]
    assert sequence.weight.tolist() == [1] * 5 + [0] * 4 + [0.5]
    same = tokenizer.encode(boxes, np.array([3, FAKE_CLASS]), pad_to=2)
    assert np.array_equal(sequence.target, same.target)


def test_padding_stands_for_missing_objects():
    sequence = detection.encode(np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([3]), pad_to=3)
    assert sequence.target[5:].tolist() == [END] * 10
    assert sequence.weight[5:].tolist() == [0.25] * 10


def test_a_image_without_objects_is_an_immediate_end():
    sequence = detection.encode(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    assert (sequence.input.tolist(), sequence.target.tolist()) == ([PROMPTS["detection"]], [END])


def test_invisible_keypoints_weigh_less():
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


def test_unknown_words_are_taught_as_unknown():
    sequence = captioning.encode("a zeppelin")
    assert sequence.target.tolist() == [TEXT_SHIFT + 1, TEXT_SHIFT, END]
