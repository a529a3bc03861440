"""A program that predicts does without packages that timm imports and prediction never uses."""

import subprocess
import sys

import pytest

START = """
import sys
from pix2seq.runtime.light_imports import leave_out_unused
leave_out_unused({backbone!r})
"""


def run(code: str, backbone: str = "resnet18") -> str:
    code = START.format(backbone=backbone) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


BACKBONES = ["tf_efficientnet_lite0", "deit3_small_patch16_384", "resnet50", "swin_tiny_patch4_window7_224.ms_in1k"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_are_built_without_them(backbone: str):
    code = f"""
import timm
timm.create_model({backbone!r})
print({{'torch._dynamo', 'torchvision.models.resnet', 'matplotlib'}} & sys.modules.keys())
print(timm.is_model('vgg16'))
"""
    assert run(code, backbone) == "set()\nFalse\n"


def test_all_models_stay_where_none_is_known_by_the_name():
    code = """
import timm
print(timm.is_model("vgg16"), timm.is_model("patches"))
"""
    assert run(code, "patches") == "True False\n"


def test_what_is_left_out_says_so_when_it_is_used():
    code = """
from torchvision.transforms import Compose
try:
    Compose([])
except ImportError as error:
    print(error)
"""
    assert run(code) == "torchvision.transforms.Compose is not there in a program that only predicts\n"


def test_a_process_that_has_timm_keeps_everything():
    import timm  # noqa: F401

    from pix2seq.runtime.light_imports import leave_out_unused

    before = list(sys.meta_path)
    leave_out_unused("resnet18")
    assert sys.meta_path == before


def test_shapes_are_computed_without_the_compiler():
    code = """
from pix2seq.config import PRESETS
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.light_imports import shapes_alone
with shapes_alone():
    Pix2Seq(PRESETS["demo"].model)
import torch
old = torch.__version__.startswith("2.9.") and "sympy"  # which torch 2.9 itself imports
print("torch._dynamo" in sys.modules, bool(({"sympy"} - {old}) & sys.modules.keys()))
import torch._dynamo
print(torch._dynamo.disable.__module__)
"""
    assert run(code, "tf_efficientnet_lite0") == "False False\ntorch._dynamo.decorators\n"
