"""What benchmarks share: the machine, its bandwidth, medians with quartiles, and the file that holds all figures."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.errors import UserError
from pix2seq.runtime.files import write_whole

if TYPE_CHECKING:
    import torch

# By kind of device; nobody else computes on a GPU, so that fewer calls are enough.
SECONDS = {"cpu": 2.0, "gpu": 0.3}  # of each figure, at least FEWEST calls
FEWEST = {"cpu": 5, "gpu": 3}
READ = {"cpu": 64_000_000, "gpu": 500_000_000}  # numbers that a sum reads: many times what caches hold
SIDE = {"cpu": 2048, "gpu": 8192}  # of matrices, so that all units have work


def machine(device: torch.device) -> dict[str, Any]:
    """What measures."""
    import numpy
    import torch

    processor, instructions = _graphics(device) if device.type == "cuda" else _processor()
    return {
        "processor": processor,
        "instructions": instructions,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _graphics(device: torch.device) -> tuple[str, str]:
    """Name of a GPU, and what its code is compiled for and by."""
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"sm_{major}{minor}, CUDA {torch.version.cuda}"


def _processor() -> tuple[str, str]:
    """Name of the processor, and the instructions of it that matter."""
    import torch

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    known = {name for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if has is True}
    instructions = sorted(name for name in known if name.startswith(("avx512_bf16", "amx", "avx2", "avx512_f")))
    return name, ", ".join(instructions) or torch.backends.cpu.get_cpu_capability()


def describe(report: dict[str, Any]) -> str:
    """The machine of a report, in words."""
    return f"{report['processor']}, {report['instructions']}, {report['threads']} threads, torch {report['torch']}"


def names(text: str) -> list[str]:
    """Names that are separated by commas."""
    return text.split(",")


def require(chosen: Iterable[str], known: Iterable[str], flag: str) -> None:
    """Raise UserError if one of the names `chosen` by a flag is not known."""
    for name in chosen:
        if name not in known:
            raise UserError(f"{flag} {name} is not there; expected some of {', '.join(known)}")


def kind(device: torch.device) -> str:
    """The key of a device in the tables above."""
    return "cpu" if device.type == "cpu" else "gpu"


def bandwidth(device: torch.device) -> float:
    """GB/s at which a sum reads memory."""
    import torch

    numbers = torch.ones(READ[kind(device)], device=device)
    return 4 * len(numbers) / min(seconds(numbers.sum, device)) / 1e9


def matmul_rate(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Floating-point operations a second of a product of large matrices of a `dtype`, by default in fp32."""
    import torch

    side = SIDE[kind(device)]
    matrix = torch.rand(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(seconds(lambda: matrix @ matrix, device))


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of products, convolutions and attention in a call of `work`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def computed_by(device: torch.device, precisions: Iterable[str]) -> list[str]:
    """Those of `precisions` that the device has."""
    from pix2seq.runtime.device import computes_fp16

    return [way for way in precisions if way != "fp16" or computes_fp16(device)]


def seconds(work: Callable[[], object], device: torch.device, warm_up: int = 1) -> list[float]:
    """What each of several calls of `work` takes until the device has done it, after some to warm up.

    A GPU is waited for after each call, so that its launches of kernels count, too: it is the time of a caller who
    needs the result.
    """
    times: list[float] = []
    where = kind(device)
    while len(times) < warm_up + FEWEST[where] or sum(times[warm_up:]) < SECONDS[where]:
        started = time.perf_counter()
        work()
        finish(device)
        times.append(time.perf_counter() - started)
    return times[warm_up:]


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles of some seconds, in ms."""
    ordered = sorted(1e3 * spent for spent in times)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.25, 0.75))
    return {"ms": statistics.median(ordered), "low": low, "high": high}


def record(folder: Path, name: str, report: dict[str, Any], key: Sequence[str] = ()) -> None:
    """Put the figures of one benchmark into bench.json, beside those of others.

    Rows of earlier runs stay, but for those that agree with a new one in all of `key`: a long benchmark can be run in
    parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = figures(folder)
    new = {tuple(row[part] for part in key) for row in report["rows"]}
    kept = [row for row in known.get(name, {}).get("rows", ()) if tuple(row[part] for part in key) not in new]
    whole = report | {"rows": kept + report["rows"]}
    write_whole(folder / "bench.json", json.dumps(known | {name: whole}, indent=1))


def figures(folder: Path) -> dict[str, Any]:
    """What bench.json in `folder` holds, by benchmark."""
    path = folder / "bench.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
