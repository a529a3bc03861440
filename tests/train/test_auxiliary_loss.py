"""The auxiliary head: the targets of each memory cell."""

import torch

from pix2seq.dataset.batches import ObjectBatch
from pix2seq.models.auxiliary_head import AuxiliaryHead, fourier
from pix2seq.train.auxiliary_loss import auxiliary_loss, class_loss, covering_object


def objects(boxes: list[list[float]], classes: list[int], visible: float = 0.0) -> ObjectBatch:
    """One canvas with boxes y1 x1 y2 x2; all keypoints in its middle."""
    count = len(boxes)
    return ObjectBatch(
        torch.tensor([boxes]).reshape(1, count, 4),
        torch.tensor([classes]),
        torch.full((1, count, 17, 2), 0.5),
        torch.full((1, count, 17), visible),
        torch.zeros((1, 1), dtype=torch.long),
    )


def test_a_cell_belongs_to_the_smallest_box_around_its_center():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]]])
    index, covered = covering_object(boxes, torch.tensor([[True, True]]), side=2)
    assert index.tolist() == [[1, 0, 0, 0]]
    assert covered.all()


def test_padding_covers_nothing():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert not covering_object(boxes, torch.tensor([[False]]), side=3)[1].any()


def test_fourier_features_of_different_positions_differ():
    features = fourier(torch.linspace(0, 1, 101))
    distance = torch.cdist(features, features) + 10 * torch.eye(101)
    assert distance.min() > 0.3


def test_the_correct_prediction_has_the_lowest_loss():
    torch.manual_seed(0)
    head = AuxiliaryHead(width=8, num_classes=3, num_points=17)
    target = objects([[0.0, 0.0, 1.0, 1.0]], [2])
    with torch.no_grad():
        for layer in (head.classify, head.locate):
            layer.weight.zero_()
            layer.bias.zero_()
        head.classify.bias[2] = 20.0
        head.locate.bias.view(-1, fourier(torch.zeros(1)).shape[-1])[:4] = fourier(target.boxes[0, 0])
    memory = torch.randn(1, 5, 8)  # one token outside the 2 × 2 grid
    assert auxiliary_loss(head, memory, target) < 1e-4
    assert auxiliary_loss(head, memory, objects([[0.0, 0.0, 1.0, 0.9]], [1])) > 1


def test_all_classes_labeled_is_plain_cross_entropy():
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), classes.flatten())
    torch.testing.assert_close(class_loss(logits, classes, torch.zeros((2, 1), dtype=torch.long)).mean(), expected)


def test_no_object_may_be_one_of_an_unlabeled_class():
    logits, classes = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[0]])
    expected = -logits.softmax(2)[0, 0, [0, 2]].sum().log()
    torch.testing.assert_close(class_loss(logits, classes, torch.tensor([[2, 0]])).mean(), expected)


def test_canvases_without_objects_train_nothing_but_their_absence():
    head = AuxiliaryHead(width=8, num_classes=3, num_points=17)
    memory = torch.randn(1, 4, 8)
    loss = auxiliary_loss(head, memory, objects([[0.0, 0.0, 0.0, 0.0]], [0]))
    assert torch.isfinite(loss)
    loss.backward()
    assert head.locate.weight.grad.abs().max() == 0


def test_invisible_keypoints_are_no_targets():
    head = AuxiliaryHead(width=8, num_classes=3, num_points=17)
    memory = torch.randn(1, 4, 8)
    near, far = (objects([[0.0, 0.0, 1.0, 1.0]], [1]) for _ in range(2))
    far.points.fill_(0.9)
    torch.testing.assert_close(auxiliary_loss(head, memory, near), auxiliary_loss(head, memory, far))
