"""What benchmarks share: the machine, its bandwidth, medians with quartiles, and the file that holds all figures."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.runtime.files import write_whole

if TYPE_CHECKING:
    import torch

SECONDS = 2.0  # of each figure, at least FEWEST calls
FEWEST = 5


def machine(device: torch.device) -> dict[str, Any]:
    """What measures."""
    import numpy
    import torch

    processor = platform.processor() or platform.machine()
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    known = {name for name, has in getattr(torch.cpu, "get_capabilities", dict)().items() if has is True}
    instructions = sorted(name for name in known if name.startswith(("avx512_bf16", "amx", "avx2", "avx512_f")))
    return {
        "processor": processor,
        "instructions": ", ".join(instructions) or torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def bandwidth(device: torch.device) -> float:
    """GB/s at which a sum reads memory."""
    import torch

    numbers = torch.ones(64_000_000, device=device)
    return 4 * len(numbers) / min(seconds(numbers.sum, device)) / 1e9


def matmul_rate(device: torch.device) -> float:
    """Floating-point operations a second of a product of large matrices in fp32."""
    import torch

    side = 2048
    matrix = torch.rand(side, side, device=device)
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


def seconds(work: Callable[[], object], device: torch.device) -> list[float]:
    """What each of several calls of `work` takes, after one to warm up."""
    import torch

    times: list[float] = []
    while len(times) <= FEWEST or sum(times) < SECONDS:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return times[1:]


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
