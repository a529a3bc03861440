"""A video becomes a video with drawings and a line for each frame, whole or not at all."""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pix2seq.config import replace
from pix2seq.errors import UserError
from pix2seq.infer import pipeline
from pix2seq.infer import video as module
from pix2seq.infer.load import load_predictor
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.video import open_video, write_video
from pix2seq.runtime.paths import ROOT
from pix2seq.token_ids import CLASS_SHIFT
from pix2seq.tokenizers.vocabulary import quantize

SIZE, FRAMES, FPS = (90, 60), 20, 10


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A video of 20 frames whose red grows."""
    path = tmp_path / "street.mp4"
    with write_video(path, module.CODEC, FPS, SIZE) as write:
        for number in range(FRAMES):
            write(np.full((*SIZE[::-1], 3), [10 * number, 50, 50], np.uint8))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, weights_path: Path, tmp_path: Path, fake_generator) -> Callable[..., None]:
    """Run the script in this process; the weights find a car in every frame."""
    found = {"detection": [[*quantize([0.1, 0.2, 0.5, 0.9]), CLASS_SHIFT + 3, 0]]}
    monkeypatch.setattr(
        "pix2seq.infer.load.load_predictor", lambda cfg: load_predictor(cfg).with_generator(fake_generator(found))
    )

    def run(*flags: str | Path) -> None:
        path = ROOT / "infer" / "infer_video.py"
        common = ["--weights", weights_path, "--output-dir", tmp_path / "out", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in [path, *common, *flags]])
        runpy.run_path(str(path), run_name="__main__")

    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames(path: Path) -> list[np.ndarray]:
    return list(module._frames(path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_frame_has_a_line_and_a_drawing(run, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    run("--video", street, "--eval-batch-size", "8")
    out = tmp_path / "out"
    assert names(out) == ["street.jsonl", "street.mp4"]
    found = lines(out / "street.jsonl")
    assert [(line["frame"], line["seconds"]) for line in found] == [(n, n / FPS) for n in range(FRAMES)]
    assert all(entry["category_id"] == 3 for line in found for entry in line["results"]) and found[3]["results"]
    drawn, plain = frames(out / "street.mp4"), frames(street)
    assert len(drawn) == FRAMES and drawn[0].shape == (60, 90, 3)
    assert all(np.abs(one.astype(int) - other).max() > 40 for one, other in zip(drawn, plain, strict=True))
    corners = [frame[50:, :8, 0].mean() for frame in drawn]  # where nothing is drawn
    assert np.abs(np.array(corners) - 10 * np.arange(FRAMES)).max() < 12
    assert "street.mp4" in capsys.readouterr().out


def test_some_frames(run, street: Path, tmp_path: Path):
    run("--video", street, "--stride", "3", "--max-frames", "4")
    assert [line["frame"] for line in lines(tmp_path / "out" / "street.jsonl")] == [0, 3, 6, 9]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "street.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(FPS / 3, rel=0.01)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_an_interrupted_run_goes_on(run, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    describe, seen = Predictor.describe_images, []

    def interrupted(self: Predictor, images: list, *rest: object) -> list:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return describe(self, images, *rest)

    monkeypatch.setattr(Predictor, "describe_images", interrupted)
    flags = ["--video", street, "--eval-batch-size", "8"]
    with pytest.raises(SystemExit, match="130"):
        run(*flags)
    assert names(tmp_path / "out") == ["street.parts"]
    with pytest.raises(SystemExit, match="2"):
        run(*flags, "--stride", "2")  # parts of other settings are no part of this
    run(*flags)
    assert seen == [8, 8, 4, 4]
    assert [line["frame"] for line in lines(tmp_path / "out" / "street.jsonl")] == list(range(FRAMES))
    assert len(frames(tmp_path / "out" / "street.mp4")) == FRAMES and not (tmp_path / "out" / "street.parts").exists()


@pytest.mark.parametrize("size", [(91, 61), (90, 61), (91, 60)])
def test_frames_of_odd_sizes_lose_nothing(tmp_path: Path, tiny_model_cfg, size: tuple[int, int]):
    (tmp_path / "odd.mp4").touch()
    video = module.Video(None, "odd", size, 0.3, 3)
    cfg = replace(tiny_model_cfg, video=str(tmp_path / "odd.mp4"), stride=1000)  # slower than a video can be
    parts = module.Parts(tmp_path / "odd.parts", video, cfg)
    image = np.full((*size[::-1], 3), 40, np.uint8)
    parts.add([image] * 3, [{"frame": number} for number in range(3)])
    joined, _ = parts.join(tmp_path)
    written = frames(joined)
    assert len(written) == 3 and written[0].shape == (*module.even(size)[::-1], 3)
    assert np.abs(written[0].astype(int) - 40).max() < 12


def test_a_video_smaller_than_what_can_be_written_is_refused(tmp_path: Path):
    path = tmp_path / "tiny.mp4"
    with write_video(path, module.CODEC, 5, (16, 8)) as write:
        write(np.zeros((8, 16, 3), np.uint8))
    with pytest.raises(UserError, match="16 × 8 pixels; expected 16 or more"), open_video(str(path), 1.0):
        pass


def test_batches_of_large_frames_are_small(run, street: Path, monkeypatch: pytest.MonkeyPatch):
    describe, seen = Predictor.describe_images, []

    def counted(self: Predictor, images: list, *rest: object) -> list:
        seen.append(len(images))
        return describe(self, images, *rest)

    monkeypatch.setattr(Predictor, "describe_images", counted)
    monkeypatch.setattr(pipeline, "MOST_BYTES", 3 * 3 * SIZE[0] * SIZE[1])
    run("--video", street, "--max-frames", "8")
    assert seen == [3, 3, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "No such file"),
        ("notes.mp4", "no video that can be read"),
        ("empty.mp4", "no video that can be read"),
        ("head.mp4", "no video that can be read"),
        ("list.m3u8", "no video that can be read"),
        ("http://127.0.0.1:9/a.mp4", "No such file"),
        (".", "no regular file"),
    ],
)
def test_what_is_no_video_is_one_sentence(run, street: Path, tmp_path: Path, capfd, name: str, message: str):
    (tmp_path / "notes.mp4").write_text("no video", encoding="utf-8")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "head.mp4").write_bytes(street.read_bytes()[:200])
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{street}\n#EXT-X-ENDLIST\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        run("--video", name if name.startswith("http") else tmp_path / name)
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["street.mp4", "street.jsonl"])
def test_results_never_replace_the_video(run, street: Path, tmp_path: Path, name: str, capfd):
    (tmp_path / "out").mkdir()
    video = street.rename(tmp_path / "out" / name)
    before = video.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        run("--video", video)
    assert "would be replaced" in capfd.readouterr().err
    assert video.read_bytes() == before and names(tmp_path / "out") == [name]


@pytest.mark.parametrize("name", ["about.json", "000000.jsonl"])
@pytest.mark.parametrize("kind", ["bytes", "pipe"])
def test_parts_that_no_run_wrote_are_refused(run, street: Path, tmp_path: Path, capfd, name: str, kind: str):
    path = tmp_path / "out" / "street.parts" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff") if kind == "bytes" else os.mkfifo(path)
    with pytest.raises(SystemExit, match="2"):
        run("--video", street)
    error = capfd.readouterr().err
    assert f"{name} cannot be read; delete the folder" in error and error.count("\n") == 1


@pytest.mark.parametrize("damage", ["short", "lost"])
def test_parts_that_are_damaged_are_named(run, street: Path, tmp_path: Path, monkeypatch, capfd, damage: str):
    flags, folder = ["--video", street, "--eval-batch-size", "8"], tmp_path / "out" / "street.parts"
    with monkeypatch.context() as patch:
        patch.setattr(module.Parts, "join", lambda *_: [])  # as if the run had been killed before its last step
        run(*flags)
    if damage == "lost":
        (folder / "000001.jsonl").unlink()
    else:
        with write_video(folder / "000001.avi", module.PART_CODEC, FPS, SIZE) as write:
            write(np.zeros((*SIZE[::-1], 3), np.uint8))
    with pytest.raises(SystemExit, match="2"):
        run(*flags)
    assert ("lacks some of its parts" if damage == "lost" else "000001.avi is damaged") in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_refused(run, street: Path, tmp_path: Path, capfd):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(odd + ".mp4").write_bytes(street.read_bytes())
    for flags in (["--video", odd + ".mp4"], ["--video", street, "--output-dir", odd]):
        with pytest.raises(SystemExit, match="2"):
            run(*flags)
        assert "its name is not in UTF-8" in capfd.readouterr().err


def test_limits(street: Path, tiny_model_cfg):
    with pytest.raises(UserError, match="--max-megapixels"), open_video(str(street), 0.001):
        pass
    with pytest.raises(UserError, match="got none"):
        module.run(replace(tiny_model_cfg, video=""))


def test_a_camera_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="there is no camera 987"), open_video("987", 200):
        pass
