"""Numbers of a run: a CSV file, TensorBoard events, a tracker if there is one, and an image of the curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.runtime.console import tell
from pix2seq.runtime.files import replacing, write_whole
from pix2seq.runtime.run_folder import METRICS
from pix2seq.runtime.tensorboard import add_picture, open_events
from pix2seq.schema import read_bytes

if TYPE_CHECKING:
    from pix2seq.evaluate.report import Shown
    from pix2seq.train.trackers import Tracker


class Metrics:
    """Rows of named numbers by step, appended to `metrics.csv`, to TensorBoard's events in a run folder, and to a
    `tracker`.

    After a resume at `first_step` its rows up to there are kept, at most `rows` if that many are known; damaged ones
    are left out, which a line says. Those behind, which come again, the tracker has already.
    """

    def __init__(
        self,
        folder: Path,
        columns: list[str],
        first_step: int,
        rows: int | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.path = folder / METRICS
        self.columns = ["step", *columns]
        found = self._sound_rows() if first_step else []
        kept = [row for row in found if int(row[0]) <= first_step][:rows]
        self.tracker = tracker
        behind = found[len(kept) :] if tracker and tracker.goes_on else []
        self.tracked = {(int(row[0]), _filled(dict(zip(columns, row[1:], strict=True)))) for row in behind}
        self.begin(first_step, kept)

    def begin(self, step: int, kept: list[list[str]]) -> None:
        """Write the file anew with rows that are kept, and go on after `step`."""
        self.events = open_events(self.path.parent / "tensorboard", purge_step=step + 1)
        self.rows = len(kept)
        write_whole(self.path, "".join(f"{','.join(row)}\n" for row in [self.columns, *kept]))

    def _sound_rows(self) -> list[list[str]]:
        """The file's rows, with the columns of now."""
        try:
            text = read_bytes(self.path).decode(errors="replace").replace("\0", "")
        except FileNotFoundError:
            return []
        except OSError as error:
            tell(f"{self.path} cannot be read ({error.strerror}): rows of before are left out")
            return []
        header, *lines = [line.split(",") for line in text.splitlines()] or [[]]  # numbers, never in quotes
        sound = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header) and _is_row(line)]
        sound = [row for row in sound if "step" in row]
        if len(sound) < len(lines):
            tell(f"{self.path}: {len(lines) - len(sound)} of {len(lines)} rows were damaged and are left out")
        return [[row.get(name, "") for name in self.columns] for row in sound]

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Append one row; columns without a number stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(
                {"step": step} | {name: f"{value:.6g}" for name, value in numbers.items()}
            )
        self.rows += 1
        for name, value in numbers.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()
        if self.tracker and (step, _filled(numbers)) not in self.tracked:
            self.tracker.add(step, numbers)

    def add_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Show images (H, W, 3) uint8 by name."""
        for name, picture in pictures.items():
            add_picture(self.events, name, picture, step)
        self.events.flush()
        if self.tracker and step not in {step for step, _ in self.tracked}:
            self.tracker.add_pictures(step, pictures)

    def add_evaluation(self, shown: Shown) -> None:
        """Show an evaluation, which has written its own events, in the tracker."""
        if self.tracker:
            self.tracker.add(shown.step, shown.numbers)
            self.tracker.add_pictures(shown.step, shown.pictures)


def _filled(cells: Mapping[str, object]) -> frozenset[str]:
    """The names of the cells of a row that are not empty."""
    return frozenset(name for name, cell in cells.items() if cell != "")


def _is_row(cells: list[str]) -> bool:
    """Whether a row has a step number, and numbers or nothing behind it."""
    try:
        return int(cells[0]) >= 0 and all(float(cell) is not None for cell in cells[1:] if cell)
    except ValueError:
        return False


def draw_curves(csv_path: Path, png_path: Path) -> None:
    """Draw every loss column of `metrics.csv` over steps: training as lines, validation as dotted lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(csv.DictReader(csv_path.open(encoding="utf-8")))
    names = [name for name in (rows[0] if rows else {}) if name.startswith(("loss/", "val/"))]
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for name in names:
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points:
            kind, task = name.split("/")
            color = f"C{[other.split('/')[1] for other in names].index(task)}"
            style = {"ls": "-"} if kind == "loss" else {"ls": ":", "marker": "o", "ms": 4}
            axes.plot(
                *zip(*points, strict=True),
                color=color,
                label=f"{task} ({'train' if kind == 'loss' else kind})",
                **style,
            )
    axes.set(xlabel="step", ylabel="token loss", yscale="log", title=f"Losses of {csv_path.parent.name}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(ncols=2, fontsize="small")
    with replacing(png_path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    plt.close(figure)
