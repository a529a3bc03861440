"""Draw what bench.json holds: steps and encoding beside what the machine could do, tasks, and training.

python bench/plot.py --output results/bench

Writes bench.png.
"""

from __future__ import annotations

import argparse
import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.bench.timing import describe, figures
from pix2seq.command_line import run_script
from pix2seq.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[dict[str, Any]]
SHAPES = "os^Dv<>PX*phd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder with bench.json")
    options = parser.parse_args()
    known = figures(options.output)
    if not known:
        raise UserError(f"{options.output} has no bench.json; run bench/decoding.py --output {options.output} first")
    draw(known, options.output / "bench.png")


def draw(known: dict[str, Any], path: Path) -> None:
    """A panel for each kind of figures that there is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(draw_part, known[name]) for name, parts in PANELS.items() if name in known for draw_part in parts]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(8 * columns, 6 * rows), squeeze=False, layout="constrained")
    for (draw_part, report), place in zip(panels, axes.flat, strict=False):
        draw_part(report, place)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    first = next(iter(known.values()))
    figure.suptitle(describe(first))
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def draw_steps(report: dict[str, Any], axes: Axes) -> None:
    """Milliseconds of each step over the bytes that it reads, and the line of the bandwidth."""
    rows = [row for row in report["rows"] if row["bytes"]]
    _scatter(rows, axes, "bytes", 1e6, "way")
    _line(rows, axes, "bytes", 1e6, "{:,.1f} GB/s")
    axes.set(xlabel="MB that a step reads", ylabel="ms of a step", title="decoding")
    _legend_beside(axes)


def draw_encoding(report: dict[str, Any], axes: Axes) -> None:
    """Milliseconds of encoding images over its operations, and a line of matrix products for each of their types."""
    rows = [row for row in report["rows"] if row["operations"]]
    _scatter(rows, axes, "operations", 1e9, "model", "way")
    for way in dict.fromkeys(row["way"] for row in rows):
        some = [row for row in rows if row["way"] == way]
        _line(some, axes, "operations", 1e9, way.removeprefix("encode, ") + ", {:,.0f} GFLOP/s")
    axes.set(xlabel="GFLOP of the images", ylabel="ms of the images", title="encoding")
    _legend_beside(axes)


def draw_training(report: dict[str, Any], axes: Axes) -> None:
    """Images a second of each way of training, as a share of those as shipped."""
    rows: Rows = report["rows"]
    shipped = {_batch(row): row["images_s"] for row in rows if row["way"] == "as shipped"}
    rows = [row for row in rows if _batch(row) in shipped]
    names = [f"{_batch(row)}: {row['way']}" for row in rows]
    _bars(axes, names, [row["images_s"] / shipped[_batch(row)] for row in rows], "{:.2f}")
    axes.set(xlabel="images/s beside those as shipped", title="training")


def _batch(row: dict[str, Any]) -> str:
    return f"{row['model']}, {row['images']} images"


def draw_tasks(report: dict[str, Any], axes: Axes) -> None:
    """Milliseconds of each task end to end."""
    rows = report["rows"]
    _bars(axes, [f"{row['tasks']} ({row['precision']})" for row in rows], [row["ms"] for row in rows], "{:.0f}")
    axes.set(xlabel="ms of an image", title=f"end to end, weights {report['weights']}")


def _bars(axes: Axes, names: list[str], values: list[float], form: str) -> None:
    """A bar for each of some values, which stand at its end, from top to bottom."""
    bars = axes.barh([textwrap.fill(name, 34) for name in names], values)
    axes.bar_label(bars, fmt=form, padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()


def _legend_beside(axes: Axes) -> None:
    """Names to the right, where they cover no figure."""
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))


PANELS = {
    "decoding": (draw_steps, draw_encoding),
    "tasks": (draw_tasks,),
    "training": (draw_training,),
}


def _scatter(rows: Rows, axes: Axes, measured: str, unit: float, *series: str) -> None:
    """A colour and a shape for rows that agree in `series`; colours alone begin again after ten."""
    named: dict[str, Rows] = {}
    for row in rows:
        named.setdefault(", ".join(row[part] for part in series), []).append(row)
    for (name, some), shape in zip(named.items(), itertools.cycle(SHAPES)):
        axes.scatter(
            [row[measured] / unit for row in some], [row["ms"] for row in some], label=name, s=30, marker=shape
        )


def _line(rows: Rows, axes: Axes, measured: str, unit: float, label: str) -> None:
    """The least time for what is `measured`, at the highest rate of the runs."""
    rate = max(row[measured] / row["limit_ms"] for row in rows)  # a millisecond
    label = label.format(rate / 1e6)
    ends = [min(row[measured] for row in rows), max(row[measured] for row in rows)]
    axes.plot([end / unit for end in ends], [end / rate for end in ends], label=f"limit: {label}")
    axes.set(xscale="log", yscale="log")


if __name__ == "__main__":
    run_script(main)
