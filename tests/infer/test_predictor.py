"""Answers come back in the image's own pixels, one for each question."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.images import read_image
from pix2seq.errors import UserError
from pix2seq.infer.masks import decode_mask
from pix2seq.infer.predictor import Predictor, load_predictor
from pix2seq.infer.results import Instances, Prompt, coco_results
from pix2seq.models.generate import generate
from pix2seq.models.weights import load_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.tokenizers.vocabulary import CLASS_SHIFT, INVISIBLE, TEXT_SHIFT, quantize
from tests.exact_model import ExactModel

WIDE = np.zeros((100, 200, 3), np.uint8)  # letterboxed, 200 px span the canvas
BOX = np.array([50.0, 20.0, 90.0, 60.0])  # cropped with a quarter on each side: pixels 40 … 100 and 10 … 70
CROP_X, CROP_Y, CROP_PX = 40, 10, 60


def crop_tokens(points_px: list[tuple[float, float]]) -> list[int]:
    """Tokens y x of points x y of the image, in the crop around BOX."""
    points = (np.array(points_px) - [CROP_X, CROP_Y]) / CROP_PX
    return quantize(points[:, ::-1]).ravel().tolist()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_boxes_are_in_pixels_and_surest_first(make_predictor, answer_with):
    answer_with("detection", [*quantize([0.1, 0.2, 0.3, 0.6]), CLASS_SHIFT + 3, 0])
    found = make_predictor().detect([WIDE])[0]
    assert found.boxes[0] == pytest.approx([40, 20, 120, 60], abs=0.2)
    assert (found.classes.tolist(), found.scores.tolist()) == ([3], [0.9])


def test_boxes_are_clipped_and_empty_ones_dropped(make_predictor, answer_with):
    beyond = [*quantize([0.4, 0.0, 1.0, 1.0]), CLASS_SHIFT + 1]  # the image ends at half the canvas
    padding = [*quantize([0.6, 0.2, 0.9, 0.8]), CLASS_SHIFT + 1]
    flat = [*quantize([0.1, 0.2, 0.1, 0.8]), CLASS_SHIFT + 1]
    answer_with("detection", [*beyond, *padding, *flat, 0])
    boxes = make_predictor().detect([WIDE])[0].boxes
    assert boxes == pytest.approx(np.array([[0, 80, 200, 100]]), abs=0.2)


def test_a_mask_lies_where_its_polygon_says(make_predictor, answer_with):
    answer_with("segmentation", [*crop_tokens([(50, 20), (80, 20), (80, 50), (50, 50)]), 0])
    mask = make_predictor(num_samples=1).segment([WIDE], [Prompt(0, BOX, 1)])[0]
    expected = np.zeros((100, 200), bool)
    expected[20:50, 50:80] = True
    wrong = decode_mask(mask.rle) != expected
    assert wrong.sum() <= 60  # an outline of 120 px, half of it off by one at most
    assert mask.score == 1


def test_samples_vote_on_a_mask(make_predictor, answer_with):
    small = crop_tokens([(50, 20), (60, 20), (60, 50), (50, 50)])
    large = crop_tokens([(50, 20), (90, 20), (90, 50), (50, 50)])
    answer_with("segmentation", [*small, 0], [*small, 0], [*large, 0])
    areas = []
    for threshold in (0.3, 0.6):
        predictor = make_predictor(num_samples=3, mask_threshold=threshold)
        areas.append(decode_mask(predictor.segment([WIDE], [Prompt(0, BOX, 1)])[0].rle).sum())
    assert areas == pytest.approx([40 * 30, 10 * 30], rel=0.07)


def test_an_empty_answer_is_an_empty_mask(make_predictor, answer_with):
    answer_with("segmentation", [0])
    mask = make_predictor(num_samples=2).segment([WIDE], [Prompt(0, BOX, 1)])[0]
    assert (mask.rle["size"], mask.score, decode_mask(mask.rle).any()) == ([100, 200], 0, False)


def test_keypoints_are_in_pixels_and_invisible_ones_at_the_box_centre(make_predictor, answer_with):
    answer_with("keypoint", [*crop_tokens([(60, 30)]), *[INVISIBLE] * 32])
    pose = make_predictor().keypoints([WIDE], [Prompt(0, BOX, 1)])[0]
    assert pose.keypoints[0] == pytest.approx([60, 30, 2], abs=0.1)
    assert (pose.keypoints[1:] == [70, 40, 0]).all()
    assert pose.score == pytest.approx(0.9)


def test_captions_are_words(make_predictor, answer_with):
    answer_with("captioning", [TEXT_SHIFT + 1, TEXT_SHIFT + 2, 0])
    assert make_predictor().caption([WIDE, WIDE]) == ["a person"] * 2


def test_real_answers_have_one_entry_for_each_question(make_predictor):
    predictor = make_predictor(num_samples=2, eval_batch_size=2)
    images = [noise(40, 60), noise(70, 1), noise(300, 200)]
    prompts = [Prompt(number, np.array([0.0, 0.0, 30.0, 20.0]), 1) for number in (0, 2, 2, 1, 0)]
    crops = predictor.encode_crops(images, prompts)
    assert len(predictor.detect(images)) == len(predictor.caption(images)) == 3
    masks = predictor.segment(images, prompts, crops)
    assert [mask.rle["size"] for mask in masks] == [[40, 60], [300, 200], [300, 200], [70, 1], [40, 60]]
    assert [pose.keypoints.shape for pose in predictor.keypoints(images, prompts, crops)] == [(17, 3)] * 5


def test_no_images_and_no_prompts_are_no_answers(make_predictor):
    predictor = make_predictor()
    assert predictor.detect([]) == predictor.caption([]) == []
    assert predictor.segment([WIDE], []) == predictor.keypoints([WIDE], []) == []


def test_sampling_repeats_itself_for_a_seed(make_predictor):
    def masks(seed: int) -> list:
        return make_predictor(num_samples=3, top_p=1.0, seed=seed).segment([noise(80, 80)], [Prompt(0, BOX, 1)])

    assert masks(0) == masks(0)
    assert masks(0) != masks(1)


def test_answers_do_not_depend_on_the_size_of_chunks(make_predictor, tiny_model_cfg: CFG):
    images = [noise(30 + 10 * i, 50) for i in range(5)]
    prompts = [Prompt(number, BOX, 1) for number in (4, 0, 2, 2, 1, 3, 0)]
    answers = []
    for size in (1, 3, 7):
        predictor = make_predictor(eval_batch_size=size, num_samples=2)
        predictor.model = ExactModel(tiny_model_cfg.model.vocab_size)
        predictor.cfg = config.replace(predictor.cfg, coord_window=0)  # a mean would be rounded
        boxes = [found.boxes.tolist() for found in predictor.detect(images)]
        poses = [pose.keypoints.tolist() for pose in predictor.keypoints(images, prompts)]
        answers.append((boxes, predictor.segment(images, prompts), poses, predictor.caption(images)))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(map(str, answers[0][0]))) == len(images)


def test_what_a_canvas_is_encoded_to_does_not_depend_on_the_size_of_chunks_but_for_rounding(make_predictor):
    images = [noise(30 + 10 * i, 50) for i in range(5)]
    alone, together = (make_predictor(eval_batch_size=size).encode_images(images).memory for size in (1, 5))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_trained_model_finds_the_same_in_chunks_of_any_size(scenes_root: Path):
    """Its tokens are no promise: of two neighbouring bins that are as likely, rounding may choose either."""
    paths = sorted((scenes_root / "val2017").iterdir())
    images = [read_image(paths[number]) for number in (0, 4, 5)]
    found = []
    for size in (1, 3):
        cfg = config.replace(CFG(), weights=str(ROOT / "weights" / "scenes.safetensors"), eval_batch_size=size)
        found.append(load_predictor(config.replace(cfg, device="cpu")).detect(images))
    for one, other in zip(*found, strict=True):
        one, other = (each[np.argsort(each.boxes[:, 0])] for each in (one, other))  # scores are too near each other
        assert one.scores.min() > 0.9 and one.classes.tolist() == other.classes.tolist()
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1.5)
        np.testing.assert_allclose(one.scores, other.scores, atol=0.02)


def test_a_chunk_is_answered_in_one_call(make_predictor, monkeypatch):
    calls = []
    monkeypatch.setattr("pix2seq.infer.predictor.generate", lambda *args: calls.append(len(args[2])) or generate(*args))
    make_predictor(eval_batch_size=4).keypoints([WIDE], [Prompt(0, BOX, 1)] * 6)
    assert calls == [4, 2]


def test_an_answer_never_exceeds_what_the_model_was_trained_for(make_predictor):
    predictor = make_predictor(max_objects=1000, max_points=1000)
    predictor.detect([noise(50, 50)])
    predictor.segment([noise(50, 50)], [Prompt(0, np.array([0.0, 0.0, 9.0, 9.0]), 1)])


def test_describe_encodes_each_canvas_once(make_predictor, answer_with, monkeypatch):
    answer_with("detection", [*quantize([0.1, 0.1, 0.3, 0.3]), CLASS_SHIFT + 1, 0])
    answer_with("segmentation", [*crop_tokens([(50, 20), (60, 20), (60, 50)]), 0])
    answer_with("keypoint", [INVISIBLE] * 34)
    answer_with("captioning", [TEXT_SHIFT + 3, 0])
    predictor = make_predictor()
    encoded, encode = [], predictor.model.encode
    monkeypatch.setattr(predictor.model, "encode", lambda images: encoded.append(len(images)) or encode(images))
    result = predictor.describe(WIDE, predictor.trained_tasks)
    assert encoded == [1, 1]
    assert (len(result.instances), len(result.masks), len(result.poses), result.caption) == (1, 1, 1, "car")


def test_only_people_have_keypoints(make_predictor, answer_with):
    answer_with("keypoint", [INVISIBLE] * 34)
    instances = Instances(np.stack([BOX, BOX]), np.array([3, 1]), np.ones(2))
    result = make_predictor().describe(WIDE, ("keypoint",), instances)
    assert result.poses[0] is None
    assert result.poses[1].keypoints.shape == (17, 3)


def test_unsure_detections_are_left_out(make_predictor, answer_with):
    answer_with("detection", [*quantize([0.1, 0.1, 0.3, 0.3]), CLASS_SHIFT + 1, 0], prob=0.2)
    assert len(make_predictor(score_threshold=0.3).describe(WIDE, ("detection",)).instances) == 0


def test_coco_results_hold_all_that_is_known(make_predictor, answer_with):
    answer_with("segmentation", [*crop_tokens([(50, 20), (60, 20), (60, 50)]), 0])
    answer_with("keypoint", [INVISIBLE] * 34)
    answer_with("captioning", [TEXT_SHIFT + 1, 0])
    instances = Instances(BOX[None], np.array([1]), np.array([0.5]))
    tasks = ("segmentation", "keypoint", "captioning")
    entry, caption = coco_results(7, make_predictor().describe(WIDE, tasks, instances))
    assert {"image_id": 7, "category_id": 1, "bbox": [50, 20, 40, 40], "score": 0.5}.items() <= entry.items()
    assert isinstance(entry["segmentation"]["counts"], str)
    assert len(entry["keypoints"]) == 51
    assert caption == {"image_id": 7, "caption": "a"}


def test_a_task_that_was_not_trained_is_refused(make_predictor):
    predictor: Predictor = make_predictor()
    predictor.trained_tasks = ("detection",)
    with pytest.raises(UserError, match="not for captioning"):
        predictor.require(["detection", "captioning"])


@pytest.mark.parametrize("values", [{"num_samples": 0}, {"top_p": 0.0}, {"temperature": -1.0}])
def test_settings_that_cannot_be_decoded_are_refused(make_predictor, values):
    with pytest.raises(UserError, match="expects"):
        make_predictor(**values)


# Models that were taught like the official ones


@pytest.fixture
def make_taught(weights_path: Path, tiny_model_cfg: CFG) -> Callable[..., Predictor]:
    """A predictor whose model was taught with some settings changed."""

    def make(**values) -> Predictor:
        weights, cfg = load_weights(weights_path), config.replace(tiny_model_cfg, **values)
        return Predictor(dataclasses.replace(weights, cfg=cfg), cfg, torch.device("cpu"))

    return make


def count_encoded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many canvases each later call of the encoder gets."""
    encoded, encode = [], predictor.model.encode
    monkeypatch.setattr(predictor.model, "encode", lambda images: encoded.append(len(images)) or encode(images))
    return encoded


