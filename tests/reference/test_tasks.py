"""Tokens, weights, decoded responses and scores equal those of the official code for the same inputs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pix2seq.config import InferCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.masks import decode_mask, rasterize
from pix2seq.dataset.skeleton import COCO_PERSON
from pix2seq.dataset.views import keypoints_on_canvas
from pix2seq.infer import detection as detection_inference
from pix2seq.infer import keypoint as keypoint_inference
from pix2seq.infer.masks import vote
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances, Prompt, Result, coco_results
from pix2seq.models.choices import GrammarTables, Part
from pix2seq.models.generate import coords_of, generate, truncate_logits
from pix2seq.tasks import TASKS
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, END, FAKE, INVISIBLE, TEXT_SHIFT, is_coord
from pix2seq.tokenizers.captioning import CaptioningTokenizer, drop_words
from pix2seq.tokenizers.detection import CLASS_TOKENS, CORRUPTIONS, DetectionTokenizer, corrupt_classes
from pix2seq.tokenizers.keypoint import KeypointTokenizer, mask_points
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import TokenSequence, dequantize, quantize, until_end
from pix2seq.weights.official_settings import PUBLISHED
from tests.conftest import reference_cases

VOCAB_SIZE = 3000
ALL_CLASSES = range(1, COORD_SHIFT - CLASS_SHIFT)
POLYGONS = SegmentationTokenizer(VOCAB_SIZE, max_points=128, separators=2)
KEYPOINTS = KeypointTokenizer(VOCAB_SIZE, 17, invisible_weight=0.1)


def detection_tokenizer(end_weight: float = 0.1, noise_weight: float = 1.0, **options) -> DetectionTokenizer:
    values = {"vocab_size": VOCAB_SIZE, "full": False} | options
    return DetectionTokenizer(
        class_ids=ALL_CLASSES, max_objects=100, end_weight=end_weight, noise_weight=noise_weight, **values
    )


def placement(original: np.ndarray, unpadded: np.ndarray, size: np.ndarray) -> Geometry:
    """The map of an image of `original` size (height, width), resized to `unpadded` and padded to `size`, to fractions
    of that canvas, which need not be square."""
    scale_y, scale_x = unpadded / original / size
    return Geometry(np.array([[scale_x, 0, 0], [0, scale_y, 0]]), 1)


def assert_same(sequence: TokenSequence, tokens: np.ndarray, targets: np.ndarray, weights: np.ndarray):
    assert np.array_equal(sequence.input, tokens)
    assert np.array_equal(sequence.target, targets)
    assert np.array_equal(sequence.weight, weights)


# Coordinates


@pytest.mark.parametrize("bins", reference_cases("tasks/quantize.npz", r"coords_(\d+)"))
def test_quantization_rounds_and_clips_alike(reference, bins: str):
    data, bins = reference("quantize.npz"), int(bins)
    assert np.array_equal(quantize(data[f"coords_{bins}"], bins) - COORD_SHIFT, data[f"quantized_{bins}"])
    assert np.array_equal(dequantize(data[f"tokens_{bins}"] + COORD_SHIFT, bins), data[f"dequantized_{bins}"])


def test_the_default_is_a_thousand_bins(reference):
    data = reference("quantize.npz")
    assert np.array_equal(quantize(data["coords_1000"]) - COORD_SHIFT, data["quantized_1000"])
    assert np.array_equal(dequantize(data["tokens_1000"] + COORD_SHIFT), data["dequantized_1000"])


@pytest.mark.parametrize("bins", reference_cases("tasks/detection.npz", r"response_seq_bins(\d+)"))
def test_other_bins_in_a_detection_sequence(reference, bins: str):
    data = reference("detection.npz")
    tokens, real = data[f"response_seq_bins{bins}"].reshape(-1, 5)[:, :4], data["label"][0] != 0
    assert np.array_equal(quantize(data["bbox"][0][real], int(bins)), tokens[real])


# Detection


@pytest.fixture
def objects(reference) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes and classes of each image, noise boxes included, without padding."""
    data = reference("detection.npz")
    return [
        (boxes[labels != 0], labels[labels != 0]) for boxes, labels in zip(data["bbox"], data["label"], strict=True)
    ]


