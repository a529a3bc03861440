"""The inference scripts from the command line: files written, tables printed, mistakes reported in one line."""

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq import config
from pix2seq.infer.image_names import image_ids, unique_names
from pix2seq.infer.load import load_predictor
from pix2seq.infer.output import NAMED, is_done
from pix2seq.infer.predictor import Predictor
from pix2seq.runtime.files import output_folder
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import choose_tasks
from pix2seq.token_ids import CLASS_SHIFT, INVISIBLE, TEXT_SHIFT
from pix2seq.tokenizers.vocabulary import quantize

SCRIPTS = sorted((ROOT / "infer").glob("infer_single_image_*.py"))
PNGS = {"object_detection.png", "instance_segmentation.png", "keypoint_detection.png"}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "000000000042.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "deep"


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, weights_path: Path, out: Path):
    """Run a script in this process with the tiny weights; later flags override these."""

    def run(name: str, *flags: str | Path) -> None:
        path = ROOT / "infer" / f"infer_single_image_{name}.py"
        common = ["--weights", weights_path, "--output-dir", out, "--device", "cpu"]
        common += ["--num-samples", "2"] if name in ("segmentation", "multi_task") else []
        monkeypatch.setattr(sys, "argv", [str(word) for word in [path, *common, *flags]])
        runpy.run_path(str(path), run_name="__main__")

    return run


@pytest.fixture
def responsive(monkeypatch: pytest.MonkeyPatch, fake_generator) -> None:
    """Make the weights predict a person and a car, and something for every task."""
    boxes = [*quantize([0.1, 0.2, 0.6, 0.6]), CLASS_SHIFT + 1, *quantize([0.1, 0.2, 0.5, 0.9]), CLASS_SHIFT + 3, 0]
    responses = {
        "detection": [boxes],
        "segmentation": [[*quantize(np.array([0.3, 0.3, 0.3, 0.6, 0.6, 0.6])), 0]],
        "keypoint": [[*quantize(np.linspace(0.3, 0.7, 32)), INVISIBLE, INVISIBLE]],
        "captioning": [[TEXT_SHIFT + 1, TEXT_SHIFT + 2, 0]],
    }
    monkeypatch.setattr(
        "pix2seq.infer.load.load_predictor", lambda cfg: load_predictor(cfg).with_generator(fake_generator(responses))
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("object_detection", {"object_detection.png"}),
        ("voc", {"object_detection.png"}),
        ("segmentation", {"instance_segmentation.png"}),
        ("keypoint", {"keypoint_detection.png"}),
        ("caption", set()),
        ("multi_task", PNGS),
    ],
)
def test_each_script_writes_its_files(run_script, responsive, image, out, script, expected):
    run_script(script, "--image", image)
    assert files(out) == expected | {"result.json"}
    assert all(Image.open(out / name).size == (90, 60) for name in expected)
    assert all(entry["image_id"] == 42 for entry in json.loads((out / "result.json").read_text(encoding="utf-8")))


def test_what_is_found_is_printed(run_script, responsive, image, capsys):
    run_script("multi_task", "--image", image)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["class", "score", "x", "y", "w", "h"]
    person, car = (
        next(n for n, line in enumerate(lines) if line.startswith(f"  {name}")) for name in ("person", "car")
    )
    assert len(lines[1]) == len(lines[person]) == len(lines[car])
    assert re.fullmatch(r"    mask: \d+ pixels", lines[person + 1])
    points = " ".join(lines[person + 2 : car]).split()
    assert points[:2] == ["keypoints:", "nose=23,18"] and len(points) == 1 + 16  # one point is invisible
    assert all(len(line) <= 116 for line in lines[person + 2 : car])
    assert lines[car + 1].startswith("    mask: ") and lines[car + 2] == "  caption: a person"


def test_several_captions(run_script, responsive, image, out, capsys):
    run_script("caption", "--image", image, "--num-captions", "3")
    assert capsys.readouterr().out.splitlines()[1:4] == ["  caption: a person"] * 3
    (entry,) = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert entry == {"image_id": 42, "caption": "a person", "captions": ["a person"] * 3}


def test_a_box_is_a_prompt_without_detection(run_script, responsive, image, out):
    run_script("segmentation", "--image", image, "--box", "10,5,30.5,200", "--box-class", "dog")
    (entry,) = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert (entry["bbox"], entry["category_id"], entry["score"]) == ([10, 5, 30.5, 55], 18, 1)


def test_keypoints_are_predicted_for_people_only(run_script, responsive, image, out):
    run_script("keypoint", "--image", image)
    (entry,) = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert (entry["category_id"], len(entry["keypoints"])) == (1, 51)


