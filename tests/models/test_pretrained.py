"""ImageNet weights from a package."""

import pytest
import torch

import config
from models.encoders import Backbone
from models.pretrained import packaged_weights

NAME = "tf_efficientnet_lite0"


def test_other_backbones_have_no_package():
    assert packaged_weights("resnet18") is None


def test_the_packages_weights_are_the_backbones(tiny_model_cfg: config.CFG):
    tensors = packaged_weights(NAME)
    if tensors is None:
        pytest.skip(f"the package with the weights of {NAME} is not installed")
    cfg = config.replace(tiny_model_cfg, backbone=NAME, backbone_kwargs="{}").model
    loaded = {
        name.removeprefix("model."): tensor for name, tensor in Backbone(cfg, pretrained=True).net.state_dict().items()
    }
    assert "blocks.4.2.conv_pwl.weight" in loaded
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, tensors[name], msg=name)