@pytest.mark.parametrize("max_objects", reference_cases("tasks/detection.npz", r"batch_max(\d+)_input_seq"))
def test_detection_is_trained_alike(reference, objects, max_objects: str):
    data, tokenizer = reference("detection.npz"), detection_tokenizer()
    assert np.array_equal(data["prompt_det"], np.tile(tokenizer.prompt(), (len(objects), 1)))
    names = [f"batch_max{max_objects}_{name}" for name in ("input_seq", "target_seq", "token_weights")]
    for row, (boxes, classes) in enumerate(objects):
        assert_same(tokenizer.encode(boxes, classes, pad_to=int(max_objects)), *(data[name][row] for name in names))


@pytest.mark.parametrize("noise_weight", reference_cases("tasks/detection.npz", r"token_weights_noise([\d.]+)"))
def test_noise_objects_weigh_alike(reference, objects, noise_weight: str):
    expected = reference("detection.npz")[f"token_weights_noise{noise_weight}"]
    tokenizer = detection_tokenizer(1.0, float(noise_weight))  # padding still has weight 1 there
    for row, (boxes, classes) in enumerate(objects):
        assert np.array_equal(tokenizer.encode(boxes, classes, pad_to=expected.shape[1] // 5).weight, expected[row])


def test_noise_may_be_given_apart_from_the_objects(reference, objects):
    data, tokenizer = reference("detection.npz"), detection_tokenizer()
    compared = 0
    for row, (boxes, classes) in enumerate(objects):
        real = classes > 0
        if np.any(np.diff(real.astype(int)) > 0) or len(boxes) < data["label"].shape[1]:
            continue  # an object follows noise, or padding follows both
        target = tokenizer.encode(boxes[real], classes[real], boxes[~real]).target
        assert np.array_equal(target, data["response_seq"][row])
        compared += 1
    assert compared


@pytest.mark.parametrize("mode", CORRUPTIONS)
def test_corruption_changes_input_classes_only(reference, objects, mode: str):
    data = reference("detection.npz")
    names = {"none": "response_seq_cm_none"}
    drawn = data[names.get(mode, f"random_sample_response_seq_cm_{mode}")]
    for row, (boxes, classes) in enumerate(objects):
        sequence = detection_tokenizer().encode(boxes, classes, pad_to=drawn.shape[1] // 5)
        corrupted = corrupt_classes(sequence, mode, np.random.default_rng(row))
        unchanged = np.ones(len(sequence.input), dtype=bool)
        unchanged[CLASS_TOKENS] = False
        official = np.concatenate([sequence.input[:1], drawn[row][:-1]])
        for tokens in (corrupted.input, official):  # what is asked of ours is true of theirs
            assert np.array_equal(tokens[unchanged], sequence.input[unchanged])
            assert np.array_equal(tokens == END, sequence.input == END)
        assert corrupted.target is sequence.target
        assert corrupted.weight is sequence.weight


@pytest.mark.parametrize(
    ("mode", "real", "fake"),
    [
        ("none", 1, 0),
        ("rand_cls", 0, 0),
        ("real_n_fake_cls", 0.5, 0.5),
        ("rand_n_fake_cls", 0, 0.5),
        ("real_n_rand_n_fake_cls", 0.5, 0.25),
    ],
)
def test_corrupted_classes_have_the_official_odds(mode: str, real: float, fake: float):
    count = 20_000
    tokenizer = detection_tokenizer()
    sequence = tokenizer.encode(np.zeros((count, 4)), np.full(count, 17))
    classes = corrupt_classes(sequence, mode, np.random.default_rng(0)).input[CLASS_TOKENS]
    random = classes[(classes != 17 + CLASS_SHIFT) & (classes != FAKE)]
    assert np.mean(classes == 17 + CLASS_SHIFT) == pytest.approx(real, abs=0.02)
    assert np.mean(classes == FAKE) == pytest.approx(fake, abs=0.02)
    assert len(random) / count == pytest.approx(1 - real - fake, abs=0.02)
    if len(random):
        assert (random.min(), random.max()) == (CLASS_SHIFT, COORD_SHIFT - 1)
        assert random.mean() == pytest.approx((CLASS_SHIFT + COORD_SHIFT - 1) / 2, abs=10)


@pytest.mark.parametrize("case", reference_cases("tasks/detection.npz", r"dec_(\w+)_logits_f16"))
def test_classes_and_scores_are_decoded_alike(reference, case: str):
    """The grammar chooses the likeliest class: it replaces the sampled ones of the file, as in the official code.

    The official code clips coordinates that are none and reads on after an end; the grammar allows neither, so whole
    groups of coordinates are compared, each on its own. It drops class 0 as padding, which no grammar allows.
    """
    data = reference("detection.npz")
    logits = torch.from_numpy(data[f"dec_{case}_logits_f16"].astype(np.float32))
    tokenizer = detection_tokenizer(full=True, vocab_size=logits.shape[-1])
    allowed = torch.from_numpy(tokenizer.grammar().allowed[4])
    compared = 0
    for row, predicted in enumerate(data[f"dec_{case}_pred_seq"]):
        for number in range(len(predicted) // 5):
            at_class = logits[row, 5 * number + 4]
            best = at_class.masked_fill(~allowed, -torch.inf).argmax()
            tokens = np.append(predicted[5 * number : 5 * number + 4], int(best))
            expected = data[f"dec_{case}_class"][row, number]
            if not is_coord(tokens[:4]).all() or expected == 0:
                continue
            found = tokenizer.decode(tokens, np.append(np.zeros(4), at_class.softmax(-1)[best]))
            assert found.classes.tolist() == [expected]
            np.testing.assert_array_equal(found.boxes[0], data[f"dec_{case}_bbox"][row, number])
            np.testing.assert_allclose(found.scores[0], data[f"dec_{case}_score"][row, number], rtol=0, atol=1e-6)
            compared += 1
    assert compared


class Script:
    """A model whose `logits` (B, T, V) do not depend on what it reads, which it keeps."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.read = logits, []

    def start(self, memory: torch.Tensor, image_index: torch.Tensor, length: int) -> SimpleNamespace:
        return SimpleNamespace(leaving=1.0)  # until all have ended

    def step(self, tokens: torch.Tensor, cache: SimpleNamespace, part: Part | None = None) -> torch.Tensor:
        self.read.append(tokens[:, 0])
        logits = self.logits[:, len(self.read) - 1]
        return logits if part is None else logits[:, part.ids]


@pytest.mark.parametrize("case", reference_cases("tasks/detection.npz", r"dec_(\w+)_logits_f16"))
def test_classes_are_reported_alike_whatever_is_drawn_and_read(reference, case: str):
    """The official code reads on from the tokens that it drew, and reports the likeliest classes at their places."""
    data = reference("detection.npz")
    logits = torch.from_numpy(data[f"dec_{case}_logits_f16"].astype(np.float32))
    rows, length, vocab_size = logits.shape
    tokenizer = detection_tokenizer(full=True, vocab_size=vocab_size)
    grammar = tokenizer.grammar()
    tables = torch.from_numpy(grammar.allowed), torch.from_numpy(grammar.next_state)
    tables = GrammarTables(*tables, grammar.end, grammar.greedy_states, grammar.unreported)
    model, prompts = Script(logits), torch.from_numpy(np.tile(tokenizer.prompt(), (rows, 1)))
    draws = torch.rand(rows, length, generator=torch.Generator().manual_seed(0))
    sampling, _ = detection_inference.sampling(InferCFG(**PUBLISHED))
    length -= length % 5
    found = generate(
        model, torch.zeros(rows, 1, 1), prompts, torch.arange(rows), tables, length, sampling, 1, draws[:, :length]
    )
    at_class = slice(4, length, 5)
    count = length // 5
    known = data[f"dec_{case}_class"][:, :count] > 0  # class 0 is padding, which our grammar does not allow
    classes = found.tokens[:, at_class].numpy() - CLASS_SHIFT
    np.testing.assert_array_equal(classes[known], data[f"dec_{case}_class"][:, :count][known])
    scores = found.probs[:, at_class].numpy()
    np.testing.assert_allclose(scores[known], data[f"dec_{case}_score"][:, :count][known], rtol=0, atol=1e-6)
    read = torch.stack(model.read[5::5], dim=1)  # of all class tokens but the last
    assert ((read == FAKE) | ((read > CLASS_SHIFT) & (read < COORD_SHIFT))).all()
    assert (read.numpy() - CLASS_SHIFT != classes[:, :-1]).any()


def test_boxes_return_to_pixels_alike(reference):
    data = reference("detection.npz")
    for row in range(len(data["post_orig_image_size"])):
        geometry = placement(
            *(data[f"post_{name}_image_size"][row] for name in ("orig", "unpadded")), data["post_image_size"]
        )
        for boxes, pixels in (("dec_a_bbox", "post_bbox_rescaled"), ("bbox", "post_gt_bbox_rescaled")):
            # Their random boxes may have their corners the wrong way round: corners are compared one by one.
            corners = geometry.from_fractions(data[boxes][row].reshape(-1, 2))
            np.testing.assert_allclose(corners[:, ::-1].reshape(-1, 4), data[pixels][row], rtol=0, atol=1e-4)


def test_annotations_are_written_alike(reference, reference_json):
    data, expected = reference("detection.npz"), reference_json("tasks/detection_annotations.json")
    found = []
    for row in range(len(data["dec_a_class"])):
        kept = data["dec_a_class"][row] > 0
        boxes = data["post_bbox_rescaled"][row][kept][:, [1, 0, 3, 2]]
        instances = Instances(boxes, data["dec_a_class"][row][kept], data["dec_a_score"][row][kept])
        found += coco_results(int(data["post_image_ids"][row]), Result(instances), TASKS)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.0051)  # ours has two digits after the point
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)


# Segmentation


def split_polygons(floats: np.ndarray) -> list[np.ndarray]:
    """Polygons (K, 2) y x of numbers in which −2 separates polygons and −1 is padding."""
    floats = floats[floats != -1].reshape(-1, 2)
    return np.split(floats, np.flatnonzero(floats[:, 0] == -2)) if len(floats) else []


@pytest.mark.parametrize("prefix", reference_cases("tasks/instance_segmentation.npz", "(.*)input_seq"))
def test_segmentation_is_trained_alike(reference, prefix: str):
    """Real instances; for the empty instances that fill up the official batches, ours has no sequence."""
    data = reference("instance_segmentation.npz")
    names = [f"{prefix}{name}" for name in ("input_seq", "target_seq", "token_weights")]
    _, targets, weights = (data[name] for name in names)
    end_weight = float(weights[targets == END].max(initial=0))
    tokenizer = SegmentationTokenizer(VOCAB_SIZE, 128, separators=2, end_weight=end_weight)
    length = targets.shape[-1] + 1 - tokenizer.prompt_length
    for image, instance in np.argwhere(data["label"] > 0):
        box, label = data["bbox"][image, instance], data["label"][image, instance]
        polygons = [part[part[:, 0] != -2] for part in split_polygons(data["polygon_yx"][image, instance])]
        assert np.array_equal(tokenizer.prompt(box, label), data["prompt_seq"][image, instance])
        sequence = tokenizer.encode(box, label, polygons, pad_to=length)
        assert_same(sequence, *(data[name][image, instance] for name in names))


def grammatical(tokens: np.ndarray) -> bool:
    """Whether our decoding can give a response: complete points, at least three in each polygon."""
    return POLYGONS.grammar().accepts(tokens)


@pytest.fixture
def outlines(reference) -> list[tuple[int, list[np.ndarray]]]:
    """Polygons x y in image pixels of every response of the file that our grammar can give, by its number.

    The other responses hold broken points and polygons of one or two points, which the official code passes on.
    """
    data = reference("instance_segmentation.npz")
    rows = len(data["pred_seq"]) // len(data["orig_image_size"])
    found = []
    for number, tokens in enumerate(data["pred_seq"]):
        sizes = [data[name][number // rows] for name in ("orig_image_size", "unpadded_image_size")]
        geometry = placement(*sizes, data["image_size"])
        if grammatical(tokens):
            found.append((number, [geometry.from_fractions(polygon) for polygon in POLYGONS.decode(tokens)]))
    return found


def test_polygons_are_decoded_and_rescaled_alike(outlines, reference_json):
    expected = reference_json("tasks/instance_segmentation_splits.json")
    assert outlines
    for number, polygons in outlines:
        assert len(polygons) == len(expected[number])
        for ours, theirs in zip(polygons, expected[number], strict=True):
            np.testing.assert_allclose(ours.ravel(), theirs, rtol=0, atol=1e-4)


def test_points_are_rescaled_alike(reference):
    """In the order of tokens, y x, whatever polygons they belong to."""
    data = reference("instance_segmentation.npz")
    rows = len(data["pred_seq"]) // len(data["orig_image_size"])
    for number, tokens in enumerate(data["pred_seq"]):
        sizes = [data[name][number // rows] for name in ("orig_image_size", "unpadded_image_size")]
        points = is_coord(tokens).reshape(-1, 2).all(axis=1)
        found = placement(*sizes, data["image_size"]).from_fractions(dequantize(tokens).reshape(-1, 2))[:, ::-1]
        expected = data["points_rescaled_yx"][number].reshape(-1, 2)
        np.testing.assert_allclose(found[points], expected[points], rtol=0, atol=1e-4)
        assert np.array_equal(data["mask_size"][number], sizes[0])


def test_decoded_points_are_the_same_numbers(reference):
    data = reference("instance_segmentation.npz")
    for tokens, floats in zip(data["pred_seq"], data["decoded_points"], strict=True):
        if grammatical(tokens):
            points = np.concatenate(POLYGONS.decode(tokens))
            read = until_end(tokens)
            assert np.array_equal(points.ravel(), floats[: len(read)][is_coord(read)])


def test_masks_are_the_same_pixels(reference, outlines):
    data = reference("instance_segmentation.npz")
    for number, polygons in outlines:
        expected = data[f"mask_{number:02}"]
        assert np.array_equal(rasterize(polygons, *expected.shape), expected)
        assert np.array_equal(decode_mask(vote([polygons], *expected.shape, 0.5).rle), expected)


@pytest.mark.parametrize("threshold", reference_cases("tasks/instance_segmentation.npz", r"ensemble([\d.]+)_\d+"))
def test_samples_vote_alike(reference, reference_json, threshold: str):
    """Polygons as the official code splits them; instances where it passes on fewer than three points are left out."""
    data, splits = reference("instance_segmentation.npz"), reference_json("tasks/instance_segmentation_splits.json")
    samples = int(data["num_samples"])
    compared = 0
    for instance in range(len(splits) // samples):
        numbers = range(instance * samples, (instance + 1) * samples)
        expected = data[f"ensemble{threshold}_{instance:02}"]
        if any(len(polygon) < 6 for number in numbers for polygon in splits[number]):
            continue
        polygons = [[np.reshape(polygon, (-1, 2)) for polygon in splits[number]] for number in numbers]
        assert np.array_equal(decode_mask(vote(polygons, *expected.shape, float(threshold)).rle), expected)
        compared += 1
    assert compared


# Keypoints


def test_keypoints_are_trained_alike(reference):
    """Real instances; those that fill up a batch have weight 0 in the official code, and no sequence here."""
    data = reference("keypoints.npz")
    for image, instance in np.argwhere(data["label"] > 0):
        points = data["keypoints_yx"][image, instance].reshape(17, 2)
        sequence = KEYPOINTS.encode(
            data["bbox"][image, instance], data["label"][image, instance], points, points[:, 0] != -3
        )
        names = ("clean_input_seq", "target_seq", "token_weights")
        assert_same(sequence, *(data[name][image, instance] for name in names))


def test_points_are_masked_alike(reference):
    data = reference("keypoints.npz")
    place = tuple(np.argwhere(data["label"] > 0)[0])
    clean = data["clean_input_seq"][place]
    sequence = TokenSequence(clean, data["target_seq"][place], data["token_weights"][place])
    ours = mask_points(sequence, 0.3, np.random.default_rng(0))
    for masked in (ours.input, data["random_sample_input_seq"][place]):
        assert np.array_equal(masked[:6], clean[:6])
        assert set(masked[masked != clean]) == {INVISIBLE}
    assert (ours.target is sequence.target, ours.weight is sequence.weight) == (True, True)


def test_the_ratio_is_the_share_of_masked_points():
    tokens = np.arange(1000, 2000)
    sequence = TokenSequence(tokens, tokens, np.ones(1000))
    share = np.mean(mask_points(sequence, 0.3, np.random.default_rng(0)).input == INVISIBLE)
    assert share == pytest.approx(0.3, abs=0.05)
    assert mask_points(sequence, 0.0, np.random.default_rng(0)).input.tolist() == tokens.tolist()
    assert (mask_points(sequence, 1.0, np.random.default_rng(0)).input[6:] == INVISIBLE).all()


def token_probs(data: dict, row: int) -> np.ndarray:
    """Probabilities (T,) of the chosen tokens in the softmax over the whole vocabulary."""
    probs = torch.from_numpy(data["logits_f16"][row].astype(np.float32)).softmax(-1)
    return probs[torch.arange(probs.shape[0]), torch.from_numpy(data["pred_seq"][row])].numpy()


@pytest.mark.parametrize("weight", reference_cases("tasks/keypoints.npz", r"final_scores_w([\d.]+)"))
def test_poses_are_scored_alike(reference, weight: str):
    """Without rows of `final_scores` whose class is not person: it has no keypoints here."""
    data, name, weight = reference("keypoints.npz"), weight, float(weight)
    for row, (tokens, box_score) in enumerate(zip(data["pred_seq"], data["det_scores"], strict=True)):
        score = weight * KEYPOINTS.decode(tokens, token_probs(data, row)).score + (1 - weight) * box_score
        if data["pred_class"][row] == 1:
            assert score == pytest.approx(data[f"final_scores_w{name}"][row], abs=1e-6)
        if f"weighted_scores_w{name}" in data:
            assert score == pytest.approx(data[f"weighted_scores_w{name}"][row], abs=1e-6)


def test_keypoints_are_placed_alike(reference):
    """Points whose tokens are both coordinates or both invisible: the grammar allows no others."""
    data = reference("keypoints.npz")
    compared = np.zeros(2, dtype=int)
    rows = len(data["pred_seq"]) // len(data["orig_image_size"])
    for row, tokens in enumerate(data["pred_seq"]):
        sizes = [data[name][row // rows] for name in ("orig_image_size", "unpadded_image_size")]
        geometry = placement(*sizes, data["image_size"])
        decoded = KEYPOINTS.decode(tokens, np.ones(34))
        box = geometry.from_fractions(data["pred_bbox"][row].reshape(2, 2)).ravel()
        canvas = Canvas(2000, 2000, geometry, Prompt(0, box, 1))  # larger than the random points reach: none is clipped
        pose = keypoint_inference.read([Response.certain(tokens)], [canvas], KEYPOINTS, InferCFG())
        expected = data["final_points_rescaled"][row].reshape(17, 2)[:, ::-1]
        pairs = tokens.reshape(17, 2)
        seen, unseen = is_coord(pairs).all(axis=1), (pairs == INVISIBLE).all(axis=1)
        np.testing.assert_allclose(pose.keypoints[seen | unseen, :2], expected[seen | unseen], rtol=0, atol=1e-4)
        assert np.array_equal(pose.keypoints[:, 2] == 2, seen)
        assert np.array_equal(decoded.points[seen], data["final_points"][row].reshape(17, 2)[seen])
        compared += seen.sum(), unseen.sum()
    assert compared.all(), compared


def test_points_of_a_crop_are_shifted_alike(reference):
    data = reference("keypoints.npz")
    visible = (data["crop_points_in"] >= 0).reshape(-1, 17, 2).all(axis=-1)  # others are reserved numbers, some by half
    for row, (y, x) in enumerate(data["crop_offset"]):
        crop = Geometry(np.array([[1.0, 0, -x], [0, 1, -y]]), 100)
        points = crop.invert(data["crop_points_in"][row].reshape(17, 2)[:, ::-1])[:, ::-1]
        expected = data["crop_points_out"][row].reshape(17, 2)
        np.testing.assert_allclose(points[visible[row]], expected[visible[row]], rtol=0, atol=1e-4)


def test_points_are_mirrored_alike(reference):
    data = reference("keypoints.npz")
    geometry = Geometry(np.eye(2, 3), 1).flip()
    for given, expected in zip(data["flip_in"][0], data["flip_keypoints"], strict=True):
        points = given.reshape(17, 2)
        keypoints = np.column_stack([points[:, ::-1], np.where(points[:, 0] > 0, 2, 0)])
        found, visible = keypoints_on_canvas(keypoints, geometry, True, COCO_PERSON)
        expected = expected.reshape(17, 2)
        assert np.array_equal(visible, expected[:, 0] != -3)
        np.testing.assert_allclose(found[visible], expected[visible], rtol=0, atol=1e-6)


def test_suppression_puts_a_coordinate_at_every_place(reference):
    """The official code draws from what its truncation leaves of the logits without "invisible".

    Called with logits of rank 3, that truncation lets more through than its nucleus (see the notes of the reference);
    ours chooses the likeliest coordinate, which is among what is left there in either case, and draws nothing.
    """
    data = reference("keypoints.npz")
    logits = torch.from_numpy(data["suppress_logits_in"])
    shifted = torch.full((*logits.shape[:2], VOCAB_SIZE), -20.0)
    coords = slice(COORD_SHIFT, COORD_SHIFT + logits.shape[-1] - 50)
    shifted[..., coords] = logits[..., 50:]  # where coordinates are in the vocabulary
    shifted[..., INVISIBLE] = 30.0
    tokens, probs = coords_of(torch.full(logits.shape[:2], INVISIBLE), shifted)
    assert torch.equal(tokens - COORD_SHIFT, logits[..., 50:].argmax(-1))
    shifted[..., INVISIBLE] = -1e9
    expected = shifted.softmax(-1).amax(-1)
    torch.testing.assert_close(probs, expected, atol=1e-6, rtol=0)
    chosen = torch.full(logits.shape[:2], COORD_SHIFT)  # a coordinate that was chosen stays, as likely as it is
    tokens, probs = coords_of(chosen, shifted)
    assert torch.equal(tokens, chosen)
    torch.testing.assert_close(probs, shifted.softmax(-1)[..., COORD_SHIFT], atol=1e-6, rtol=0)
    best = logits.index_fill(-1, torch.tensor(INVISIBLE), -1e9).argmax(-1, keepdim=True)
    for name in data:
        if name.startswith("suppress_top_logits_rank3"):
            assert (torch.from_numpy(data[name]).gather(-1, best) > -1e9).all()


# Truncation


@pytest.mark.parametrize("case", reference_cases("tasks/top_logits.npz", r"out_(k\d+_p[\d.]+)"))
def test_logits_are_truncated_alike(reference, case: str):
    data = reference("top_logits.npz")
    top_k, top_p = case.removeprefix("k").split("_p")
    expected = torch.from_numpy(data[f"out_{case}"])
    expected = expected.masked_fill(expected == float(data["mask_value"]), -torch.inf)
    assert torch.equal(truncate_logits(torch.from_numpy(data["logits"]), int(top_k), float(top_p)), expected)


# Captions


class Ids:
    """A text vocabulary that reads captions of ids; its end is the official one."""

    end = 1 + TEXT_SHIFT

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def test_captions_are_trained_alike(reference):
    """Up to the end. There the official sequences go on with padding, whose tokens weigh as much as words (1.0).

    Ours end: no padding is learned. The official decoder writes a fixed number of tokens and needs to know what follows
    the end; ours stops there, so that to learn padding would only take weight from the words, most of it for the
    shortest captions.
    """
    data = reference("captioning.npz")
    captions, targets, weights = data["captions"], data["target_seq"], data["token_weights"]
    end_weight = float(weights[targets == Ids.end][0])
    tokenizer = CaptioningTokenizer(captions.max() + 1, Ids(), captions.shape[-1], end_weight)
    for place in np.ndindex(captions.shape[:2]):
        length = int(np.argmax(captions[place] == Ids.end)) + 1
        words = captions[place][: length - 1] - TEXT_SHIFT
        sequence = tokenizer.encode(" ".join(map(str, words)))
        names = ("input_seq_no_drop", "target_seq", "token_weights")
        assert_same(sequence, *(data[name][place][:length].astype(sequence.weight.dtype) for name in names))
        assert (targets[place][length:] == END).all() and (weights[place][length:] == 1).all()


def test_caption_words_are_dropped_alike(reference):
    data = reference("captioning.npz")
    (name,) = (name for name in data if name.startswith("random_sample_input_seq_drop"))
    clean, dropped, rate = data["input_seq_no_drop"], data[name], float(name.partition("drop")[2])
    sequence = TokenSequence(clean.ravel(), clean.ravel(), np.ones(clean.size))
    for masked in (dropped.ravel(), drop_words(sequence, rate, np.random.default_rng(0)).input):
        assert set(masked[masked != sequence.input]) == {FAKE}
        assert np.mean(masked == FAKE) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / clean.size) ** 0.5)