def test_each_of_several_images_has_its_folder(run_script, responsive, image, out, tmp_path):
    other = tmp_path / "more"
    other.mkdir()
    for suffix in ("jpg", "png"):
        Image.new("RGB", (20, 30)).save(other / f"000000000042.{suffix}")
    (other / "notes.txt").write_text("no image", encoding="utf-8")
    run_script("object_detection", "--image", image, other)
    names = ["000000000042", "000000000042_2", "000000000042_3"]
    expected = {f"{name}/{file}" for name in names for file in ("object_detection.png", "result.json")}
    assert files(out) == expected | {"results.jsonl"}


def wrote(capsys) -> str:
    """The part of the last output line that names files."""
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("wrote ")
    return line.removeprefix("wrote ")


def test_the_last_line_names_the_files_that_were_written(run_script, responsive, image, out, capsys):
    run_script("multi_task", "--image", image)
    named = [Path(name) for name in wrote(capsys).split(", ")]
    assert named[0] == out / "result.json"
    assert {str(path.relative_to(out)) for path in named} == files(out) == PNGS | {"result.json"}


def test_the_last_line_names_the_first_few_of_many_files(run_script, responsive, out, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 30)).save(folder / f"{name}.png")
    run_script("multi_task", "--image", folder)
    names, more = wrote(capsys).split(" and ")
    named = names.split(", ")
    assert (len(named), more) == (NAMED, f"{1 + 3 * 4 - NAMED} more")
    assert all(Path(name).is_file() for name in named)
    assert [Path(name).parent.name for name in named] == [out.name] + ["a"] * 4 + ["b"] * 3


def test_names_are_unique_even_if_a_numbered_name_exists():
    assert unique_names([Path("a.png"), Path("a_2.png"), Path("b/a.jpg")]) == ["a", "a_2", "a_3"]


def test_no_name_leads_out_of_the_output_folder():
    assert unique_names([Path("...jpg"), Path("..jpg"), Path("a.jpg")]) == ["image", "image_2", "a"]


