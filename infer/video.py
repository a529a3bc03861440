"""Predict on the frames of a video or a camera, and write a video with drawings and results in a line for each frame.

Frames are computed a batch at a time. What a batch gives is kept in a folder of parts beside the output, so that an
interrupted run can go on; video and results take their names when all of it is there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import CFG, to_json
from pix2seq.errors import UserError, plain
from pix2seq.infer.output import would_be_replaced
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import replacing, require_regular, write_whole, writing
from pix2seq.runtime.text import read_text

if TYPE_CHECKING:
    import cv2

    from pix2seq.infer.predictor import Predictor

USUAL_FPS = 25.0  # of cameras that do not tell theirs
LEAST_FPS, MOST_FPS = 0.01, 1000.0  # that can be written
LEAST_SIDE = 16  # pixels of a frame: of frames of 4 the encoders write beyond their memory
# What FFmpeg may open: files alone, and of kinds that name no other files.
OPTIONS = (
    "protocol_whitelist;file|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,flv,ogg,"
    "asf,gif,h264,hevc,mjpeg"
)
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = OPTIONS
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when it is first used: what is wrong is said here
PART_CODEC, CODEC = "MJPG", "mp4v"  # both are in every build of OpenCV


@dataclass(frozen=True)
class Video:
    """An opened video: its `name` for files, size in pixels, frames per second, and `frames` (None: no one knows)."""

    capture: cv2.VideoCapture
    name: str
    size: tuple[int, int]
    fps: float
    frames: int | None

    @property
    def is_camera(self) -> bool:
        """Whether it has no end, and no frame comes twice."""
        return self.frames is None

    def read(self, stride: int, done: int = 0) -> Iterator[np.ndarray]:
        """Every `stride`-th frame (H, W, 3) uint8 RGB, but the first `done` of them."""
        number = 0
        while self.capture.grab():
            if number % stride == 0 and number // stride >= done:
                _, frame = self.capture.retrieve()
                if frame is None or frame.shape[1::-1] != self.size:
                    return
                yield np.ascontiguousarray(frame[:, :, ::-1])
            number += 1


@contextlib.contextmanager
def open_video(name: str, max_megapixels: float) -> Iterator[Video]:
    """A video file, or the camera of a number; raise UserError if it is none or cannot be opened."""
    import cv2

    set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # OpenCV 4, 5
    set_log_level(0)
    is_camera = name.isdecimal() and len(name) < 4
    if not is_camera:
        try:
            require_regular(Path(_as_text(name)))
        except OSError as error:
            reason = plain(error.strerror or str(error))
            raise UserError(
                f"--video expects a video file or a camera's number, got {plain(name)} ({reason})"
            ) from None
    capture = cv2.VideoCapture(int(name)) if is_camera else cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    try:
        width, height, fps, frames = (
            capture.get(which)
            for which in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FPS,
                cv2.CAP_PROP_FRAME_COUNT,
            )
        )
        if not capture.isOpened() or min(width, height) < 1:
            kind = "there is no camera" if is_camera else "no video that can be read is in"
            raise UserError(f"{kind} {plain(name)}; expected a camera's number or a file such as an mp4, avi or mkv")
        if min(width, height) < LEAST_SIDE:
            raise UserError(
                f"{plain(name)} has frames of {width:.0f} × {height:.0f} pixels; expected {LEAST_SIDE} or more a side"
            )
        if width * height > max_megapixels * 1e6:
            raise UserError(f"{plain(name)} has frames of {width:.0f} × {height:.0f} pixels; raise --max-megapixels")
        fps = fps if 0 < fps <= MOST_FPS else USUAL_FPS
        stem = f"camera_{name}" if is_camera else Path(name).stem
        yield Video(capture, stem, (int(width), int(height)), fps, None if is_camera else max(int(frames), 0))
    finally:
        capture.release()


def run(cfg: CFG) -> None:
    """Do `cfg.tasks` on the frames of `--video`."""
    if not cfg.infer.video:
        raise UserError("--video expects a video file, or the number of a camera, got none")
    target = Path(cfg.infer.output_dir)
    with open_video(cfg.infer.video, cfg.infer.max_megapixels) as video:
        if not video.is_camera and any(_is_same(path, cfg.infer.video) for path in outputs(target, video)):
            raise would_be_replaced(cfg.infer.video)
        from pix2seq.infer.load import load_predictor

        predictor = load_predictor(cfg)
        predictor.require(cfg.tasks)
        with writing(target):
            target.mkdir(parents=True, exist_ok=True)
            parts = Parts(target / f"{video.name}.parts", video, cfg)
            describe_frames(video, parts, predictor, cfg)
            files = parts.join(target)
    print(f"wrote {', '.join(plain(str(path)) for path in files)}")


def outputs(target: Path, video: Video) -> tuple[Path, Path]:
    """The files of results in a folder: a video, and the lines of its frames."""
    return target / f"{video.name}.mp4", target / f"{video.name}.jsonl"


def describe_frames(video: Video, parts: Parts, predictor: Predictor, cfg: CFG) -> None:
    """Predict on the frames that no part holds yet, and write a part for each batch."""
    from tqdm import tqdm

    from pix2seq.infer.pipeline import MOST_BYTES

    size = max(min(cfg.infer.eval_batch_size, MOST_BYTES // (3 * math.prod(video.size))), 1)  # of a batch
    stride, most, done = cfg.infer.stride, cfg.infer.max_frames, parts.done
    expected = None if video.frames is None else -(-video.frames // stride)
    if most:
        expected = most if expected is None else min(expected, most)
    if done:
        tell(f"{done} frames are done; the run goes on behind them")
    frames = islice(video.read(stride, done), max(most - done, 0) if most else None)
    try:
        with tqdm(total=expected, initial=done, unit="frame", disable=None) as bar:
            while batch := list(islice(frames, size)):
                results = predictor.describe_images(batch, cfg.tasks)
                drawn = [predictor.draw(*pair) for pair in zip(batch, results, strict=True)]
                entries = [
                    {
                        "frame": (number := (done + index) * stride),
                        "seconds": round(number / video.fps, 4),
                        "results": predictor.to_coco(number, result),
                    }
                    for index, result in enumerate(results)
                ]
                parts.add(drawn, entries)
                done += len(batch)
                bar.update(len(batch))
    except KeyboardInterrupt:
        if not video.is_camera:
            tell("interrupted; the same command goes on from here")
            raise
    if not done:
        raise UserError(f"{plain(cfg.infer.video)} has no frame that can be read; it is damaged, or no video")
    if expected and done < expected and not video.is_camera:
        tell(f"{plain(cfg.infer.video)} announces {expected} frames of this stride, of which {done} could be read")


class Parts:
    """A folder with what is done of a video: for each batch a video, and the lines of its frames, which come last.

    Those of another video, or of other settings, are refused with a UserError; a camera's are begun anew.
    """

    def __init__(self, folder: Path, video: Video, cfg: CFG) -> None:
        self.folder, self.video, self.fps = folder, video, max(video.fps / cfg.infer.stride, LEAST_FPS)
        about = Path("about.json")
        stated = {"video": _identity(cfg.infer.video, video), "settings": to_json(cfg)}
        text = json.dumps(stated)
        if folder.is_dir() and video.is_camera:
            shutil.rmtree(folder)
        if folder.is_dir() and (folder / about).exists() and _read(folder / about) != text:
            raise UserError(f"{folder} holds parts of a run with other settings; finish that, or delete the folder")
        folder.mkdir(exist_ok=True)
        write_whole(folder / about, text)
        self.lines = sorted(folder.glob("*.jsonl"))
        if self.lines != [folder / f"{number:06d}.jsonl" for number in range(len(self.lines))]:
            raise UserError(f"{folder} lacks some of its parts; delete the folder, and the run begins anew")
        self.done = sum(_read(path).count("\n") for path in self.lines)

    def add(self, frames: Sequence[np.ndarray], entries: Sequence[dict]) -> None:
        """A batch: drawn `frames` (H, W, 3) and what is known about each."""
        path = self.folder / f"{len(self.lines):06d}.jsonl"
        with write_video(path.with_suffix(".avi"), PART_CODEC, self.fps, self.video.size) as write:
            for frame in frames:
                write(frame)
        write_whole(path, "".join(json.dumps(entry) + "\n" for entry in entries))
        self.lines.append(path)

    def join(self, target: Path) -> list[Path]:
        """Make one video and one file of lines of all parts, in `target`, and remove the parts."""
        video, lines = outputs(target, self.video)
        with write_video(self.folder / video.name, CODEC, self.fps, self.video.size) as write:
            for path in self.lines:
                self._copy(path, write)
        with replacing(lines) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            for path in self.lines:
                file.write(_read(path))
        os.replace(self.folder / video.name, video)
        shutil.rmtree(self.folder)
        return [video, lines]

    def _copy(self, lines: Path, write: Callable[[np.ndarray], None]) -> None:
        """Write the frames of a part; raise UserError if there are not as many as lines about them."""
        part, count = lines.with_suffix(".avi"), 0
        for frame in _frames(part):
            if frame.shape[1::-1] == even(self.video.size):
                write(frame)
                count += 1
        if count != _read(lines).count("\n"):
            raise UserError(f"{part} is damaged; delete the folder {self.folder}, and the run begins anew")


def even(size: tuple[int, int]) -> tuple[int, int]:
    """The size of a written video: encoders cut the last row and column of other frames, which are repeated instead."""
    width, height = size
    return width + width % 2, height + height % 2


@contextlib.contextmanager
def write_video(path: Path, codec: str, fps: float, size: tuple[int, int]) -> Iterator:
    """A function that appends a frame (H, W, 3) RGB to a video file; OSError if the file cannot be written."""
    import cv2

    size = even(size)
    writer = cv2.VideoWriter(_as_text(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
    if not writer.isOpened():
        raise OSError(None, f"no {codec} video of {size[0]} × {size[1]} pixels can be written", str(path))
    written = 0

    def write(frame: np.ndarray) -> None:
        nonlocal written
        missing = [(0, size[1] - frame.shape[0]), (0, size[0] - frame.shape[1]), (0, 0)]
        writer.write(np.ascontiguousarray(np.pad(frame, missing, "edge")[:, :, ::-1]))
        written += 1

    try:
        yield write
    finally:
        writer.release()
    if _count(path) != written:  # OpenCV does not tell of a full disk
        raise OSError(None, "the disk may be full", str(path))


def _count(path: Path) -> int:
    """Frames of a video file."""
    return sum(1 for _ in _frames(path))


def _frames(path: Path) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        while (read := capture.read())[0]:
            yield read[1][:, :, ::-1]
    finally:
        capture.release()


def _as_text(name: str | Path) -> str:
    """A name for OpenCV, where one that is no text ends the process; raise OSError for that."""
    if not str(name).isascii() and str(name) != os.fsencode(name).decode(errors="replace"):
        raise OSError(None, "its name is not in UTF-8", str(name))
    return str(name)


def _is_same(path: Path, name: str) -> bool:
    return path.exists() and path.samefile(name)


def _identity(name: str, video: Video) -> list:
    """What tells whether a file is the one that a run began with."""
    if video.is_camera:
        return [name]
    state = Path(name).stat()
    return [str(Path(name).resolve()), state.st_size, state.st_mtime_ns]


def _read(path: Path) -> str:
    """A text among the parts; raise UserError for what no run has written."""
    try:
        return read_text(path)
    except (OSError, UserError):
        raise UserError(f"{path} cannot be read; delete the folder {path.parent}, and the run begins anew") from None