def test_instances_segmented_on_whole_images_share_an_encoding(make_taught, monkeypatch):
    predictor = make_taught(segment_whole=True, num_samples=2)
    encoded, asked = count_encoded(predictor, monkeypatch), []
    monkeypatch.setattr(
        "pix2seq.infer.predictor.generate",
        lambda *args: asked.append((len(args[1]), args[3].tolist())) or generate(*args),
    )
    prompts = [Prompt(number, np.array([0.0, 0.0, 30.0, 20.0]), 1) for number in (2, 0, 2)]
    masks = predictor.segment([noise(40, 60), noise(9, 9), noise(300, 200)], prompts)
    assert encoded == [2]
    assert asked == [(2, [0, 1, 0])]
    assert [mask.rle["size"] for mask in masks] == [[300, 200], [40, 60], [300, 200]]


def test_a_whole_image_s_mask_lies_where_its_polygon_says(make_taught, answer_with):
    answer_with("segmentation", [*quantize(np.array([[0.1, 0.2], [0.1, 0.6], [0.3, 0.6], [0.3, 0.2]])).ravel(), 0])
    mask = make_taught(segment_whole=True, num_samples=1).segment([WIDE], [Prompt(0, BOX, 1)])[0]
    expected = np.zeros((100, 200), bool)
    expected[20:60, 40:120] = True
    assert (decode_mask(mask.rle) != expected).sum() <= 130  # half of the outline off by one at most


