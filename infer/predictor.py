"""Predict with a trained model: boxes, masks, keypoints and captions in the images' own pixels.

Every canvas is encoded once, and the prompts of a chunk are answered together. Predictions of several tasks about the
same canvases share what `encode_images` or `encode_crops` returned.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.errors import UserError
from pix2seq.infer.draw import Drawing
from pix2seq.infer.generator import Encoded, ModelGenerator, SequenceGenerator
from pix2seq.infer.introduction import description
from pix2seq.infer.results import Answer, Canvas, Instances, Prompt, Result, prompts_for
from pix2seq.models.weights import Weights
from pix2seq.task import Task
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import read_text
from pix2seq.tokenizers.vocabulary import LabelSpace


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
        trained = weights.cfg
        tasks = {name: task for name, task in tasks.items() if name in trained.tasks}
        skeleton = Skeleton.of_weights(weights.keypoints, weights.class_names)
        text = read_text(weights.text, trained.model.vocab_size)
        tokenizers = Tokenizers.build(tasks, trained, LabelSpace(sorted(weights.class_names), len(skeleton), text))
        options = settings.eval_batch_size, seed, precision, compiled
        generator = ModelGenerator(weights.model, tokenizers.by_task, device, *options)
        about = description(weights.domain, weights.licence, trained.data.data_root)
        described = weights.class_names, skeleton, tokenizers, weights.category_ids, weights.step, about
        return cls(generator, tasks, trained, settings, *described)

    @property
    def drawing(self) -> Drawing:
        """What drawings need to know."""
        return Drawing(self.class_names, self.skeleton)

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

    def with_answers(self) -> Predictor:
        """The same, whose results hold their `answers` too, with the probability of every token."""
        other = self.with_generator(self.generator.scoring_all())
        other.keeps_answers = True
        return other

    def require(self, names: Sequence[str]) -> None:
        """Raise UserError if the model was not trained for one of these tasks."""
        for name in names:
            if name not in self.tasks:
                known = ", ".join(self.tasks)
                raise UserError(f"the weights were trained for {known}, not for {name}; name others with --weights")

    def encode_images(self, images: Sequence[np.ndarray]) -> Encoded:
        """Whole images, one query each."""
        size = self.trained.model.image_size
        geometries = [Geometry.letterbox(image.shape[1], image.shape[0], size) for image in images]
        return self.generator.encode(images, geometries)

    def encode_crops(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> Encoded:
        """A crop for each prompt, one query each."""
        model, prompted = self.trained.model, [images[prompt.image_number] for prompt in prompts]
        pairs = zip(prompts, prompted, strict=True)
        geometries = [Geometry.for_instance(prompt.box, image, model, model.image_size) for prompt, image in pairs]
        return self.generator.encode(prompted, geometries)

    def encode_prompts(
        self, task: str, images: Sequence[np.ndarray], prompts: Sequence[Prompt], whole: Encoded | None = None
    ) -> Encoded:
        """What an instance task sees for each prompt: its crop, or its whole image if the model was trained so.

        `whole` is what `encode_images` returned for the images, if they were encoded already.
        """
        if self.tasks[task].is_cropped(self.trained.model):
            return self.encode_crops(images, prompts)
        asked = sorted({prompt.image_number for prompt in prompts})
        whole = whole.take(asked) if whole else self.encode_images([images[number] for number in asked])
        return whole.take([asked.index(prompt.image_number) for prompt in prompts])

    def predict(
        self,
        task: str,
        images: Sequence[np.ndarray],
        prompts: Sequence[Prompt] = (),
        encoded: Encoded | None = None,
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
        encoded: Encoded | None = None,
    ) -> list[Answer]:
        """Like `predict`, with the responses that each prediction was read from."""
        part, tokenizer = self.tasks[task], self.tokenizers[task]
        if part.is_prompted:
            encoded = encoded or self.encode_prompts(task, images, prompts)
            asked = [images[prompt.image_number] for prompt in prompts]
            canvases = self._canvases(asked, encoded, prompts)
            tokens = [
                tokenizer.prompt(np.clip(c.geometry.box_fractions(c.prompt.box)[0], 0, 1), c.prompt.class_id)
                for c in canvases
            ]
        else:
            encoded = encoded or self.encode_images(images)
            canvases = self._canvases(images, encoded, [None] * len(images))
            tokens = [tokenizer.prompt()] * len(canvases)
        sampling, count = part.inference.sampling(self.settings)
        responses = self.generator.generate(task, encoded, tokens, sampling, count)
        groups = (responses[number * count : (number + 1) * count] for number in range(len(canvases)))
        return [
            Answer(part.inference.read(group, canvas, tokenizer, self.settings), canvas, prompt, group)
            for group, canvas, prompt in zip(groups, canvases, tokens, strict=True)
        ]

    def _canvases(
        self, images: Sequence[np.ndarray], encoded: Encoded, prompts: Sequence[Prompt | None]
    ) -> list[Canvas]:
        return [
            Canvas(image.shape[1], image.shape[0], encoded.geometry(query), prompt)
            for query, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]

    def describe(self, image: np.ndarray, names: Sequence[str], instances: Instances | None = None) -> Result:
        """All named tasks on one image, see `describe_images`."""
        return self.describe_images([image], names, None if instances is None else [instances])[0]

    def describe_images(
        self,
        images: Sequence[np.ndarray],
        names: Sequence[str],
        instances: Sequence[Instances] | None = None,
        whole: Encoded | None = None,
    ) -> list[Result]:
        """All named tasks on each image: instance tasks are asked about the `instances` given, else about those found.

        Instances found with a score below `score_threshold` are left out, and where nothing but keypoints is asked for,
        those of classes without keypoints. `whole` is what `encode_images` returned for the images, if they were
        encoded already. Images are computed together, but one has no part in another's result.
        """
        tasks = [self.tasks[name] for name in names]
        of_image = [task.name for task in tasks if not task.about_objects]
        find = instances is None and any(task.about_objects for task in tasks)
        if whole is None and (find or of_image):
            whole = self.encode_images(images)
        finders = [self.finder.name] if find else []
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
        whole: Encoded | None = None,
    ) -> list[Result]:
        """What the instance tasks among `names` predict about the instances of each image; a crop serves all of them.

        `whole` is what `encode_images` returned for the images, for tasks that see whole images.
        """
        prompts = [prompt for number, instances in enumerate(found) for prompt in prompts_for(instances, number)]
        asked = [name for name in names if self.tasks[name].is_prompted]
        answers: dict[str, list[Answer | None]] = {name: [] for name in asked}
        for start in range(0, len(prompts), self.settings.eval_batch_size):  # no more crops are held at once
            part = prompts[start : start + self.settings.eval_batch_size]
            for name, some in self._ask_about_instances(images, asked, part, whole).items():
                answers[name] += some
        ends = np.cumsum([len(instances) for instances in found]).tolist()
        results = []
        for instances, end in zip(found, ends, strict=True):
            own = {name: of_all[end - len(instances) : end] for name, of_all in answers.items()}
            read = {name: [answer and answer.prediction for answer in some] for name, some in own.items()}
            results.append(Result(instances, self._found(instances, names) | read, self._kept(own)))
        return results

    def _ask_about_instances(
        self, images: Sequence[np.ndarray], names: Sequence[str], prompts: Sequence[Prompt], whole: Encoded | None
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
                encoded = self.encode_prompts(task.name, images, some, whole)
                if task.is_cropped(self.trained.model) and len(some) == len(prompts):
                    crops = encoded
            answers[task.name] = [None] * len(prompts)
            for index, answer in zip(asked, self.ask(task.name, images, some, encoded), strict=True):
                answers[task.name][index] = answer
        return answers

    def _found(self, instances: Instances, names: Sequence[str]) -> dict[str, Instances]:
        return {name: instances for name in names if self.tasks[name].finds_instances}
