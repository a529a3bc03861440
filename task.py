"""What a task is: one object with what each stage needs.

Rooms are stages, files are tasks: a task's column is `tokenizers/<task>.py`, `dataset/<task>.py`, `infer/<task>.py` and
`evaluate/<task>.py`. The classes below describe what each file must offer; `tasks.py` puts the columns together. Stages
loop over the tasks that they are given and name none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from pix2seq.config import CFG, InferCFG, ModelCFG
    from pix2seq.dataset.coco import Example, ImageDataset
    from pix2seq.dataset.geometry import Geometry
    from pix2seq.dataset.views import View
    from pix2seq.evaluate.predictions import ImagePredictions, Scores
    from pix2seq.infer.draw import Drawing
    from pix2seq.infer.responses import Response
    from pix2seq.infer.results import Canvas, Instances
    from pix2seq.models.sampling import Sampling
    from pix2seq.tokenizers.vocabulary import LabelSpace, Tokenizer, TokenSequence


class Samples(Protocol):
    """`dataset/<task>.py`: which annotations the task is trained on, and how they become token sequences."""

    COCO_FILE: str  # COCO 2017's annotation files that hold them: instances, person_keypoints, captions
    LIMIT: tuple[str, str]  # the setting that bounds a sequence, and what happens to longer ones

    def trains_on(self, objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
        """Whether an image with these annotations has something to learn; `is_background`: it is known to show no
        object."""

    def labeled(self, example: Example) -> np.ndarray:
        """Which objects (n,) bool are annotated for the task; asked of instance tasks alone."""

    def sequences(self, view: View, tokenizer: Tokenizer, cfg: CFG, rng: np.random.Generator) -> list[TokenSequence]:
        """The sequences about a canvas, or about the instance of it that the view points at."""

    def lengths(self, example: Example, tokenizer: Tokenizer) -> list[tuple[int, bool]]:
        """For each sequence the tokens of the response as it is annotated, and whether that exceeds the limit."""


class Inference(Protocol):
    """`infer/<task>.py`: how responses are asked for, and how they become predictions that are drawn and written."""

    IMAGE_FILE: str | None  # name of the PNG that `draw` gives; None: there is no `draw`

    def sampling(self, settings: InferCFG) -> tuple[Sampling, int]:
        """How tokens are chosen, and how many responses a prediction needs."""

    def read(
        self, responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: Tokenizer, settings: InferCFG
    ) -> Any:
        """The prediction that these responses make, each about a canvas, in pixels of the image.

        They answer one prompt, in several views or in one.
        """

    def draw(self, image: np.ndarray, instances: Instances, predictions: Any, drawing: Drawing) -> np.ndarray:
        """A copy of the image (H, W, 3) with what is predicted."""

    def coco_fields(self, prediction: Any) -> dict[str, Any]:
        """What COCO's results format says of a prediction; not asked of the task that finds instances."""

    def describe(self, prediction: Any, drawing: Drawing) -> str:
        """Lines for the terminal; not asked of the task that finds instances."""


class Evaluation(Protocol):
    """`evaluate/<task>.py`: how predictions are compared with the ground truth."""

    def evidence(self, example: Example, predictions: ImagePredictions) -> Any:
        """What scoring needs of an image's ground truth, computed while the image is at hand."""

    def score(self, predictions: Sequence[ImagePredictions], split: ImageDataset, settings: InferCFG) -> Scores:
        """The task's figures."""

    def draw_pair(
        self, example: Example, predictions: ImagePredictions, class_names: Mapping[int, str], threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image with the ground truth, and with what was predicted, each (H, W, 3)."""

    def ground_truth(
        self,
        example: Example,
        geometry: Geometry,
        prompt: np.ndarray,
        tokenizer: Tokenizer,
        cfg: CFG,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The right response (T,) to a `prompt` about a canvas, and its probabilities (T,): for the upper bound."""


@dataclass(frozen=True)
class Task:
    """A task by its `name`.

    It is prompted about a whole image or about one `instance` of it. Of the image tasks one `finds_instances`: what it
    predicts is what instance tasks are asked about. These see a crop around the instance, unless the model setting
    `uncropped` is on. A task that `needs_skeleton` is about keypoints, which only the skeleton's classes have.
    `hub_task` is what the Hugging Face hub calls it.
    """

    name: str
    prompt: Literal["image", "instance"]
    tokenizer_class: type
    samples: Samples
    inference: Inference
    evaluation: Evaluation
    finds_instances: bool = False
    uncropped: str = ""
    needs_skeleton: bool = False
    hub_task: str = ""

    @property
    def is_prompted(self) -> bool:
        """Whether a prompt points at an instance."""
        return self.prompt == "instance"

    @property
    def about_objects(self) -> bool:
        """Whether the task finds objects or is asked about one."""
        return self.finds_instances or self.is_prompted

    def is_cropped(self, model: ModelCFG) -> bool:
        """Whether the model sees a crop around the instance, rather than the whole image."""
        return self.is_prompted and not (self.uncropped and getattr(model, self.uncropped))

    def tokenizer(self, cfg: CFG, labels: LabelSpace) -> Tokenizer:
        """The task's tokenizer for a model of these settings."""
        return self.tokenizer_class.build(cfg, labels)

    def __reduce__(self) -> tuple:
        """By name: a loading process that is spawned imports the modules, which cannot be pickled."""
        return task_named, (self.name,)


def task_named(name: str) -> Task:
    """A task by its name."""
    from pix2seq.tasks import TASKS

    return TASKS[name]
