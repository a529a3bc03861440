"""Many images: read, predicted and written beside each other, and a log that survives whatever ends the run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.infer import pipeline
from pix2seq.infer.image_names import file_names
from pix2seq.infer.pipeline import Failed, Job, Loaded, batched, in_order, one_ahead, process
from pix2seq.infer.result_log import ResultLog, begin, line_about, put_together
from pix2seq.infer.run import run
from pix2seq.runtime.paths import ROOT
from tests.exact_model import with_exact_model

SCRIPT = ROOT / "infer" / "infer_single_image_caption.py"
TASKS = ["captioning"]


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (30 + 3 * number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(path: Path) -> list[str]:
    return [line["file_name"] for line in lines(path)]


def job(name: str) -> Job:
    return Job(Path(name), name, Path(name).stem, name)


# The parts of the pipeline


@given(st.lists(st.integers(0, 99), max_size=30), st.integers(0, 5))
def test_work_in_a_pool_comes_back_in_order(items: list[int], most: int):
    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, lambda item: 2 * item, items, most)) == [2 * item for item in items]
        assert list(one_ahead(pool, iter(items))) == items


def test_only_so_many_are_read_ahead():
    begun: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        coming = in_order(pool, lambda item: begun.append(item) or item, range(100), 3)
        next(coming)
    assert len(begun) <= 5


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 5))
def test_batches_hold_so_many_images_and_so_many_bytes(sides: list[int], size: int):
    most = 3 * 9  # of a batch: an image of 3 × 3 pixels, or several smaller ones
    items = [Loaded(job("a"), np.zeros((side, side, 3), np.uint8)) if side else Failed(job("a"), "") for side in sides]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MOST_BYTES", most)
        batches = list(batched(items, size))
    assert [item for batch in batches for item in batch] == items
    for batch in batches:
        assert 1 <= len(batch) <= size
        held = [item.pixels.nbytes for item in batch if isinstance(item, Loaded)]
        assert sum(held) <= most or len(batch) == 1


def test_an_image_has_the_same_result_alone_and_among_others(make_predictor):
    predictor = with_exact_model(make_predictor(num_samples=2, score_threshold=0.0, max_objects=3))
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (30 + 7 * number, 50, 3), dtype=np.uint8) for number in range(5)]

    def shown(results: list) -> list[str]:
        return [str((result.instances.boxes.tolist(), result.predictions)) for result in results]

    together = shown(predictor.describe_images(images, list(predictor.tasks)))
    assert together == [shown([predictor.describe(image, list(predictor.tasks))])[0] for image in images]
    assert shown(predictor.describe_images(images[::-1], list(predictor.tasks))) == together[::-1]
    assert len(set(together)) == len(images)


def test_what_is_computed_is_written_even_after_an_interruption(make_predictor):
    predictor = make_predictor({"captioning": [[0]]}, eval_batch_size=2)
    written: list[str] = []

    def load(job: Job) -> Loaded | Failed:
        return Loaded(job, np.zeros((9, 9, 3), np.uint8))

    def write(item: tuple) -> str:
        time.sleep(0.05)
        written.append(item[0].job.file_name)
        return item[0].job.file_name

    def jobs() -> Iterator[Job]:
        yield from (job(name) for name in "abcdefgh")

    with pytest.raises(KeyboardInterrupt):
        for _ in process(predictor, TASKS, jobs(), load, write):
            raise KeyboardInterrupt
    assert 2 <= len(written) <= 6 and written == sorted(written)


# The log


def add(path: Path, *file_names: str, rank: int = 0, tasks: list[str] = TASKS, width: int = 4) -> None:
    log = ResultLog(path, rank)
    for name in file_names:
        log.add(line_about(name, name, (width, 3), tasks, [{"image_id": name, "caption": 'a, "results": b'}]))
    log.close()


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_dropped_and_said(tmp_path: Path, capsys, cut: int):
    path = tmp_path / "results.jsonl"
    add(path, "a", "b", "c")
    os.truncate(path, path.stat().st_size - cut)
    assert begin(tmp_path, TASKS, go_on=True) == (path, {"a", "b"})
    assert "its last line was torn, and is dropped" in capsys.readouterr().err
    add(path, "c")
    assert names(path) == ["a", "b", "c"]


def test_a_new_run_moves_earlier_results_aside(tmp_path: Path, capsys):
    path = tmp_path / "results.jsonl"
    add(path, "a", "b")
    assert begin(tmp_path, TASKS, go_on=False) == (path, set())
    assert "--skip-existing goes on" in capsys.readouterr().err
    assert names(tmp_path / "results.before.jsonl") == ["a", "b"] and not path.exists()


def test_results_of_other_tasks_have_a_file_of_their_own(tmp_path: Path):
    add(tmp_path / "results.jsonl", "a")
    path, known = begin(tmp_path, ["detection"], go_on=True)
    assert (path.name, known) == ("results_detection.jsonl", set())
    assert names(tmp_path / "results.jsonl") == ["a"]


def test_another_program_s_file_is_refused(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    for text in ('{"a": 1}\n', "no\n", '{"file_name": 1, "tasks": [], "results": 2}\n', "[" * 9999 + "\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="line 1, is no result of an image"):
            begin(tmp_path, TASKS, go_on=True)


def test_what_is_no_torn_result_is_never_cut(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    for text in ("precious, without an end of line", '{"file_name": "a"', '{"a": 1}'):
        path.write_text(text, encoding="utf-8")
        if text.startswith('{"file_name"'):
            assert begin(tmp_path, TASKS, go_on=True) == (path, set())
            continue
        with pytest.raises(UserError, match=r"results\.jsonl holds what is no result of an image; move the file"):
            begin(tmp_path, TASKS, go_on=True)
        assert path.read_text(encoding="utf-8") == text


def test_a_log_that_is_no_file_or_endless_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.touch()
    os.truncate(path, 3 * 10**9)  # takes no space
    with pytest.raises(UserError, match="is no result of an image"):
        begin(tmp_path, TASKS, go_on=True)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        begin(tmp_path, TASKS, go_on=True)


def test_the_parts_of_several_processes_become_one_file_in_the_order_of_the_images(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    add(path, "x", "a", "d")
    add(path, "b", "a", rank=1, width=5)
    add(path, "c", rank=11)
    put_together(path, ["a", "b", "c", "d"])
    assert names(path) == ["x", "a", "b", "c", "d"]
    assert lines(path)[1]["width"] == 5  # the last line about an image counts
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_images_are_named_as_in_coco_unless_two_have_the_same_name():
    paths = [Path("a/1.jpg"), Path("b/1.jpg"), Path("b/2.jpg")]
    assert file_names(paths) == [str(Path("a/1.jpg")), str(Path("b/1.jpg")), "2.jpg"]


# The scripts


@pytest.fixture
def folder_cfg(tiny_model_cfg: CFG, weights_path: Path, tmp_path: Path) -> CFG:
    """Captions of seven images, without pictures."""
    images = photographs(tmp_path / "photos", 7)
    named = dict(image=(str(images),), weights=str(weights_path), output_dir=str(tmp_path / "out"))
    return config.replace(tiny_model_cfg, task="captioning", pictures=False, eval_batch_size=3, **named)


def test_a_folder_without_pictures_is_one_file(folder_cfg: CFG, tmp_path: Path, capsys):
    run(folder_cfg)
    (path,) = (tmp_path / "out").iterdir()
    found = lines(path)
    assert [line["file_name"] for line in found] == [f"{number:03}.png" for number in range(7)]
    assert [(line["width"], line["height"]) for line in found] == [(40, 30 + 3 * number) for number in range(7)]
    assert [entry["image_id"] for line in found for entry in line["results"]] == list(range(7))
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")


def test_a_run_goes_on_where_it_ended(folder_cfg: CFG, tmp_path: Path, capsys):
    run(folder_cfg)
    path = tmp_path / "out" / "results.jsonl"
    whole = lines(path)
    os.truncate(path, len(b"".join(path.read_bytes().splitlines(True)[:4])) + 9)
    run(config.replace(folder_cfg, skip_existing=True))
    assert "4 of 7 images were left out" in capsys.readouterr().err
    assert [line["file_name"] for line in lines(path)] == [line["file_name"] for line in whole]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(folder_cfg: CFG, tmp_path: Path):
    path = tmp_path / "out" / "results.jsonl"
    flags = ["--image", folder_cfg.infer.image[0], "--weights", folder_cfg.infer.weights, "--output-dir", path.parent]
    flags += ["--no-pictures", "--eval-batch-size", "1", "--device", "cpu", "--skip-existing"]
    command = [str(word) for word in (sys.executable, SCRIPT, *flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert len(names(path)) >= 1
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(names(path)) == [f"{number:03}.png" for number in range(7)]


@pytest.mark.slow
def test_two_processes_write_what_one_does(folder_cfg: CFG, tmp_path: Path, torchrun: list[str]):
    (Path(folder_cfg.infer.image[0]) / "bad.png").write_text("no image", encoding="utf-8")
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output, command in zip(outputs, ([sys.executable], torchrun), strict=True):
        flags = ["--image", *folder_cfg.infer.image, "--weights", folder_cfg.infer.weights, "--output-dir", output]
        words = [*command, SCRIPT, *flags, "--no-pictures", "--device", "cpu"]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode != 0 and done.stderr.count("1 of 8 images could not be used") == 1, done.stderr
    one, two = (output / "results.jsonl" for output in outputs)
    assert names(one) == names(two) == [f"{number:03}.png" for number in range(7)]
    assert [file.name for file in outputs[1].iterdir()] == ["results.jsonl"]
