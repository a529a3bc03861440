"""The device that a script runs on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pix2seq.errors import UserError
from pix2seq.runtime.console import tell


def available_devices() -> list[str]:
    """The devices of this machine by the names that `--device` accepts, the fastest first."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(f"cuda:{number}" for number in range(count)), *mps, "cpu"]


def pick_device(name: str) -> torch.device:
    """The device that `--device` names: `auto` is CUDA if available, else MPS, else the CPU; `cuda` is `cuda:0`.

    On a GPU convolutions in fp32 are from here on what they are called: torch rounds their inputs to 10 bits (TF32)
    unless it is told not to, and tokens would be other ones than a processor's.
    Raises UserError for a device that this machine does not have.
    """
    here = available_devices()
    device = {"auto": here[0], "cuda": "cuda:0"}.get(name, name)
    if device not in here:
        example = f"; a GPU is named with its kind, as in cuda:{name}" if name.isdecimal() else ""
        raise UserError(f"--device {name} is not there; expected one of {', '.join(['auto', *here])}{example}")
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(device)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UserError if `device` cannot multiply matrices in the arithmetic of `--precision`."""
    if precision == "fp16" and not computes_fp16(device):
        raise UserError(
            f"--precision fp16 cannot be used on {device}, but on processors that torch has FBGEMM for; "
            "use --precision bf16 or fp32"
        )
    if precision != "bf16":
        return
    try:
        with torch.autocast(device.type, torch.bfloat16):
            torch.zeros(1, 1, device=device).mm(torch.zeros(1, 1, device=device)).item()
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--precision bf16 cannot be used on {device} ({reason}); use --precision fp32") from None


def image_format(device: torch.device) -> torch.memory_format:
    """The memory format in which convolutions are fastest on `device`.

    On MPS it is the contiguous format, which is better tested there: PyTorch issue 180984 and earlier ones report wrong
    results with channels last.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 saves time on `device`: emulated by a processor it takes five times as long as fp32, and GPUs
    before NVIDIA's Ampere emulate it, too."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def computes_fp16(device: torch.device) -> bool:
    """Whether products with fp16 weights and fp32 results are there, as on x86 processors."""
    has_kernel = "fbgemm" in torch.backends.quantized.supported_engines
    return device.type == "cpu" and has_kernel and hasattr(torch, "fbgemm_linear_fp16_weight_fp32_activation")


def has_numba(device: torch.device) -> bool:
    """Whether numba can compile steps of one sequence: for processors, where it is installed (the extra `[fast]`)."""
    if device.type != "cpu":
        return False
    try:
        import numba  # noqa: F401
    except ImportError as error:
        if importlib.util.find_spec("numba") is not None:
            tell(f"numba, which --compile would use, cannot be imported: {error}")
        return False
    return True


def has_compiler(device: torch.device) -> bool:
    """Whether `torch.compile` can make code for `device` here; a line says so if it cannot."""
    has_triton = device.type != "cuda" or importlib.util.find_spec("triton") is not None
    if has_triton and shutil.which(os.environ.get("CXX", "g++")) is not None:
        return True
    tell(
        "--compile has no effect: it needs a C++ compiler (g++, or what CXX names), and Triton for a GPU; "
        "to decode on a processor, numba is enough (the extra [fast])"
    )
    return False


def compiles_steps(device: torch.device) -> bool:
    """Whether steps of decoding can be compiled for `device`: as CUDA graphs, by numba or by torch; a line says so if
    they cannot."""
    return device.type == "cuda" or has_numba(device) or has_compiler(device)


def in_few_sizes(images: Tensor) -> Tensor:
    """On a GPU, `images` (B, ...) as a batch of one of `few_sizes`: the first are repeated at the end.

    cuDNN plans all convolutions anew for each size of a batch (5 s for an EfficientNet-lite0 that learns, on an H200),
    and batches have other numbers of crops in every step. Compiled steps are left as they are.
    """
    if not plans_each_size(images.device):
        return images
    return images[torch.arange(few_sizes(len(images)), device=images.device) % len(images)]


def plans_each_size(device: torch.device) -> bool:
    """Whether convolutions on `device` are planned anew for each size of a batch."""
    return device.type == "cuda" and not torch.compiler.is_compiling()


def few_sizes(count: int) -> int:
    """The first of 1, 2, 3, 4, 6, 8, 12, 16, and from there 20, 24, 28, 32, 40, ..., that is at least `count`."""
    power = 1 << (count - 1).bit_length()
    part = power // 8 if power > 16 else max(power // 4, 1)
    return -(-count // part) * part


def attention_kernel(device: torch.device) -> contextlib.AbstractContextManager:
    """On the CPU plain attention, which is quicker there to train through. On a GPU any but cuDNN's, which plans each
    shape anew: sequences have other lengths in every step."""
    if device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


@contextlib.contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Mixed precision where it gains time, and the kernel of attention that does."""
    with (
        attention_kernel(device),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and computes_bf16(device)),
    ):
        yield
