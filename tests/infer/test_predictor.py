"""Predictions are in pixels of the image, one for each image or prompt."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import pix2seq
from pix2seq.dataset.images import read_image
from pix2seq.dataset.masks import decode_mask
from pix2seq.errors import UserError
from pix2seq.infer import generator
from pix2seq.infer.captioning import Captions
from pix2seq.infer.generator import ModelGenerator
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.results import Instances, Prompt, coco_results
from pix2seq.models.generate import generate
from pix2seq.models.sampling import GREEDY
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS
from pix2seq.token_ids import CLASS_SHIFT, COORDS, INVISIBLE, TEXT_SHIFT, is_coord
from pix2seq.tokenizers.vocabulary import Grammar, quantize
from tests.exact_model import with_exact_model

WIDE = np.zeros((100, 200, 3), np.uint8)  # letterboxed, 200 px span the canvas
BOX = np.array([50.0, 20.0, 90.0, 60.0])  # cropped with a quarter on each side: pixels 40 … 100 and 10 … 70
CROP_X, CROP_Y, CROP_PX = 40, 10, 60
PROMPTS = [Prompt(0, BOX, 1)]


def crop_tokens(points_px: list[tuple[float, float]]) -> list[int]:
    """Tokens y x of points x y of the image, in the crop around BOX."""
    points = (np.array(points_px) - [CROP_X, CROP_Y]) / CROP_PX
    return quantize(points[:, ::-1]).ravel().tolist()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_boxes_are_in_pixels_and_highest_scores_first(make_predictor):
    predictor = make_predictor({"detection": [[*quantize([0.1, 0.2, 0.3, 0.6]), CLASS_SHIFT + 3, 0]]})
    found = predictor.predict("detection", [WIDE])[0]
    assert found.boxes[0] == pytest.approx([40, 20, 120, 60], abs=0.2)
    assert (found.classes.tolist(), found.scores.tolist()) == ([3], [0.9])


def test_boxes_are_clipped_and_empty_ones_dropped(make_predictor):
    beyond = [*quantize([0.4, 0.0, 1.0, 1.0]), CLASS_SHIFT + 1]  # the image ends at half the canvas
    padding = [*quantize([0.6, 0.2, 0.9, 0.8]), CLASS_SHIFT + 1]
    flat = [*quantize([0.1, 0.2, 0.1, 0.8]), CLASS_SHIFT + 1]
    predictor = make_predictor({"detection": [[*beyond, *padding, *flat, 0]]})
    boxes = predictor.predict("detection", [WIDE])[0].boxes
    assert boxes == pytest.approx(np.array([[0, 80, 200, 100]]), abs=0.2)


def test_a_mask_lies_where_its_polygon_is_predicted(make_predictor):
    square = [*crop_tokens([(50, 20), (80, 20), (80, 50), (50, 50)]), 0]
    mask = make_predictor({"segmentation": [square]}, num_samples=1).predict("segmentation", [WIDE], PROMPTS)[0]
    expected = np.zeros((100, 200), bool)
    expected[20:50, 50:80] = True
    wrong = decode_mask(mask.rle) != expected
    assert wrong.sum() <= 60  # an outline of 120 px, half of it off by one at most
    assert mask.score == 1


def test_samples_vote_for_a_mask(make_predictor):
    small = crop_tokens([(50, 20), (60, 20), (60, 50), (50, 50)])
    large = crop_tokens([(50, 20), (90, 20), (90, 50), (50, 50)])
    responses = {"segmentation": [[*small, 0], [*small, 0], [*large, 0]]}
    areas = []
    for threshold in (0.3, 0.6):
        predictor = make_predictor(responses, num_samples=3, mask_threshold=threshold)
        areas.append(decode_mask(predictor.predict("segmentation", [WIDE], PROMPTS)[0].rle).sum())
    assert areas == pytest.approx([40 * 30, 10 * 30], rel=0.07)


def test_an_empty_response_is_an_empty_mask(make_predictor):
    mask = make_predictor({"segmentation": [[0]]}, num_samples=2).predict("segmentation", [WIDE], PROMPTS)[0]
    assert (mask.rle["size"], mask.score, decode_mask(mask.rle).any()) == ([100, 200], 0, False)


def test_keypoints_are_in_pixels_and_invisible_ones_at_the_box_center(make_predictor):
    predictor = make_predictor({"keypoint": [[*crop_tokens([(60, 30)]), *[INVISIBLE] * 32]]})
    pose = predictor.predict("keypoint", [WIDE], PROMPTS)[0]
    assert pose.keypoints[0] == pytest.approx([60, 30, 2], abs=0.1)
    assert (pose.keypoints[1:] == [70, 40, 0]).all()
    assert pose.score == pytest.approx(0.9)


def test_captions_are_words(make_predictor):
    predictor = make_predictor({"captioning": [[TEXT_SHIFT + 1, TEXT_SHIFT + 2, 0]]})
    assert predictor.predict("captioning", [WIDE, WIDE]) == [Captions(("a person",))] * 2


def test_a_model_predicts_one_entry_for_each_image_and_each_prompt(make_predictor):
    predictor = make_predictor(num_samples=2, eval_batch_size=2)
    images = [noise(40, 60), noise(70, 1), noise(300, 200)]
    prompts = [Prompt(number, np.array([0.0, 0.0, 30.0, 20.0]), 1) for number in (0, 2, 2, 1, 0)]
    crops = predictor.encode_crops(images, prompts)
    assert len(predictor.predict("detection", images)) == len(predictor.predict("captioning", images)) == 3
    masks = predictor.predict("segmentation", images, prompts, crops)
    assert [mask.rle["size"] for mask in masks] == [[40, 60], [300, 200], [300, 200], [70, 1], [40, 60]]
    poses = predictor.predict("keypoint", images, prompts, crops)
    assert [pose.keypoints.shape for pose in poses] == [(17, 3)] * 5


def test_no_images_and_no_prompts_are_no_predictions(make_predictor):
    predictor = make_predictor()
    assert predictor.predict("detection", []) == predictor.predict("captioning", []) == []
    assert predictor.predict("segmentation", [WIDE], []) == predictor.predict("keypoint", [WIDE], []) == []


def test_sampling_repeats_itself_for_a_seed(make_predictor):
    def masks(seed: int) -> list:
        predictor = make_predictor(num_samples=3, top_p=1.0, seed=seed)
        return predictor.predict("segmentation", [noise(80, 80)], PROMPTS)

    assert masks(0) == masks(0)
    assert masks(0) != masks(1)


def test_predictions_do_not_depend_on_the_size_of_chunks(make_predictor):
    images = [noise(30 + 10 * i, 50) for i in range(5)]
    prompts = [Prompt(number, BOX, 1) for number in (4, 0, 2, 2, 1, 3, 0)]
    predictions = []
    for size in (1, 3, 7):
        predictor = with_exact_model(make_predictor(eval_batch_size=size, num_samples=2))
        boxes = [found.boxes.tolist() for found in predictor.predict("detection", images)]
        poses = [pose.keypoints.tolist() for pose in predictor.predict("keypoint", images, prompts)]
        masks = predictor.predict("segmentation", images, prompts)
        predictions.append((boxes, masks, poses, predictor.predict("captioning", images)))
    assert predictions[0] == predictions[1] == predictions[2]
    assert len(set(map(str, predictions[0][0]))) == len(images)


def test_encodings_do_not_depend_on_the_size_of_chunks_but_for_rounding(make_predictor):
    images = [noise(30 + 10 * i, 50) for i in range(5)]
    alone, together = (make_predictor(eval_batch_size=size).encode_images(images).first.memory for size in (1, 5))
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


def test_predictions_of_a_trained_model_are_the_same_in_chunks_of_any_size(scenes_root: Path):
    """Tokens may differ: of two neighboring bins of equal probability, rounding may choose either."""
    paths = sorted((scenes_root / "val2017").iterdir())
    images = [read_image(paths[number]) for number in (0, 4, 5)]
    weights = ROOT / "weights" / "scenes.safetensors"
    models = [pix2seq.load(weights, device="cpu", eval_batch_size=size) for size in (1, 3)]
    found = [model.predictor.predict("detection", images) for model in models]
    for one, other in zip(*found, strict=True):
        one, other = (each[np.argsort(each.boxes[:, 0])] for each in (one, other))  # scores are too near each other
        assert one.scores.min() > 0.9 and one.classes.tolist() == other.classes.tolist()
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1.5)
        np.testing.assert_allclose(one.scores, other.scores, atol=0.02)


def record_generate(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int], int]]:
    """Record each later call of `generate`: its number of canvases, each prompt's canvas, its number of prompts."""
    calls = []

    def recorded(model, memory, prompts, image_index, *more):
        calls.append((len(memory), image_index.tolist(), len(prompts)))
        return generate(model, memory, prompts, image_index, *more)

    monkeypatch.setattr(generator, "generate", recorded)
    return calls