def test_whole_images_that_are_encoded_already_are_not_encoded_again(make_taught, monkeypatch):
    predictor = make_taught(segment_whole=True, num_samples=1)
    encoded = count_encoded(predictor, monkeypatch)
    images = [noise(40, 60), noise(50, 30)]
    whole = predictor.encode_images(images)
    instances = Instances(np.tile([[0.0, 0.0, 30.0, 20.0]], (3, 1)), np.array([1, 3, 1]), np.ones(3))
    predictor.describe_instances(images, ("segmentation", "keypoint"), [instances, instances], whole)
    assert encoded == [2, 4]  # both images, and a crop for each person


def test_keypoints_in_a_crop_that_ends_with_the_image_are_in_pixels(make_taught, answer_with):
    predictor = make_taught(crop_inside=True, crop_padding=0.5)
    box = np.array([150.0, 40, 190, 80])
    geometry = predictor.encode_crops([WIDE], [Prompt(0, box, 1)]).geometries[0]
    assert geometry.region[2:] == (200, 100)
    answer_with("keypoint", [*quantize(geometry.to_fractions(np.array([160.0, 60]))), *[INVISIBLE] * 32])
    pose = predictor.keypoints([WIDE], [Prompt(0, box, 1)])[0]
    assert pose.keypoints[0] == pytest.approx([160, 60, 2], abs=0.1)