@pytest.mark.parametrize("kind", ["pipe", "deep", "text", "numbers"])
def test_another_program_s_file_of_that_name_holds_no_results(tmp_path: Path, kind: str):
    path = tmp_path / "result.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text({"deep": "[" * 99_999, "text": "no", "numbers": "[1]"}[kind], encoding="utf-8")
    assert not is_done(tmp_path, choose_tasks(("captioning",)))


def save_as(path: Path, kind: str) -> Path:
    """An image of an unusual kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "rgba.png": (Image.fromarray(pixels), {}),
        "gray.jpg": (Image.fromarray(pixels[:, :, 0]), {}),
        "16bit.png": (Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), {}),
        "narrow.png": (Image.fromarray(pixels[:, :1, :3]), {}),
        "dot.png": (Image.fromarray(pixels[:1, :1, :3]), {}),
        "turned.jpg": (Image.fromarray(pixels[:, :, :3]), {"exif": exif}),
        "cmyk.jpg": (Image.fromarray(pixels[:, :, :3]).convert("CMYK"), {}),
    }
    image, options = images[kind]
    image.save(path / kind, **options)
    return path / kind


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("rgba.png", (30, 40)),
        ("gray.jpg", (30, 40)),
        ("16bit.png", (30, 40)),
        ("narrow.png", (1, 40)),
        ("dot.png", (1, 1)),
        ("turned.jpg", (40, 30)),
        ("cmyk.jpg", (30, 40)),
    ],
)
def test_every_kind_of_image_works(run_script, responsive, tmp_path, out, kind, size):
    run_script("multi_task", "--image", save_as(tmp_path, kind))
    assert files(out) == PNGS | {"result.json"}
    assert all(Image.open(out / name).size == size for name in PNGS)


def test_a_random_model_works_too(run_script, image, out):
    run_script("multi_task", "--image", image, "--score-threshold", "0")
    assert files(out) == PNGS | {"result.json"}


def refused(run_script, capsys, name: str, *flags: str | Path) -> str:
    """The one line that reports a mistake; the exit status is 2."""
    with pytest.raises(SystemExit) as stop:
        run_script(name, *flags)
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1), error
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image", "{tmp}/missing.png"], "there is no image"),
        (["--image", "{tmp}/notes.png"], "is not an image"),
        (["--image", "{tmp}/cut.jpg"], "cannot be read completely"),
        (["--image", "{tmp}/notes.png", "{tmp}/cut.jpg"], "2 of 2 images could not be used"),
        (["--image", "{tmp}/empty"], "holds no images"),
        ([], "--image expects"),
        (["--image", "{image}", "--box", "1,2,3"], "four numbers"),
        (["--image", "{image}", "--box", "1,2,3,a"], "four numbers"),
        (["--image", "{image}", "--box", "1,2,3,nan"], "four numbers"),
        (["--image", "{image}", "--box", "90,0,5,5"], "outside the image"),
        (["--image", "{image}", "--box", "1,1,0,5"], "above zero"),
        (
            ["--image", "{image}", "--box", "1,1,5,5", "--box-class", "unicorn"],
            "a class among person, car, dog",
        ),
        (["--image", "{image}", "--task", "painting"], "this script is for segmentation"),
        (["--image", "{image}", "--num-samples", "0"], "--num-samples expects"),
        (["--image", "{image}", "--device", "abacus"], "--device abacus"),
        (["--image", "{image}", "--weights", "{tmp}/missing.safetensors"], "no weights file"),
        (["--image", "{image}", "--weights", "{tmp}/notes.png"], "not a safetensors file"),
        (["--image", "{image}", "--weights", "{tmp}/half.safetensors"], "not a safetensors file"),
        (["--image", "{image}", "--output-dir", "{tmp}/notes.png"], "--output-dir"),
        (["--image", "{image}", "--output-dir", "{tmp}/notes.png/below"], "--output-dir"),
        (["--image", "{image}", "--output-dir", "/proc/nowhere"], "--output-dir"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    run_script, responsive, capsys, image, tmp_path, out, weights_path, flags, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.png").write_text("no image, no weights", encoding="utf-8")
    Image.open(image).save(tmp_path / "cut.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:3000])
    (tmp_path / "half.safetensors").write_bytes(weights_path.read_bytes()[: weights_path.stat().st_size // 2])
    flags = [flag.format(tmp=tmp_path, image=image) for flag in flags]
    assert message in refused(run_script, capsys, "segmentation", *flags)
    assert not out.parent.exists()


def test_a_box_without_a_use_is_refused(run_script, capsys, image):
    assert "leave it out" in refused(run_script, capsys, "caption", "--image", image, "--box", "1,1,5,5")


def test_keypoints_of_a_car_are_refused(run_script, capsys, image):
    flags = ["--image", image, "--box", "1,1,5,5", "--box-class", "car"]
    assert "only a person" in refused(run_script, capsys, "keypoint", *flags)


def test_a_task_that_the_weights_cannot_do_is_refused(run_script, capsys, image, tmp_path, weights_path):
    from pix2seq.models.weights import Weights, load_weights, save_weights

    weights = load_weights(weights_path)
    cfg = config.replace(weights.cfg, task="segmentation")
    save_weights(tmp_path / "one.safetensors", Weights(weights.model, cfg, weights.class_names, weights.text))
    flags = ["--image", image, "--weights", tmp_path / "one.safetensors"]
    assert "not for captioning" in refused(run_script, capsys, "caption", *flags)
    assert "not for detection" in refused(run_script, capsys, "segmentation", *flags)
    run_script("segmentation", *flags, "--box", "10,10,20,20")


def test_what_weights_are_good_for_is_said_once_and_where_nothing_is_found(
    run_script, responsive, capsys, image, tmp_path, weights_path, monkeypatch
):
    from pix2seq.models.weights import load_weights, save_weights

    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "dogs.safetensors"
    save_weights(path, dataclasses.replace(load_weights(weights_path), domain="photographs of dogs", licence="MIT"))
    flags = ["--image", image, "--weights", path]
    said = []
    for more in ([], [], ["--score-threshold", "1"]):
        run_script("object_detection", *flags, *more)
        said.append(capsys.readouterr().err)
    assert said[0].startswith("dogs.safetensors: photographs of dogs (licence: MIT); stronger weights: ")
    assert said[1] == "" and said[2] == said[0] and said[0].count("\n") == 1


def test_old_output_is_kept_after_a_failure(run_script, responsive, capsys, image, out, tmp_path):
    run_script("object_detection", "--image", image)
    before = (out / "result.json").read_bytes()
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    refused(run_script, capsys, "object_detection", "--image", tmp_path / "notes.png")
    assert (out / "result.json").read_bytes() == before
    assert files(out) == {"object_detection.png", "result.json"}


def test_one_bad_image_does_not_take_the_good_ones_with_it(run_script, responsive, capsys, out, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.jfif"):
        Image.new("RGB", (20, 30)).save(folder / name, format="PNG")
    for name in ("b.jpg", "._a.png", ".hidden.jpg", "d.heic", "e.HEIC"):
        (folder / name).write_text("no image", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run_script("object_detection", "--image", folder)
    printed = capsys.readouterr().err
    assert stop.value.code == 3
    assert "1 of 2 images" not in printed and "1 of 3 images could not be used" in printed and "b.jpg" in printed
    assert "2 files are of formats that cannot be read, such as d.heic" in printed
    expected = {f"{name}/{file}" for name in "ac" for file in ("object_detection.png", "result.json")}
    assert files(out) == expected | {"results.jsonl"}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory")]
)
def test_an_image_that_needs_too_much_memory_is_named(
    run_script, capsys, image, out, tmp_path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    large = tmp_path / "large.png"
    Image.new("L", (99, 9)).save(large)
    describe = Predictor.describe_images

    def fail(self: Predictor, images: list[np.ndarray], *rest: object) -> object:
        if any(pixels.shape[1] == 99 for pixels in images):
            raise error
        return describe(self, images, *rest)

    monkeypatch.setattr(Predictor, "describe_images", fail)
    with pytest.raises(SystemExit, match="3"):
        run_script("caption", "--image", large, image)
    assert f"{large} needs more memory than there is; make it smaller" in capsys.readouterr().err
    assert (out / image.stem / "result.json").is_file()


def test_results_of_another_task_are_not_overwritten(run_script, responsive, image, out):
    run_script("caption", "--image", image)
    run_script("object_detection", "--image", image)
    run_script("object_detection", "--image", image)
    (caption,) = json.loads((out / "result.json").read_text(encoding="utf-8"))
    (found, *_) = json.loads((out / "result_detection.json").read_text(encoding="utf-8"))
    assert "caption" in caption and "bbox" in found
    assert files(out) == {"object_detection.png", "result.json", "result_detection.json"}


@pytest.mark.parametrize("others", [[], ["b.png"]])
def test_pictures_never_replace_an_image_that_is_read(run_script, responsive, capsys, image, tmp_path, others):
    folder = tmp_path / "b"  # where the results of b.png go; those of a single image lie in the output folder itself
    folder.mkdir()
    image = image.rename(folder / "object_detection.png")
    before = image.read_bytes()
    for name in others:
        (folder / name).write_bytes(before)
    names = [image, *(folder / name for name in others)]
    with pytest.raises(SystemExit, match="2"):
        run_script("object_detection", "--image", *names, "--output-dir", tmp_path if others else folder)
    assert "object_detection.png would be replaced by the results" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_ids_of_images_are_their_numbers_unless_two_have_the_same():
    paths = [Path("000000000042.jpg"), Path("1.jpg"), Path("001.jpg"), Path("cat.jpg")]
    assert image_ids(paths) == [42, "1", "001", "cat"]


def test_images_that_are_done_can_be_skipped(run_script, responsive, capsys, image, out, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(image.read_bytes())
    run_script("caption", "--image", image, other)
    done, left = out / image.stem / "result.json", out / "other" / "result.json"
    left.unlink()
    done.write_text('[{"caption": "as it was"}]', encoding="utf-8")
    run_script("caption", "--image", image, other, "--skip-existing")
    assert "as it was" in done.read_text(encoding="utf-8") and left.is_file()
    assert "1 of 2 images were left out" in capsys.readouterr().err
    assert len((out / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    run_script("object_detection", "--image", image, other, "--skip-existing")  # results of another task do not count
    assert (out / "other" / "result_detection.json").is_file() and "left out" not in capsys.readouterr().err
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    with pytest.raises(SystemExit, match="3"):
        run_script("object_detection", "--image", image, other, tmp_path / "notes.png", "--skip-existing")
    assert "2 of 3 images were left out" in capsys.readouterr().err


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path):
    program = f"""
import os
from pathlib import Path
from pix2seq.runtime.files import output_folder
with output_folder(Path({str(tmp_path)!r})) as staging:
    (staging / "half.png").touch()
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with output_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]
        with output_folder(tmp_path):  # of another thread, which is alive
            assert mine.is_dir()


def test_what_another_machine_left_is_removed_after_a_day(tmp_path: Path):
    left = tmp_path / ".unfinished-another-machine-77-x"
    left.mkdir()
    with output_folder(tmp_path):
        assert left.is_dir()
    os.utime(left, (0, 0))
    with output_folder(tmp_path):
        assert not left.exists()


def test_nothing_is_left_behind_after_an_interruption(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "new" / "folder") as staging:
        (staging / "half.png").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


def test_help_imports_nothing_slow():
    names = [path.stem for path in SCRIPTS]
    assert len(names) == 6
    program = (
        "import runpy, sys\n"
        f"for path in {[str(path) for path in SCRIPTS]}:\n"
        "    sys.argv = [path, '--help']\n"
        "    try: runpy.run_path(path, run_name='__main__')\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'timm', 'matplotlib', 'PIL'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--num-samples" in done.stdout
