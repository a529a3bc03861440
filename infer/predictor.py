"""Ask a trained model about images: boxes, masks, keypoints and captions in the images' own pixels.

Every canvas is encoded once, and the prompts of a chunk are answered together. Answers to several questions about the
same canvases share what `encode_images` or `encode_crops` returned.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pix2seq.config import CFG, PRESETS, ModelCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.errors import UserError
from pix2seq.infer.masks import Mask, vote
from pix2seq.infer.results import Instances, Pose, Prompt, Result, prompts_for
from pix2seq.models.generate import GrammarTables, Sampling, generate
from pix2seq.models.weights import Weights, load_weights
from pix2seq.runtime.device import image_format, pick_device
from pix2seq.runtime.paths import project_path
from pix2seq.tokenizers.build import build_tokenizers
from pix2seq.tokenizers.captioning import read_text
from pix2seq.tokenizers.keypoint import Keypoints
from pix2seq.tokenizers.segmentation import MIN_POINTS
from pix2seq.tokenizers.vocabulary import COORD_SHIFT, COORDS, INVISIBLE

GREEDY = Sampling()


@dataclass(frozen=True)
class Encoded:
    """Encoded canvases: `memory`, (N, D) for each, and the `geometries` that took images to them.

    Where several prompts are about one canvas it is there several times, as the same tensor.
    """

    memory: Sequence[Tensor]
    geometries: Sequence[Geometry]

    def take(self, indices: Sequence[int]) -> Encoded:
        """Some of the canvases, or some of them several times."""
        return Encoded([self.memory[i] for i in indices], [self.geometries[i] for i in indices])

    def stack(self, part: slice) -> tuple[Tensor, Tensor]:
        """`memory` (B, N, D) of the different canvases in a part, and which of them each is, `image_index` (S,)."""
        chunk = self.memory[part]
        different = {id(memory): memory for memory in chunk}
        numbers = {key: number for number, key in enumerate(different)}
        index = torch.tensor([numbers[id(memory)] for memory in chunk], device=chunk[0].device)
        return torch.stack(list(different.values())), index


@dataclass(frozen=True)
class Answer:
    """`tokens` (T,) after the prompt and their `probs` (T,)."""

    tokens: np.ndarray
    probs: np.ndarray


class Predictor:
    """A model with what is needed to ask it. Images are (H, W, 3) uint8 RGB of any size.

    `taught` are the settings of the training: they tell which tokens the model has learnt.
    """

    def __init__(self, weights: Weights, cfg: CFG, device: torch.device) -> None:
        self.cfg = dataclasses.replace(cfg, model=weights.cfg.model)
        self.taught = dataclasses.replace(self.cfg, data=weights.cfg.data, train=weights.cfg.train)
        self.device = device
        self.model = weights.model.eval().to(device, memory_format=image_format(device))
        self.class_names = weights.class_names
        self.skeleton = Skeleton.of_weights(weights.keypoints, weights.class_names)
        self.category_ids = weights.category_ids
        self.trained_tasks, self.step = weights.cfg.tasks, weights.step
        self.tokenizers = build_tokenizers(
            self.taught, sorted(weights.class_names), read_text(weights.text), len(self.skeleton)
        )
        self.grammars = {task: self._grammar_tables(task) for task in self.trained_tasks}

    def _grammar_tables(self, task: str) -> GrammarTables:
        grammar = self.tokenizers[task].grammar()
        tables = (torch.from_numpy(table).to(self.device) for table in (grammar.allowed, grammar.next_state))
        return GrammarTables(*tables, grammar.end, grammar.greedy_states)

    def require(self, tasks: Sequence[str]) -> None:
        """Raise UserError if the model was not trained for one of `tasks`."""
        for task in tasks:
            if task not in self.trained_tasks:
                known = ", ".join(self.trained_tasks)
                raise UserError(f"the weights were trained for {known}, not for {task}; name others with --weights")

    def encode_images(self, images: Sequence[np.ndarray]) -> Encoded:
        """Whole images, for `detect` and `caption`."""
        size = self.cfg.model.image_size
        return self._encode(images, [Geometry.letterbox(image.shape[1], image.shape[0], size) for image in images])

    def encode_crops(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> Encoded:
        """A crop for each prompt, for `keypoints` and for `segment` unless it looks at whole images."""
        model, prompted = self.cfg.model, [images[prompt.image_number] for prompt in prompts]
        pairs = zip(prompts, prompted, strict=True)
        geometries = [Geometry.for_instance(prompt.box, image, model, model.image_size) for prompt, image in pairs]
        return self._encode(prompted, geometries)

    def encode_for_segmentation(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], whole: Encoded | None = None
    ) -> Encoded:
        """What `segment` looks at for each prompt: its crop or its whole image, as the model was trained.

        `whole` is what `encode_images` returned for the images, if it was asked for already.
        """
        if not self.cfg.model.segment_whole:
            return self.encode_crops(images, prompts)
        asked = sorted({prompt.image_number for prompt in prompts})
        whole = whole.take(asked) if whole else self.encode_images([images[number] for number in asked])
        return whole.take([asked.index(prompt.image_number) for prompt in prompts])

    @torch.inference_mode()
    def _encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        memory: list[Tensor] = []
        for chunk in self._chunks(len(geometries)):
            pairs = zip(images[chunk], geometries[chunk], strict=True)
            canvases = np.stack([geometry.warp(image, self.cfg.model.pad_value) for image, geometry in pairs])
            batch = torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            memory.extend(self.model.encode(batch))
        return Encoded(memory, geometries)

    def _chunks(self, count: int) -> list[slice]:
        size = self.cfg.infer.eval_batch_size
        return [slice(start, start + size) for start in range(0, count, size)]

    def _answers(
        self,
        task: str,
        encoded: Encoded,
        prompts: Sequence[np.ndarray],
        sampling: Sampling = GREEDY,
        num_samples: int = 1,
    ) -> list[Answer]:
        """`num_samples` answers to each of `prompts` (P,), prompt k about canvas k, prompt-major."""
        answers: list[Answer] = []
        max_tokens = min(self._longest_answer(task), self.cfg.model.max_tokens - len(prompts[0]) + 1) if prompts else 0
        for chunk in self._chunks(len(prompts)):
            memory, which = encoded.stack(chunk)
            tokens = torch.from_numpy(np.stack(prompts[chunk])).to(self.device)
            draws = [
                self._draws(geometry, prompt, (num_samples, max_tokens))
                for geometry, prompt in zip(encoded.geometries[chunk], prompts[chunk], strict=True)
            ]
            draws = torch.from_numpy(np.concatenate(draws)).to(self.device)
            said = generate(
                self.model, memory, tokens, which, self.grammars[task], max_tokens, sampling, num_samples, draws
            )
            answers += map(Answer, said.tokens.cpu().numpy(), said.probs.cpu().numpy())
        return answers

    def _draws(self, geometry: Geometry, prompt: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Random numbers that depend on the seed and on what is prompted, not on what is asked along with it."""
        asked = zlib.crc32(geometry.matrix.tobytes() + prompt.tobytes())
        return np.random.default_rng([self.cfg.seed, asked]).random(shape, dtype=np.float32)

    def _longest_answer(self, task: str) -> int:
        """Tokens of the longest answer that the settings ask for, the end included."""
        model, pairs = self.cfg.model, self.tokenizers["keypoint"].num_points
        return {
            "detection": 5 * model.max_objects + (not model.full_detection),
            # Behind the last polygon stands one end instead of separators.
            "segmentation": 2 * model.max_points + model.separators * (model.max_points // MIN_POINTS),
            "keypoint": 2 * pairs,
            "captioning": self.tokenizers["captioning"].max_words + 1,
        }[task]

    def detect(self, images: Sequence[np.ndarray], encoded: Encoded | None = None) -> list[Instances]:
        """The instances of each image, surest first, boxes clipped to the image; none of them is empty."""
        encoded = encoded or self.encode_images(images)
        tokenizer, infer = self.tokenizers["detection"], self.cfg.infer
        sampling = (
            Sampling(infer.temperature, top_p=infer.detection_top_p)
            if infer.detection_top_p
            else Sampling(end_threshold=infer.end_threshold, coord_window=self.cfg.model.coord_window)
        )
        answers = self._answers("detection", encoded, [tokenizer.prompt()] * len(images), sampling)
        found = []
        for image, geometry, answer in zip(images, encoded.geometries, answers, strict=True):
            detections = tokenizer.decode(answer.tokens, answer.probs)
            boxes = clip_boxes(geometry.boxes_from_fractions(detections.boxes), image)
            order = np.argsort(-detections.scores, kind="stable")
            order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
            found.append(Instances(boxes, detections.classes, detections.scores)[order])
        return found

    def caption(self, images: Sequence[np.ndarray], encoded: Encoded | None = None) -> list[str]:
        """A caption of each image."""
        encoded = encoded or self.encode_images(images)
        tokenizer = self.tokenizers["captioning"]
        answers = self._answers("captioning", encoded, [tokenizer.prompt()] * len(images))
        return [tokenizer.decode(answer.tokens) for answer in answers]

    def segment(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], encoded: Encoded | None = None
    ) -> list[Mask]:
        """The mask of each prompted instance, at its image's size: `num_samples` sampled outlines vote on it."""
        encoded = encoded or self.encode_for_segmentation(images, prompts)
        tokenizer, infer = self.tokenizers["segmentation"], self.cfg.infer
        count = infer.num_samples
        sampling = GREEDY if count == 1 else Sampling(infer.temperature, infer.top_k, infer.top_p)
        tokens = self._instance_prompts("segmentation", encoded, prompts)
        answers = self._answers("segmentation", encoded, tokens, sampling, count)
        masks = []
        for number, (prompt, geometry) in enumerate(zip(prompts, encoded.geometries, strict=True)):
            samples = [tokenizer.decode(answer.tokens) for answer in answers[number * count : (number + 1) * count]]
            samples = [[geometry.from_fractions(polygon) for polygon in polygons] for polygons in samples]
            masks.append(vote(samples, *images[prompt.image_number].shape[:2], infer.mask_threshold))
        return masks

    def keypoints(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], encoded: Encoded | None = None
    ) -> list[Pose]:
        """The keypoints of each prompted person."""
        encoded = encoded or self.encode_crops(images, prompts)
        decode = self.tokenizers["keypoint"].decode
        tokens = self._instance_prompts("keypoint", encoded, prompts)
        sampling = Sampling(coord_window=self.cfg.model.coord_window)
        answers = placed = self._answers("keypoint", encoded, tokens, sampling)
        if self.cfg.infer.suppress_invisible:
            placed = self._suppress_invisible(encoded, tokens, answers)
        poses = []
        for prompt, geometry, answer, place in zip(prompts, encoded.geometries, answers, placed, strict=True):
            points, seen = decode(place.tokens, place.probs), decode(answer.tokens, answer.probs).visible
            poses.append(pose_in_image(points, seen, geometry, prompt.box, images[prompt.image_number]))
        return poses

    @torch.inference_mode()
    def _suppress_invisible(
        self, encoded: Encoded, prompts: Sequence[np.ndarray], answers: Sequence[Answer]
    ) -> list[Answer]:
        """The likeliest coordinates at each place of the `answers`, whatever was said there.

        As in the official evaluation, which however draws them from a nucleus of 0.1, and lets more than that through.
        """
        placed: list[Answer] = []
        for chunk in self._chunks(len(prompts)):
            memory, which = encoded.stack(chunk)
            said = np.stack([answer.tokens for answer in answers[chunk]])
            tokens = torch.from_numpy(np.concatenate([np.stack(prompts[chunk]), said[:, :-1]], axis=1)).to(self.device)
            logits = self.model.answer_groups(memory, [(tokens, which)])[0][:, -said.shape[1] :]
            coords, probs = likeliest_coords(logits)
            placed += map(Answer, coords.cpu().numpy(), probs.cpu().numpy())
        return placed

    def _instance_prompts(self, task: str, encoded: Encoded, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        tokenizer = self.tokenizers[task]
        return [
            tokenizer.prompt(np.clip(geometry.box_fractions(prompt.box)[0], 0, 1), prompt.class_id)
            for geometry, prompt in zip(encoded.geometries, prompts, strict=True)
        ]

    def describe(self, image: np.ndarray, tasks: Sequence[str], instances: Instances | None = None) -> Result:
        """All `tasks` on one image: masks and keypoints of the `instances` given, else of those detected.

        Detected instances below `score_threshold` are left out, and all but people where only keypoints are asked.
        """
        whole = self.encode_images([image]) if instances is None or "captioning" in tasks else None
        if instances is None:
            instances = self._detect_sure(image, tasks, whole)
        result = self.describe_instances([image], tasks, [instances], whole)[0]
        caption = self.caption([image], whole)[0] if "captioning" in tasks else None
        return dataclasses.replace(result, caption=caption)

    def _detect_sure(self, image: np.ndarray, tasks: Sequence[str], whole: Encoded) -> Instances:
        if set(tasks) == {"captioning"}:
            return Instances.none()
        instances = self.detect([image], whole)[0]
        instances = instances[instances.scores >= self.cfg.infer.score_threshold]
        if set(tasks) <= {"keypoint", "captioning"}:
            return instances[np.isin(instances.classes, self.skeleton.class_ids)]
        return instances

    def describe_instances(
        self,
        images: Sequence[np.ndarray],
        tasks: Sequence[str],
        found: Sequence[Instances],
        whole: Encoded | None = None,
    ) -> list[Result]:
        """Masks of the instances found in each image and poses of the people; an instance's crop serves both.

        A model that segments whole images needs no crop for it; `whole` is what `encode_images` returned for them.
        """
        prompts = [prompt for number, instances in enumerate(found) for prompt in prompts_for(instances, number)]
        people = [index for index, prompt in enumerate(prompts) if prompt.class_id in self.skeleton.class_ids]
        masks = poses = crops = None
        if "segmentation" in tasks:
            seen = self.encode_for_segmentation(images, prompts, whole)
            masks = self.segment(images, prompts, seen)
            crops = None if self.cfg.model.segment_whole else seen
        if "keypoint" in tasks:
            poses = [None] * len(prompts)
            of_people = self.keypoints(images, [prompts[i] for i in people], crops and crops.take(people))
            for index, pose in zip(people, of_people, strict=True):
                poses[index] = pose
        ends = np.cumsum([len(instances) for instances in found]).tolist()
        parts = [slice(end - len(instances), end) for end, instances in zip(ends, found, strict=True)]
        return [
            Result(instances, masks and masks[part], poses and poses[part])
            for instances, part in zip(found, parts, strict=True)
        ]


def load_predictor(cfg: CFG) -> Predictor:
    """The predictor of `--weights` on `--device`."""
    weights = load_weights(project_path(cfg.infer.weights))
    check_model_flags(cfg, weights.cfg.model)
    return Predictor(weights, cfg, pick_device(cfg.device))


def check_model_flags(cfg: CFG, model: ModelCFG) -> None:
    """Raise UserError for a model setting that differs from the weights file's `model`: it would have no effect."""
    usual = PRESETS[cfg.preset].model
    for name, told in dataclasses.asdict(model).items():
        asked = getattr(cfg.model, name)
        if asked not in (told, getattr(usual, name)):
            raise UserError(
                f"--{name.replace('_', '-')} is {told} in the weights file, which tells what its model is, "
                f"and {asked} was asked for; leave this flag out"
            )


def clip_boxes(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) x1 y1 x2 y2 cut to the image."""
    height, width = image.shape[:2]
    return np.clip(boxes, 0, [width, height, width, height])


def likeliest_coords(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest coordinate tokens of `logits` (…, V) and their probabilities in the softmax without INVISIBLE."""
    probs = logits.float().index_fill(-1, torch.tensor(INVISIBLE, device=logits.device), -torch.inf).softmax(-1)
    best = probs[..., COORDS].max(-1)
    return best.indices + COORD_SHIFT, best.values


def pose_in_image(decoded: Keypoints, seen: np.ndarray, geometry: Geometry, box: np.ndarray, image: np.ndarray) -> Pose:
    """Keypoints on a canvas to the image; one that is placed nowhere is put at the centre of `box`.

    `seen` (K,) tells which are visible.
    """
    height, width = image.shape[:2]
    points = np.clip(geometry.from_fractions(decoded.points), 0, [width, height])
    center = np.reshape(box, (2, 2)).mean(axis=0)
    points = np.where(decoded.visible[:, None], points, center)
    return Pose(np.column_stack([points, np.where(seen, 2, 0)]), decoded.score)
