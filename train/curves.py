"""Numbers of a run: a CSV file, TensorBoard events, and an image of the curves."""

from __future__ import annotations

import csv
from pathlib import Path

from pix2seq.runtime.tensorboard import open_events


class Metrics:
    """Rows of named numbers by step, appended to `metrics.csv` and to TensorBoard's events in a run folder."""

    def __init__(self, folder: Path, columns: list[str], first_step: int) -> None:
        self.path = folder / "metrics.csv"
        self.columns = ["step", *columns]
        self.events = open_events(folder / "tensorboard", purge_step=first_step + 1)
        kept = self.path.read_text(encoding="utf-8").splitlines()[1:] if first_step and self.path.exists() else []
        kept = [row for row in kept if int(row.split(",")[0]) <= first_step]  # later ones come again after a resume
        self.path.write_text("\n".join([",".join(self.columns), *kept]) + "\n", encoding="utf-8")

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Append one row; columns without a number stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(
                {"step": step} | {name: f"{value:.6g}" for name, value in numbers.items()}
            )
        for name, value in numbers.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()


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
    figure.savefig(png_path, dpi=110)
    plt.close(figure)
