"""The notebooks run from their first cell to their last, and what is stored in them may be shown to anybody."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pix2seq.runtime.paths import ROOT
from pix2seq.scenes.coco_layout import write_image

NOTEBOOKS = ROOT / "notebooks"
NAMES = ("inference", "finetune")
MOST_BYTES = 1_000_000
ABSOLUTE = re.compile(r"(?<![\w./~<])/[\w.-]+/[\w./-]*")  # paths; in addresses, tags and fractions it is no beginning
PICTURE = re.compile(r'"image/\w+": "[^"]*"')


def cells_of(name: str, kind: str) -> list[dict]:
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_shows_what_came_out_on_no_particular_machine(name: str):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert not [place for place in ("/home/", "/root/", "/tmp/", "C:\\") if place in text]
    assert not ABSOLUTE.findall(PICTURE.sub("", text))
    outputs = [output for cell in cells_of(name, "code") for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_a_badge_and_valid_cells(name: str):
    assert "colab-badge.svg" in source(cells_of(name, "markdown")[0])
    for cell in cells_of(name, "code"):
        ast.parse(source(cell))


def test_all_notebooks_are_installed_alike():
    first, second = (source(cells_of(name, "code")[0]) for name in NAMES)
    assert first == second and "find_spec" in first


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a notebook, with replacements in its code, in an empty folder; return what it prints."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat, of the extra [dev], is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient, of the extra [dev], is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel, of the extra [dev], is not installed")
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))

    def execute(name: str, **values: str) -> str:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for variable, value in values.items():
            (cell,) = [cell for cell in code if f"\n{variable} = " in f"\n{cell.source}"]
            lines = [
                f"{variable} = {value}" if line.startswith(f"{variable} = ") else line
                for line in cell.source.splitlines()
            ]
            cell.source = "\n".join(lines)
        client.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return "".join(output.text for cell in code for output in cell.outputs if output.output_type == "stream")

    return execute


@pytest.mark.slow
def test_the_notebook_on_inference(execute: Callable[..., str]):
    assert "person 1.00" in execute("inference")


@pytest.mark.slow
def test_the_notebook_on_own_data_from_an_export_that_it_draws(execute: Callable[..., str]):
    printed = execute("finetune", EPOCHS="1")
    assert "100 images" in printed and "layout (annotations/*_default.json)" in printed
    assert "wrote runs/own: best.safetensors" in printed and re.search(r"detection +AP +0\.", printed)


@pytest.mark.slow
def test_the_notebook_on_own_data_from_an_export_of_roboflow(execute: Callable[..., str], tmp_path: Path):
    path = roboflow_export(tmp_path / "export")
    printed = execute("finetune", EPOCHS="1", EXPORT=repr(str(path)), TASKS='"detection"')
    assert "12 images" in printed and "YOLO's labels by data.yaml" in printed
    assert "wrote runs/own: best.safetensors" in printed


def roboflow_export(folder: Path) -> Path:
    """Drawn scenes as Roboflow exports YOLOv8's format: a zip with data.yaml, and a label file for each image."""
    for split, first, count in (("train", 0, 8), ("valid", 8, 4)):
        images, labels = folder / split / "images", folder / split / "labels"
        images.mkdir(parents=True)
        labels.mkdir()
        for index in range(first, first + count):
            record = write_image(images, 5, "train2017", index)
            width, height = record["image"]["width"], record["image"]["height"]
            boxes = [item["bbox"] for item in record["objects"]]
            lines = [f"0 {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}" for x, y, w, h in boxes]
            (labels / f"{Path(record['image']['file_name']).stem}.txt").write_text("\n".join(lines), encoding="utf-8")
    names = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['thing']\n"
    (folder / "data.yaml").write_text(names, encoding="utf-8")
    return Path(shutil.make_archive(str(folder), "zip", folder))