def record_encode(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of canvases of each later call of the encoder."""
    encoded, model = [], predictor.generator.model
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda images: encoded.append(len(images)) or encode(images))
    return encoded


def test_the_prompts_of_a_chunk_are_decoded_in_one_call(make_predictor, monkeypatch):
    calls = record_generate(monkeypatch)
    make_predictor(eval_batch_size=4).predict("keypoint", [WIDE], PROMPTS * 6)
    assert [prompts for _, _, prompts in calls] == [4, 2]


def test_a_response_never_exceeds_the_length_that_the_model_was_trained_with(make_predictor):
    predictor = make_predictor(max_objects=1000, max_points=1000)  # more than its --max-tokens
    predictor.predict("detection", [noise(50, 50)])
    predictor.predict("segmentation", [noise(50, 50)], [Prompt(0, np.array([0.0, 0.0, 9.0, 9.0]), 1)])


def test_describe_encodes_each_canvas_once(make_predictor):
    responses = {
        "detection": [[*quantize([0.1, 0.1, 0.3, 0.3]), CLASS_SHIFT + 1, 0]],
        "segmentation": [[*crop_tokens([(50, 20), (60, 20), (60, 50)]), 0]],
        "keypoint": [[INVISIBLE] * 34],
        "captioning": [[TEXT_SHIFT + 3, 0]],
    }
    predictor = make_predictor(responses)
    result = predictor.describe(WIDE, list(predictor.tasks))
    assert predictor.generator.encoded == [1, 1]
    assert result.predictions.keys() == TASKS.keys()
    found, masks, poses, caption = (result.predictions[name] for name in TASKS)
    assert (len(result.instances), len(found), len(masks), len(poses), caption.best) == (1, 1, 1, 1, "car")


def test_only_people_have_keypoints(make_predictor):
    instances = Instances(np.stack([BOX, BOX]), np.array([3, 1]), np.ones(2))
    predictor = make_predictor({"keypoint": [[INVISIBLE] * 34]})
    poses = predictor.describe(WIDE, ["keypoint"], instances).predictions["keypoint"]
    assert poses[0] is None
    assert poses[1].keypoints.shape == (17, 3)


def test_detections_with_a_low_score_are_left_out(make_predictor):
    responses = {"detection": [[*quantize([0.1, 0.1, 0.3, 0.3]), CLASS_SHIFT + 1, 0]]}
    result = make_predictor(responses, prob=0.2, score_threshold=0.3).describe(WIDE, ["detection"])
    assert len(result.instances) == len(result.predictions["detection"]) == 0


def test_coco_results_contain_all_predictions(make_predictor):
    responses = {
        "segmentation": [[*crop_tokens([(50, 20), (60, 20), (60, 50)]), 0]],
        "keypoint": [[INVISIBLE] * 34],
        "captioning": [[TEXT_SHIFT + 1, 0]],
    }
    instances = Instances(BOX[None], np.array([1]), np.array([0.5]))
    result = make_predictor(responses).describe(WIDE, list(responses), instances)
    entry, caption = coco_results(7, result, TASKS)
    assert {"image_id": 7, "category_id": 1, "bbox": [50, 20, 40, 40], "score": 0.5}.items() <= entry.items()
    assert isinstance(entry["segmentation"]["counts"], str)
    assert len(entry["keypoints"]) == 51
    assert caption == {"image_id": 7, "caption": "a"}


def test_a_task_that_was_not_trained_is_refused(make_predictor):
    predictor: Predictor = make_predictor(task="detection")
    with pytest.raises(UserError, match="not for captioning"):
        predictor.require(["detection", "captioning"])


@pytest.mark.parametrize("values", [{"num_samples": 0}, {"top_p": 0.0}, {"temperature": -1.0}])
def test_settings_that_cannot_be_decoded_are_refused(make_predictor, values):
    with pytest.raises(UserError, match="expects"):
        make_predictor(**values)


# Models that were trained like the official ones


def test_instances_segmented_on_whole_images_share_an_encoding(make_predictor, monkeypatch):
    predictor = make_predictor(segment_whole=True, num_samples=2)
    encoded, calls = record_encode(predictor, monkeypatch), record_generate(monkeypatch)
    prompts = [Prompt(number, np.array([0.0, 0.0, 30.0, 20.0]), 1) for number in (2, 0, 2)]
    masks = predictor.predict("segmentation", [noise(40, 60), noise(9, 9), noise(300, 200)], prompts)
    assert encoded == [2]
    assert calls == [(2, [1, 0, 1], 3)]
    assert [mask.rle["size"] for mask in masks] == [[300, 200], [40, 60], [300, 200]]


def test_a_whole_image_s_mask_lies_where_its_polygon_is_predicted(make_predictor):
    square = [*quantize(np.array([[0.1, 0.2], [0.1, 0.6], [0.3, 0.6], [0.3, 0.2]])).ravel(), 0]
    predictor = make_predictor({"segmentation": [square]}, segment_whole=True, num_samples=1)
    mask = predictor.predict("segmentation", [WIDE], PROMPTS)[0]
    expected = np.zeros((100, 200), bool)
    expected[20:60, 40:120] = True
    assert (decode_mask(mask.rle) != expected).sum() <= 130  # half of the outline off by one at most


def test_whole_images_that_are_encoded_already_are_not_encoded_again(make_predictor, monkeypatch):
    predictor = make_predictor(segment_whole=True, num_samples=1)
    encoded = record_encode(predictor, monkeypatch)
    images = [noise(40, 60), noise(50, 30)]
    whole = predictor.encode_images(images)
    instances = Instances(np.tile([[0.0, 0.0, 30.0, 20.0]], (3, 1)), np.array([1, 3, 1]), np.ones(3))
    predictor.describe_instances(images, ["segmentation", "keypoint"], [instances, instances], whole)
    assert encoded == [2, 4]  # both images, and a crop for each person


def test_keypoints_in_a_crop_that_ends_with_the_image_are_in_pixels(make_predictor, fake_generator):
    predictor = make_predictor(crop_inside=True, crop_padding=0.5)
    box = np.array([150.0, 40, 190, 80])
    geometry = predictor.encode_crops([WIDE], [Prompt(0, box, 1)]).first.geometry(0)
    assert geometry.region[2:] == (200, 100)
    tokens = [*quantize(geometry.to_fractions(np.array([160.0, 60]))), *[INVISIBLE] * 32]
    predictor = predictor.with_generator(fake_generator({"keypoint": [tokens]}))
    pose = predictor.predict("keypoint", [WIDE], [Prompt(0, box, 1)])[0]
    assert pose.keypoints[0] == pytest.approx([160, 60, 2], abs=0.1)


def test_a_full_detection_predicts_all_objects(make_predictor):
    predictor = make_predictor(full_detection=True, max_objects=7)
    prompt = predictor.tokenizers["detection"].prompt()
    encoded = predictor.encode_images([noise(50, 50)]).first
    tokens = predictor.generator.generate("detection", encoded, [prompt], GREEDY, 1)[0].tokens
    assert len(tokens) == 35
    assert np.all(tokens > 0)


def test_sampled_detections_differ_between_seeds(make_predictor):
    found = [
        make_predictor(detection_top_p=1.0, seed=seed).predict("detection", [noise(50, 50)])[0].boxes
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def nothing_visible() -> Grammar:
    """Keypoints none of which is visible."""
    grammar = Grammar(34, 3200)
    for state in range(34):
        grammar.allow(state, INVISIBLE, state + 1)
    return grammar


def test_suppressed_invisible_keypoints_are_placed_by_their_likeliest_tokens(make_predictor):
    trained: Predictor = make_predictor(suppress_invisible=True)
    model, tokenizers = trained.generator.model, trained.tokenizers.by_task
    grammars = {"keypoint": nothing_visible()}
    predictor = trained.with_generator(ModelGenerator(model, tokenizers, torch.device("cpu")).with_grammars(grammars))
    image, box = noise(80, 80), BOX[[1, 1, 3, 3]]
    pose = predictor.predict("keypoint", [image], [Prompt(0, box, 1)])[0]
    crop = predictor.encode_crops([image], [Prompt(0, box, 1)])
    prompt = tokenizers["keypoint"].prompt(np.clip(crop.first.geometry(0).box_fractions(box)[0], 0, 1), 1)
    tokens = torch.tensor([[*prompt, *[INVISIBLE] * 33]])
    with torch.inference_mode():
        logits = model.decode_groups(crop.first.memory, [(tokens, torch.tensor([0]))])[0][0, 5:]
    likeliest = logits[:, COORDS].argmax(-1).reshape(17, 2).numpy() / 999
    expected = np.clip(crop.first.geometry(0).from_fractions(likeliest), 0, 80)
    np.testing.assert_allclose(pose.keypoints[:, :2], expected, atol=1e-3)
    assert not pose.keypoints[:, 2].any()
    assert 0 < pose.score < 0.9


def test_a_sampled_pose_keeps_its_visible_points_and_places_the_others(make_predictor):
    predictor = make_predictor(suppress_invisible=True, keypoint_top_p=0.5)
    found = []
    generator = predictor.generator
    generate = generator.generate
    generator.generate = lambda *asked: found.extend(generate(*asked)) or found
    predictor.predict("keypoint", [noise(80, 80)], [Prompt(0, BOX[[1, 1, 3, 3]], 1)])
    tokens, coords = found[0].tokens, found[0].coords
    assert is_coord(coords).all()
    assert np.array_equal(coords[is_coord(tokens)], tokens[is_coord(tokens)])


@pytest.mark.parametrize(("task", "setting"), [("keypoint", "keypoint_top_p"), ("captioning", "caption_top_p")])
def test_a_nucleus_samples_and_without_one_decoding_is_greedy(make_predictor, task: str, setting: str):
    for value, greedy in ((0.0, True), (0.5, False)):
        predictor = make_predictor(**{setting: value})
        sampling, count = predictor.tasks[task].inference.sampling(predictor.settings)
        assert (sampling.greedy, count) == (greedy, 1)
        assert greedy or (sampling.top_p, sampling.temperature) == (0.5, 1.0)


@pytest.mark.parametrize("samples", [1, 3])
def test_outlines_end_at_mask_tokens(make_predictor, samples: int):
    for limit in (0, 10):
        predictor = make_predictor(num_samples=samples, mask_tokens=limit, segment_whole=True)
        sampling, count = predictor.tasks["segmentation"].inference.sampling(predictor.settings)
        encoded = predictor.encode_images([noise(50, 50)]).first
        prompt = predictor.tokenizers["segmentation"].prompt(np.array([0.1, 0.1, 0.9, 0.9]), 1)
        found = predictor.generator.generate("segmentation", encoded, [prompt], sampling, count)
        assert len(found) == samples
        assert all(len(response.tokens) == limit for response in found) if limit else len(found[0].tokens) > 10


def test_canvases_of_exact_pixels_are_not_rounded(make_predictor):
    """Whatever the canvas, the model sees a photograph alike; only gray levels between whole ones tell them apart."""
    seen = {}
    for pixels in ("uint8", "float32"):
        predictor = make_predictor()
        model = predictor.generator.model
        model.cfg = dataclasses.replace(model.cfg, pixels=pixels)
        model.encode = lambda batch, pixels=pixels: seen.update({pixels: batch}) or torch.zeros(len(batch), 1, 32)
        predictor.encode_images([noise(50, 80)])
    whole, exact = (seen[pixels] * 255 for pixels in ("uint8", "float32"))
    torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
    assert exact.dtype == torch.float32 and (exact - exact.round()).abs().max() > 0.3
    torch.testing.assert_close(whole, exact, atol=1.0, rtol=0)
    assert (seen["float32"][..., -1] == np.float32(0.3)).all() or (seen["float32"][:, :, -1] == np.float32(0.3)).all()
