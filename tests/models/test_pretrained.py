"""ImageNet weights from a package."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torchvision.models import ResNet18_Weights

from pix2seq import config
from pix2seq.dataset.coco import CocoDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.models.encoders import Backbone
from pix2seq.models.pretrained import packaged_weights
from pix2seq.tasks import choose_tasks

NAME = "tf_efficientnet_lite0"
SIZE_PX = 224
SHARP_PX = 96  # shorter side of an object that can be classified
EACH = 4  # objects of a class
# COCO's classes that ImageNet has too, in ImageNet's words.
COUNTERPARTS = {
    "zebra": {"zebra"},
    "elephant": {"African elephant", "Indian elephant", "tusker"},
    "bear": {"brown bear", "American black bear", "ice bear", "sloth bear"},
    "laptop": {"laptop", "notebook"},
    "tennis racket": {"racket"},
    "umbrella": {"umbrella"},
    "pizza": {"pizza"},
    "banana": {"banana"},
    "orange": {"orange"},
    "teddy bear": {"teddy"},
    "motorcycle": {"moped", "motor scooter"},
    "airplane": {"airliner", "wing"},
}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    tensors = packaged_weights(NAME)
    if tensors is None:
        pytest.skip(f"the package with the weights of {NAME} is not installed")
    return tensors


def test_other_backbones_have_no_package():
    assert packaged_weights("resnet18") is None


def test_the_packages_weights_are_the_backbones(tiny_model_cfg: config.CFG, tensors: dict[str, torch.Tensor]):
    cfg = config.replace(tiny_model_cfg, backbone=NAME, backbone_kwargs="{}").model
    loaded = {
        name.removeprefix("model."): tensor for name, tensor in Backbone(cfg, pretrained=True).net.state_dict().items()
    }
    assert "blocks.4.2.conv_pwl.weight" in loaded
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, tensors[name], msg=name)


def test_the_packages_weights_classify_objects_in_photographs(coco_people: Path, tensors: dict[str, torch.Tensor]):
    """For at least 60 % of large objects the class is among the first five of a thousand; by chance for 2 %."""
    model = timm.create_model(NAME).eval()
    model.load_state_dict(tensors)
    known = timm.get_pretrained_cfg(NAME)
    crops, classes = large_objects(CocoDataset(coco_people, "train2017", choose_tasks(["detection"])))
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(known.mean).view(3, 1, 1)) / torch.tensor(known.std).view(3, 1, 1)
    with torch.inference_mode():
        first_five = model(images).topk(5).indices.tolist()
    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    correct = [
        any(names[index] in COUNTERPARTS[name] for index in five)
        for five, name in zip(first_five, classes, strict=True)
    ]
    assert len(correct) == EACH * len(COUNTERPARTS)
    assert np.mean(correct) >= 0.6


def large_objects(photographs: CocoDataset) -> tuple[np.ndarray, list[str]]:
    """Crops (n, H, W, 3) of the first large objects of each class, and the names of their classes."""
    crops: list[np.ndarray] = []
    classes: list[str] = []
    for index in range(len(photographs)):
        target = photographs.target(index)
        for box, class_id in zip(target.boxes, target.classes, strict=True):
            name = photographs.class_names[class_id]
            if name in COUNTERPARTS and min(box[2:] - box[:2]) >= SHARP_PX and classes.count(name) < EACH:
                crops.append(Geometry.crop(box, 0.05, SIZE_PX).warp(photographs[index].image, 0.5))
                classes.append(name)
    return np.stack(crops), classes