def test_a_full_detection_says_all_objects(make_taught):
    predictor = make_taught(full_detection=True, max_objects=7)
    encoded = predictor.encode_images([noise(50, 50)])
    tokens = predictor._answers("detection", encoded, [predictor.tokenizers["detection"].prompt()])[0].tokens
    assert len(tokens) == 35
    assert np.all(tokens > 0)


def test_sampled_detections_differ_between_seeds(make_predictor):
    found = [make_predictor(detection_top_p=1.0, seed=seed).detect([noise(50, 50)])[0].boxes for seed in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_suppressed_invisible_keypoints_are_placed_by_their_likeliest_tokens(make_predictor, answer_with):
    answer_with("keypoint", [INVISIBLE] * 34)
    predictor = make_predictor(suppress_invisible=True)
    image, prompt = noise(80, 80), Prompt(0, BOX[[1, 1, 3, 3]], 1)
    pose = predictor.keypoints([image], [prompt])[0]
    crop = predictor.encode_crops([image], [prompt])
    asked = predictor._instance_prompts("keypoint", crop, [prompt])[0]
    tokens = torch.tensor([[*asked, *[INVISIBLE] * 33]])
    with torch.inference_mode():
        logits = predictor.model.answer_groups(crop.memory[0][None], [(tokens, torch.tensor([0]))])[0][0, 5:]
    likeliest = logits[:, 1000:2000].argmax(-1).reshape(17, 2).numpy() / 999
    expected = np.clip(crop.geometries[0].from_fractions(likeliest), 0, 80)
    np.testing.assert_allclose(pose.keypoints[:, :2], expected, atol=1e-3)
    assert not pose.keypoints[:, 2].any()
    assert 0 < pose.score < 0.9
