"""Predict with a trained model: boxes, masks, keypoints and captions in the images' own pixels.

Every canvas is encoded once, and the prompts of a chunk are answered together. Predictions of several tasks about the
same canvases share what `encode_images` or `encode_crops` returned.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.errors import UserError
from pix2seq.infer.draw import Drawing
from pix2seq.infer.encoded import Encoded, SequenceGenerator
from pix2seq.infer.introduction import description
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Answer, Canvas, Instances, Prompt, Result, coco_results, prompts_for
from pix2seq.infer.views import MOST, Views, encode_views
from pix2seq.task import Task
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import read_text
from pix2seq.tokenizers.vocabulary import Grammar, LabelSpace, Tokenizer

if TYPE_CHECKING:
    import torch

    from pix2seq.metadata import Metadata
    from pix2seq.models.weights import Weights

OF_OTHERS = 2  # views of a crop, whose object fills it already, and of what is not about objects


class Predictor:
    """Predictions of `tasks` by what `generator` makes of prompts. Images are (H, W, 3) uint8 RGB of any size.

    `trained` are the settings that the model was trained with, which its tokens depend on. `settings` are those of
    inference, `about` says for people what the model is good for. Tasks are named; those that need instances get them
    from the one that finds instances.
    """

    def __init__(
        self,
        generator: SequenceGenerator,
        tasks: Mapping[str, Task],
        trained: CFG,
        settings: InferCFG,
        class_names: Mapping[int, str],
        skeleton: Skeleton,
        tokenizers: Tokenizers,
        category_ids: Mapping[int, int] | None = None,
        step: int = 0,
        about: str = "",
    ) -> None:
        self.keeps_answers = False
        self.generator, self.tasks, self.trained, self.settings = generator, tasks, trained, settings
        self.class_names, self.skeleton, self.tokenizers = class_names, skeleton, tokenizers
        self.category_ids, self.step, self.about = category_ids or {}, step, about

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        tasks: Mapping[str, Task],
        settings: InferCFG,
        device: torch.device,
        seed: int = 0,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> Predictor:
        """The predictor of a model: of those of `tasks` that it was trained for."""
        from pix2seq.infer.generator import ModelGenerator  # imports torch, which an exported model does without

        def generator(tokenizers: Mapping[str, Tokenizer]) -> SequenceGenerator:
            options = settings.eval_batch_size, seed, precision, compiled
            return ModelGenerator(weights.model, tokenizers, device, *options)

        return cls.described(weights, tasks, settings, generator)

    @classmethod
    def described(
        cls,
        weights: Weights | Metadata,
        tasks: Mapping[str, Task],
        settings: InferCFG,
        make_generator: Callable[[Mapping[str, Tokenizer]], SequenceGenerator],
    ) -> Predictor:
        """The predictor of what `weights` say of themselves, asking what `make_generator` makes of its tokenizers."""
        trained = weights.cfg
        tasks = {name: task for name, task in tasks.items() if name in trained.tasks}
        skeleton = Skeleton.of_weights(weights.keypoints, weights.class_names)
        text = read_text(weights.text, trained.model.vocab_size)
        tokenizers = Tokenizers.build(
            tasks, trained, LabelSpace(sorted(weights.class_names), len(skeleton), text, skeleton.flip)
        )
        about = description(weights.domain, weights.licence, trained.data.data_root)
        described = weights.class_names, skeleton, tokenizers, weights.category_ids, weights.step, about
        return cls(make_generator(tokenizers.by_task), tasks, trained, settings, *described)

    @property
    def drawing(self) -> Drawing:
        """What drawings need to know."""
        return Drawing(self.class_names, self.skeleton)

    @cached_property
    def grammars(self) -> Mapping[str, Grammar]:
        """The grammar of each task."""
        return {name: self.tokenizers[name].grammar() for name in self.tasks}

    @property
    def finder(self) -> Task | None:
        """The task that finds instances, if the model was trained for it."""
        return next((task for task in self.tasks.values() if task.finds_instances), None)

    def with_generator(self, generator: SequenceGenerator) -> Predictor:
        """The same, asking another generator."""
        other = copy.copy(self)
        other.generator = generator
        return other

    def with_settings(self, **changes: Any) -> Predictor:
        """The same with other settings of inference, by name."""
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, **changes)
        return other

    def with_tasks(self, names: Sequence[str]) -> Predictor:
        """The same, asked about these of its tasks alone."""
        other = copy.copy(self)
        other.tasks = {name: self.tasks[name] for name in names}
        return other

    def draw(self, image: np.ndarray, result: Result) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB with all that was predicted drawn into it."""
        for name, predictions in result.predictions.items():
            inference = self.tasks[name].inference
            if inference.IMAGE_FILE:
                image = inference.draw(image, result.instances, predictions, self.drawing)
        return image

    def to_coco(self, image_id: int | str, result: Result) -> list[dict]:
        """A result in COCO's results format, with the category ids of the dataset that the model was trained on."""
        return coco_results(image_id, result, self.tasks, self.category_ids)

    def with_answers(self) -> Predictor:
        """The same, whose results hold their `answers` too, with the probability of every token."""
        other = self.with_generator(self.generator.scoring_all())
        other.keeps_answers = True
        return other

    def require(self, names: Sequence[str]) -> None:
        """Raise UserError if there is none among these tasks, or one that the model was not trained for."""
        if not names:
            raise UserError(f"expected a task, or several of {', '.join(self.tasks)}; got none")
        for name in names:
            if name not in self.tasks:
                known = ", ".join(self.tasks)
                raise UserError(f"the weights were trained for {known}, not for {name}; name others with --weights")

    def views_of(self, names: Iterable[str]) -> int:
        """How many views the named tasks use: no more than they have samples."""
        used = 1
        for task in (self.tasks[name] for name in names):
            samples = task.inference.sampling(self.settings)[1]
            used = max(used, min(samples, MOST if task.finds_instances else OF_OTHERS))
        return min(used, self.settings.views)

    def encode_images(self, images: Sequence[np.ndarray], names: Iterable[str] | None = None) -> Views:
        """Whole images, one query each, in as many views as the named tasks use, by default all that see them."""

        def place(size: int, mirrored: bool) -> list[Geometry]:
            placed = [Geometry.letterbox(image.shape[1], image.shape[0], size) for image in images]
            pairs = zip(placed, images, strict=True)
            ends = [geometry.apply((image.shape[1], 0))[0] for geometry, image in pairs]
            return [geometry.flip(end) for geometry, end in zip(placed, ends, strict=True)] if mirrored else placed

        model = self.trained.model
        whole = [name for name in names or self.tasks if not self.tasks[name].is_cropped(model)]
        return self._encode(images, place, self.views_of(whole))

    def encode_crops(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], names: Iterable[str] | None = None
    ) -> Views:
        """A crop for each prompt, one query each, in as many views as the named tasks use, by default all that see
        crops; what is in them has the right size already."""
        model, prompted = self.trained.model, [images[prompt.image_number] for prompt in prompts]

        def place(size: int, mirrored: bool) -> list[Geometry]:
            pairs = zip(prompts, prompted, strict=True)
            placed = [Geometry.for_instance(prompt.box, image, model, size) for prompt, image in pairs]
            return [geometry.flip() for geometry in placed] if mirrored else placed

        cropped = [name for name in names or self.tasks if self.tasks[name].is_cropped(model)]
        return self._encode(prompted, place, self.views_of(cropped))

    def _encode(
        self, images: Sequence[np.ndarray], place: Callable[[int, bool], Sequence[Geometry]], count: int
    ) -> Views:
        def encode(geometries: Sequence[Geometry]) -> Encoded:
            return self.generator.encode([*images] * (len(geometries) // max(len(images), 1)), geometries)

        return encode_views(encode, place, self.trained.model.image_size, count)

    def encode_prompts(
        self,
        task: str,
        images: Sequence[np.ndarray],
        prompts: Sequence[Prompt],
        whole: Views | None = None,
        names: Sequence[str] = (),
    ) -> Views:
        """What an instance task sees for each prompt: its crop, or its whole image if the model was trained so.

        Crops have as many views as the task and those in `names` use. `whole` is what `encode_images` returned for the
        images, if they were encoded already.
        """
        if self.tasks[task].is_cropped(self.trained.model):
            return self.encode_crops(images, prompts, [task, *names])
        asked = sorted({prompt.image_number for prompt in prompts})
        whole = whole.take(asked) if whole else self.encode_images([images[number] for number in asked], [task])
        return whole.take([asked.index(prompt.image_number) for prompt in prompts])

    def predict(
        self,
        task: str,
        images: Sequence[np.ndarray],
        prompts: Sequence[Prompt] = (),
        encoded: Views | None = None,
    ) -> list[Any]:
        """The prediction of an image task for each image, of an instance task for each prompt.

        `encoded` has a query for each of them, as `encode_images` and `encode_prompts` return it.
        """
        return [answer.prediction for answer in self.ask(task, images, prompts, encoded)]

    def ask(
        self,
        task: str,
        images: Sequence[np.ndarray],
        prompts: Sequence[Prompt] = (),
        encoded: Views | None = None,
    ) -> list[Answer]:
        """Like `predict`, with the responses that each prediction was read from."""
        part, tokenizer = self.tasks[task], self.tokenizers[task]
        if part.is_prompted:
            encoded = encoded or self.encode_prompts(task, images, prompts)
            asked = [images[prompt.image_number] for prompt in prompts]
        else:
            encoded = encoded or self.encode_images(images, [task])
            asked, prompts = images, [None] * len(images)
        sampling, count = part.inference.sampling(self.settings)
        views = encoded.at_most(self.views_of([task]))
        found: list[list[tuple[Canvas, np.ndarray, Response]]] = [[] for _ in asked]
        for view in views.encoded if len(asked) else ():
            repeats, each = len(view) // len(asked), math.ceil(count / views.count)
            canvases = self._canvases([*asked] * repeats, view, [*prompts] * repeats)
            tokens = [self._prompt(tokenizer, canvas) for canvas in canvases]
            responses = self.generator.generate(task, view, tokens, sampling, each)
            for number, response in enumerate(responses):
                query = number // each
                found[query % len(asked)].append((canvases[query], tokens[query], response))
        answers = (list(zip(*samples, strict=True)) for samples in found)
        return [
            Answer(part.inference.read(responses, canvases, tokenizer, self.settings), canvases, tokens, responses)
            for canvases, tokens, responses in answers
        ]

    @staticmethod
    def _prompt(tokenizer: Tokenizer, canvas: Canvas) -> np.ndarray:
        if canvas.prompt is None:
            return tokenizer.prompt()
        box = canvas.geometry.box_fractions(canvas.prompt.box)[0]
        return tokenizer.prompt(np.clip(box, 0, 1), canvas.prompt.class_id)

    def _canvases(
        self, images: Sequence[np.ndarray], encoded: Encoded, prompts: Sequence[Prompt | None]
    ) -> list[Canvas]:
        return [
            Canvas(image.shape[1], image.shape[0], encoded.geometry(query), prompt)
            for query, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]

    def describe(self, image: np.ndarray, names: Sequence[str], instances: Instances | None = None) -> Result:
        """All named tasks on one image, as `describe_images` does them."""
        return self.describe_images([image], names, None if instances is None else [instances])[0]

    def describe_images(
        self,
        images: Sequence[np.ndarray],
        names: Sequence[str],
        instances: Sequence[Instances] | None = None,
        whole: Views | None = None,
    ) -> list[Result]:
        """All named tasks on each image: instance tasks are asked about the `instances` given, else about those found.

        Instances found with a score below `score_threshold` are left out, and where nothing but keypoints is asked for,
        those of classes without keypoints. Images are computed together, but one has no part in another's result.
        `whole` is what `encode_images` returned for the images, if they were encoded already.
        """
        tasks = [self.tasks[name] for name in names]
        of_image = [task.name for task in tasks if not task.about_objects]
        find = instances is None and any(task.about_objects for task in tasks)
        finders = [self.finder.name] if find else []
        if whole is None and (find or of_image):
            asked = [task.name for task in tasks if not task.finds_instances]
            whole = self.encode_images(images, [*finders, *asked])
        answers = {name: self.ask(name, images, encoded=whole) for name in [*finders, *of_image]}
        for name in finders:
            instances = [self._choose(answer.prediction, tasks) for answer in answers[name]]
        if instances is None:
            instances = [Instances.none() for _ in images]
        results = self.describe_instances(images, names, instances, whole)
        for number, result in enumerate(results):
            own = {name: [of_all[number]] for name, of_all in answers.items()}
            about_image = {name: own[name][0].prediction for name in of_image}
            results[number] = Result(
                result.instances, {**result.predictions, **about_image}, self._kept({**own, **result.answers})
            )
        return results

    def _kept(self, answers: Mapping[str, Sequence[Answer | None]]) -> Mapping[str, Sequence[Answer | None]]:
        return answers if self.keeps_answers else {}

    def _choose(self, instances: Instances, tasks: Sequence[Task]) -> Instances:
        """Those of the `instances` found that tasks are asked about."""
        instances = instances[instances.scores >= self.settings.score_threshold]
        if all(task.needs_skeleton for task in tasks if task.about_objects):
            return instances[self._have_keypoints(instances.classes)]
        return instances

    def _have_keypoints(self, classes: Sequence[int]) -> np.ndarray:
        return np.isin(classes, self.skeleton.class_ids)

    def describe_instances(
        self,
        images: Sequence[np.ndarray],
        names: Sequence[str],
        found: Sequence[Instances],
        whole: Views | None = None,
    ) -> list[Result]:
        """What the instance tasks among `names` predict about the instances of each image; a crop serves all of them.

        `whole` is what `encode_images` returned for the images, for tasks that see whole images.
        """
        prompts = [prompt for number, instances in enumerate(found) for prompt in prompts_for(instances, number)]
        asked = [name for name in names if self.tasks[name].is_prompted]
        answers: dict[str, list[Answer | None]] = {name: [] for name in asked}
        for start in range(0, len(prompts), self.settings.eval_batch_size):  # no more crops are held at once
            part = prompts[start : start + self.settings.eval_batch_size]
            for name, some in self._about_instances(images, asked, part, whole).items():
                answers[name] += some
        ends = np.cumsum([len(instances) for instances in found]).tolist()
        results = []
        for instances, end in zip(found, ends, strict=True):
            own = {name: of_all[end - len(instances) : end] for name, of_all in answers.items()}
            read = {
                name: [None if answer is None else answer.prediction for answer in some] for name, some in own.items()
            }
            results.append(Result(instances, self._found(instances, names) | read, self._kept(own)))
        return results

    def _about_instances(
        self, images: Sequence[np.ndarray], names: Sequence[str], prompts: Sequence[Prompt], whole: Views | None
    ) -> dict[str, list[Answer | None]]:
        """By task, an answer to each prompt; None for those that a task is not about."""
        answers: dict[str, list[Answer | None]] = {}
        crops = None
        for task in (self.tasks[name] for name in names):
            asked = np.arange(len(prompts))
            if task.needs_skeleton:
                asked = np.flatnonzero(self._have_keypoints([prompt.class_id for prompt in prompts]))
            some = [prompts[index] for index in asked]
            if crops is not None and task.is_cropped(self.trained.model):
                encoded = crops.take(asked)
            else:
                encoded = self.encode_prompts(task.name, images, some, whole, names)
                if task.is_cropped(self.trained.model) and len(some) == len(prompts):
                    crops = encoded
            answers[task.name] = [None] * len(prompts)
            for index, answer in zip(asked, self.ask(task.name, images, some, encoded), strict=True):
                answers[task.name][index] = answer
        return answers

    def _found(self, instances: Instances, names: Sequence[str]) -> dict[str, Instances]:
        return {name: instances for name in names if self.tasks[name].finds_instances}
