"""Exported models: what they compute, without torch, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.infer.exported.folder import GRAPHS, read_exported
from pix2seq.infer.load import load_predictor
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Instances
from pix2seq.runtime.paths import ROOT

onnx = pytest.importorskip("onnx", reason="exports need onnx: pip install 'pix2seq-toolkit[export]'")
pytest.importorskip("onnxscript", reason="exports need onnxscript: pip install 'pix2seq-toolkit[export]'")
pytest.importorskip("onnxruntime", reason="exports need onnxruntime: pip install 'pix2seq-toolkit[export]'")

from pix2seq.infer.exported import export  # noqa: E402
from pix2seq.infer.exported.int8 import with_int8_weights  # noqa: E402

IMAGES = [np.random.default_rng(seed).integers(0, 256, (60, 80 + seed, 3), dtype=np.uint8) for seed in range(3)]
BOXES = Instances(np.array([[5.0, 5, 40, 50], [30, 2, 70, 58]]), np.array([1, 1]), np.ones(2))
TASKS = ["segmentation", "keypoint", "captioning"]


@pytest.fixture(scope="module")
def exported(weights_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    export.export(config.replace(CFG(), weights=str(weights_path), output_dir=str(folder)))
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture(scope="module")
def load(weights_path: Path, exported: Path) -> Callable[..., tuple[Predictor, Predictor]]:
    """A predictor by torch and one by onnxruntime, with the same settings."""

    def load(**settings) -> tuple[Predictor, Predictor]:
        cfg = config.replace(CFG(), **settings)
        return tuple(load_predictor(config.replace(cfg, weights=str(path))) for path in (weights_path, exported))

    return load


@pytest.mark.parametrize("settings", [{"num_samples": 1}, {"detection_votes": 3, "keypoint_votes": 2, "views": 4}])
def test_all_tasks_predict_what_torch_predicts(load, settings: dict):
    by_torch, by_onnx = (predictor.with_answers() for predictor in load(**settings))
    for name in ("detection", *TASKS):
        for result, other in zip(
            *(each.describe_images(IMAGES, [name], [BOXES] * 3) for each in (by_torch, by_onnx)), strict=True
        ):
            pairs = zip(result.answers.get(name, []), other.answers.get(name, []), strict=True)
            for answer, same in pairs:
                for response, again in zip(answer.responses, same.responses, strict=True):
                    length = min(len(response.tokens), len(again.tokens))
                    np.testing.assert_array_equal(response.tokens[:length], again.tokens[:length])
                    assert not response.tokens[length:].any() and not again.tokens[length:].any()
    found = [each.predict("detection", IMAGES) for each in (by_torch, by_onnx)]
    for instances, same in zip(*found, strict=True):
        np.testing.assert_allclose(same.boxes, instances.boxes, atol=1e-3)
        np.testing.assert_allclose(same.scores, instances.scores, atol=1e-4)


def test_an_exported_model_tells_of_tokens_while_others_are_decoded(load):
    _, by_onnx = load(num_samples=1)
    told: list[Response] = []
    listening = by_onnx.generator.with_listener(lambda task, encoded, prompts, count, found: told.extend(found))
    (answer,) = by_onnx.with_generator(listening).ask("detection", IMAGES[:1])
    (final,) = answer.responses
    assert [len(response.tokens) for response in told] == list(range(1, len(told) + 1)) and told
    assert all((response.tokens == final.tokens[: len(response.tokens)]).all() for response in told)


def test_results_do_not_depend_on_what_is_asked_together(load):
    _, by_onnx = load(num_samples=2)
    together = by_onnx.predict("captioning", IMAGES)
    alone = [by_onnx.predict("captioning", [image])[0] for image in IMAGES]
    assert together == alone


def test_no_images_and_no_boxes_are_no_error(load):
    _, by_onnx = load()
    assert by_onnx.describe_images([], TASKS) == []
    assert by_onnx.describe(IMAGES[0], ["segmentation"], Instances.none()).predictions == {"segmentation": []}


NO_TORCH = """
import sys
sys.modules["torch"] = None  # importing it is an error
sys.argv[1:] = {args}
import runpy
runpy.run_path({script}, run_name="__main__")
"""


def test_the_scripts_need_no_torch(exported: Path, tmp_path: Path):
    script = ROOT / "infer" / "infer_single_image_multi_task.py"
    image = ROOT / "images" / "scene.jpg"
    args = ["--weights", str(exported), "--image", str(image), "--output-dir", str(tmp_path), "--num-samples", "1"]
    code = NO_TORCH.format(args=args, script=repr(str(script)))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "result.json").is_file() and "caption:" in run.stdout


def test_the_front_door_imports_no_torch(exported: Path):
    code = f"""
