"""The choice of a device, and one error for a device that is not available."""

import pytest
import torch

from pix2seq.errors import UserError
from pix2seq.runtime.device import check_precision, few_sizes, image_format, in_few_sizes, pick_device
from pix2seq.runtime.distributed import start


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int = 0, mps: bool = False) -> None:
    """Let torch report these devices as available."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    "gpus, mps, name, device",
    [
        (2, True, "auto", "cuda:0"),
        (0, True, "auto", "mps"),
        (0, False, "auto", "cpu"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "mps", "mps"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_cuda_comes_before_mps_and_mps_before_the_cpu(monkeypatch, gpus: int, mps: bool, name: str, device: str):
    machine(monkeypatch, gpus, mps)
    assert pick_device(name) == torch.device(device)


def test_fp16_weights_are_for_processors_with_their_products(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"^--precision fp16 cannot be used on cuda"):
        check_precision("fp16", torch.device("cuda"))
    monkeypatch.delattr(torch, "fbgemm_linear_fp16_weight_fp32_activation", raising=False)
    with pytest.raises(UserError, match=r"^--precision fp16 cannot be used on cpu"):
        check_precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "cuda:-1", "mps", "xpu", "meta", "banana", "", "CPU", "7"])
def test_a_device_that_is_not_available_is_refused(monkeypatch, name: str):
    machine(monkeypatch)
    with pytest.raises(UserError) as error:
        pick_device(name)
    assert str(error.value).startswith(f"--device {name} is not there; expected one of auto, cpu")
    assert "\n" not in str(error.value)


def test_available_devices_are_named(monkeypatch):
    machine(monkeypatch, gpus=2, mps=True)
    with pytest.raises(UserError, match="expected one of auto, cuda:0, cuda:1, mps, cpu"):
        pick_device("cuda:2")


def test_for_a_bare_number_the_error_shows_how_to_name_a_gpu(monkeypatch):
    machine(monkeypatch, gpus=1)
    with pytest.raises(UserError, match=r"--device 0 is not there; .* as in cuda:0$"):
        pick_device("0")


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_torch_has_mixed_precision_on_every_device(kind: str):
    assert torch.amp.is_autocast_available(kind)


def test_a_device_without_bf16_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise TypeError("MPS BFloat16 is only supported on MacOS 14 or newer.\nUpdate")

    cpu = torch.device("cpu")
    check_precision("bf16", cpu)
    monkeypatch.setattr(torch, "zeros", refuse)
    check_precision("fp32", cpu)
    with pytest.raises(UserError, match=r"^--precision bf16 .* MacOS 14 or newer\); use --precision fp32$"):
        check_precision("bf16", cpu)


def test_channels_are_last_except_on_mps():
    formats = [image_format(torch.device(kind)) for kind in ("cpu", "cuda", "mps")]
    assert formats == [torch.channels_last, torch.channels_last, torch.contiguous_format]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    machine(monkeypatch, gpus=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match="use --nproc-per-node 2"):
        start(torch.device("cuda"))


def test_several_processes_on_mps_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="add --device cpu"):
        start(torch.device("mps"))


def test_batches_of_a_gpu_have_few_sizes():
    sizes = [few_sizes(count) for count in range(1, 257)]
    assert sorted(set(sizes))[:12] == [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32]
    assert len(set(sizes)) == 24
    assert all(count <= size < count * 1.4 for count, size in enumerate(sizes, start=1))


def test_a_processor_has_batches_of_any_size():
    images = torch.rand(5, 3, 2, 2)
    assert in_few_sizes(images) is images
