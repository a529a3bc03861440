"""A task is one object: CONTRIBUTING's "add a task", tried with the class of a whole image.

The task's column of files is written here as four classes; in the project they would be `tokenizers/image_class.py`,
`dataset/image_class.py`, `infer/image_class.py` and `evaluate/image_class.py`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.views import View
from pix2seq.errors import UserError
from pix2seq.evaluate.predictions import Scores
from pix2seq.models.sampling import GREEDY
from pix2seq.task import Task
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.token_ids import CLASS_SHIFT
from pix2seq.tokenizers.vocabulary import Grammar, LabelSpace, TokenSequence


@dataclasses.dataclass(frozen=True)
class ImageClassTokenizer:
    """`14` → the class of the image's largest object."""

    vocab_size: int
    class_ids: Sequence[int]
    prompt_length = max_response = 1
    roles = ("class",)

    @classmethod
    def build(cls, cfg: CFG, labels: LabelSpace) -> "ImageClassTokenizer":
        return cls(cfg.model.vocab_size, labels.class_ids)

    def prompt(self) -> np.ndarray:
        return np.array([14])

    def encode(self, class_id: int) -> TokenSequence:
        return TokenSequence.from_response(self.prompt(), np.array([class_id + CLASS_SHIFT]), np.ones(1))

    def grammar(self) -> Grammar:
        grammar = Grammar(1, self.vocab_size)
        grammar.allow(0, np.asarray(self.class_ids) + CLASS_SHIFT, grammar.end)
        return grammar

    def decode(self, tokens: np.ndarray) -> int:
        return int(tokens[0]) - CLASS_SHIFT


def largest(example: Example) -> int:
    """The class of the largest object."""
    areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
    return int(example.classes[areas.argmax()])


class ImageClassSamples:
    COCO_FILE = "instances"
    LIMIT = ("max_tokens", "exceed")

    @staticmethod
    def trains_on(objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
        return bool(objects)

    @staticmethod
    def sequences(view: View, tokenizer: ImageClassTokenizer, cfg: CFG, rng: np.random.Generator) -> list:
        return [tokenizer.encode(largest(view.example))] if len(view.example.classes) else []

    @staticmethod
    def lengths(example: Example, tokenizer: ImageClassTokenizer) -> list[tuple[int, bool]]:
        return [(1, False)]


class ImageClassInference:
    IMAGE_FILE = None

    @staticmethod
    def sampling(settings) -> tuple:
        return GREEDY, 1

    @staticmethod
    def read(responses, canvas, tokenizer, settings) -> int:
        return tokenizer.decode(responses[0].tokens)

    @staticmethod
    def coco_fields(class_id: int) -> dict:
        return {"image_class": class_id}

    @staticmethod
    def describe(class_id: int, drawing) -> str:
        return f"class of the image: {class_id}"


class ImageClassEvaluation:
    @staticmethod
    def evidence(example: Example, predictions) -> int:
        return largest(example)

    @staticmethod
    def score(predictions, split, settings) -> Scores:
        right = {p.image_id: float(p.whole["image_class"] == p.evidence["image_class"]) for p in predictions}
        results = [{"image_id": p.image_id, "image_class": p.whole["image_class"]} for p in predictions]
        return Scores({"accuracy": float(np.mean(list(right.values())))}, results, right)

    @staticmethod
    def draw_pair(example: Example, predictions, class_names: Mapping[int, str], threshold: float) -> tuple:
        return example.image, example.image

    @staticmethod
    def ground_truth(example, geometry, prompt, tokenizer, cfg, rng) -> tuple[np.ndarray, np.ndarray]:
        return tokenizer.encode(largest(example)).target, np.ones(1)


IMAGE_CLASS = Task(
    "image_class", "image", ImageClassTokenizer, ImageClassSamples, ImageClassInference, ImageClassEvaluation
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The line in `tasks.py`."""
    monkeypatch.setitem(TASKS, "image_class", IMAGE_CLASS)
    yield


@pytest.fixture
def cfg(tiny_cfg: CFG, tmp_path: Path) -> CFG:
    return config.replace(tiny_cfg, task="detection,image_class", output_dir=str(tmp_path / "results"))


@pytest.mark.usefixtures("added")
def test_an_added_task_is_trained_evaluated_and_predicted(cfg: CFG, tmp_path: Path, capsys: pytest.CaptureFixture):
    from pix2seq.evaluate.run import evaluate_weights
    from pix2seq.infer.run import run
    from pix2seq.train.engine import train

    train(cfg)
    assert "val/image_class" in (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]

    weights = str(tmp_path / "run" / "last.safetensors")
    evaluate_weights(config.replace(cfg, weights=weights, num_samples=1))
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert 0 <= metrics["image_class"]["accuracy"] <= 1
    assert (tmp_path / "results" / "image_class_grid.png").is_file()

    image = str(sorted((Path(cfg.data.data_root) / "val2017").iterdir())[0])
    run(config.replace(cfg, weights=weights, image=(image,), output_dir=str(tmp_path / "predictions")))
    assert "class of the image: " in capsys.readouterr().out
    entries = json.loads((tmp_path / "predictions" / "result.json").read_text(encoding="utf-8"))
    assert entries[-1].keys() == {"image_id", "image_class"}


@pytest.mark.usefixtures("added")
def test_the_upper_bound_of_an_added_task(cfg: CFG):
    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.evaluate.ground_truth import ground_truth_predictor

    tasks = choose_tasks(["image_class"])
    split = open_split(cfg, "val2017", tasks)
    evaluation = evaluate(ground_truth_predictor(split, tasks, cfg), split, ["image_class"], Sizes(chunk=4))
    assert evaluation.metrics == {"image_class": {"accuracy": 1.0}}


def test_tasks_are_chosen_by_name():
    assert list(choose_tasks(["captioning", "detection"])) == ["captioning", "detection"]
    with pytest.raises(UserError, match=r"expects names among detection, .* got 'depth'"):
        choose_tasks(["depth"])
    with pytest.raises(UserError, match="twice"):
        choose_tasks(["detection", "detection"])


def test_one_task_finds_the_instances():
    assert [name for name, task in TASKS.items() if task.finds_instances] == ["detection"]
    assert {task.name for task in TASKS.values() if task.is_prompted} == {"segmentation", "keypoint"}


def test_a_loading_process_gets_tasks_by_name():
    import pickle

    assert pickle.loads(pickle.dumps(TASKS["keypoint"])) is TASKS["keypoint"]