import sys
import numpy as np
import pix2seq
model = pix2seq.load({str(exported)!r}, num_samples=1)
result = model(np.zeros((40, 50, 3), np.uint8), return_tokens=True)
model.set_image(np.zeros((40, 50, 3), np.uint8)).segment([[5, 5, 30, 30]])
print(result.caption is not None, bool(result.tokens), "torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "True True False\n", run.stderr


def test_int8_weights_are_nearly_the_same(exported: Path):
    for name in GRAPHS:
        graph = onnx.load(exported / name)
        small = with_int8_weights(graph)
        made = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
        rounded = [tensor for tensor in graph.graph.initializer if f"{tensor.name}.int8" in made]
        assert len(rounded) > 3
        for tensor in rounded:
            node = next(node for node in small.graph.node if node.output[0] == tensor.name)
            steps, scale = made[f"{tensor.name}.int8"], made[f"{tensor.name}.scale"]
            scale = scale.reshape([-1 if axis == node.attribute[0].i else 1 for axis in range(steps.ndim)])
            assert (np.abs(steps * scale - onnx.numpy_helper.to_array(tensor)) <= 0.501 * scale).all()


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export takes the graphs of the one that has been made."""
    for part, name in (("make_encoder", "encoder.onnx"), ("make_step", "step.onnx")):
        monkeypatch.setattr(f"pix2seq.infer.exported.graphs.{part}", lambda _, name=name: onnx.load(exported / name))


@pytest.mark.usefixtures("quick")
def test_int8_graphs_predict(exported: Path, weights_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    cfg = config.replace(CFG(), weights=str(weights_path), output_dir=str(tmp_path / "int8"), precision="int8")
    export.export(cfg)
    assert "logits differ from PyTorch's" in capsys.readouterr().out
    size = sum((tmp_path / "int8" / name).stat().st_size for name in GRAPHS)
    assert size < 0.8 * sum((exported / name).stat().st_size for name in GRAPHS)
    predictor = load_predictor(config.replace(CFG(), weights=str(tmp_path / "int8")))
    assert len(predictor.predict("captioning", IMAGES)) == 3


@pytest.mark.usefixtures("quick")
def test_graphs_that_compute_something_else_are_not_written(
    weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export, "compare", lambda model, graphs: 0.5)
    with pytest.raises(UserError, match=r"differ from PyTorch's logits by 5.0e-01"):
        export.export(config.replace(CFG(), weights=str(weights_path), output_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_the_description_tells_other_programs_what_they_need(exported: Path):
    told = json.loads((exported / "model.json").read_text(encoding="utf-8"))
    assert told["vocabulary"]["tasks"]["detection"]["prompt"] == 10
    assert told["inference"]["coord_window"] == CFG().infer.coord_window
    assert told["cfg"]["model"]["image_size"] == 64 and told["class_names"]["3"] == "car"


# A stranger's folder


def test_a_graph_that_names_another_file_is_refused(copied: Path):
    graph = onnx.load(copied / "step.onnx")
    onnx.save(graph, copied / "step.onnx", save_as_external_data=True, location="numbers.bin", size_threshold=0)
    with pytest.raises(UserError, match=r"is not the graph that model.json describes"):
        read_exported(copied)
    sign(copied)
    with pytest.raises(UserError, match=r"step.onnx names another file for its numbers, which is never opened"):
        read_exported(copied)


def sign(folder: Path) -> None:
    """Have the description describe the graphs as they are."""
    import hashlib

    path = folder / "model.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["graphs"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in told["graphs"]}
    path.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"no graph"])
def test_what_is_no_graph_is_refused(copied: Path, content: bytes):
    (copied / "encoder.onnx").write_bytes(content)
    sign(copied)
    with pytest.raises(UserError, match=r"encoder.onnx is no graph that onnxruntime runs"):
        load_predictor(config.replace(CFG(), weights=str(copied)))


def test_graphs_that_do_not_fit_together_are_refused(copied: Path):
    shutil.copyfile(copied / "encoder.onnx", copied / "step.onnx")
    sign(copied)
    with pytest.raises(UserError, match=r"does not hold an encoder and a step that fit together"):
        load_predictor(config.replace(CFG(), weights=str(copied)))


def test_a_graph_of_another_vocabulary_is_refused(copied: Path):
    path = copied / "model.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["cfg"]["model"]["vocab_size"] += 100
    path.write_text(json.dumps(told), encoding="utf-8")
    predictor = load_predictor(config.replace(CFG(), weights=str(copied)))
    with pytest.raises(UserError, match=r"gives logits \(3, 1, 3200\), expected \(3, 1, 3300\)"):
        predictor.predict("captioning", IMAGES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "was not written by infer/export_onnx.py"),
        ({"graphs": {"encoder.onnx": "short"}}, "in graphs"),
        ({"class_names": {"1": 7}}, "class_names cannot be read"),
        ({"cfg": 3}, "cfg cannot be read"),
        ({"decoding": {"end_threshold": 7}}, "end_threshold expects"),
        ({"step": "many"}, "step cannot be read"),
    ],
)
def test_a_description_that_is_none_is_refused(copied: Path, change: dict, reason: str):
    path = copied / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        read_exported(copied)


def test_a_folder_without_a_description_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no model.json: expected a weights file, or a folder that"):
        load_predictor(config.replace(CFG(), weights=str(tmp_path)))


@pytest.mark.parametrize("settings", [{"device": "cuda"}, {"precision": "int8"}])
def test_settings_that_it_cannot_have_are_refused(exported: Path, settings: dict):
    with pytest.raises(UserError, match=next(iter(settings.values()))):
        load_predictor(config.replace(CFG(), weights=str(exported), **settings))
