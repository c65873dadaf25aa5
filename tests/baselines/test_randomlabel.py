"""SalUn's control: as many weights, with the same wrong labels, drawn without a look at gradients."""

import pytest
import torch

import models
from baselines import randomlabel
from tests.baselines.toy import Constant, handed_to_fit, images
from tests.helpers import FP32, call, forgetting_three


def test_the_largest_numbers_of_all_are_chosen():
    masks = randomlabel.largest([torch.tensor([[0.1, 0.9], [0.5, 0.3]]), torch.tensor([0.8, 0.2])], 0.5)
    assert [mask.tolist() for mask in masks] == [[[False, True], [True, False]], [True, False]]


def test_wrong_labels_are_the_same_with_and_without_a_random_mask():
    labels = []
    for random_mask in (False, True):
        torch.manual_seed(0)
        forget = images(*[0, 1] * 20)
        split, *_ = handed_to_fit(
            randomlabel, Constant(1.0, 0.0), images(0, 1), forget, saliency=0.5, random_mask=random_mask
        )
        labels.append(split.labels)
    assert torch.equal(*labels)


class Unused(Constant):
    """With a parameter that is in no answer, so that it has no gradient."""

    def __init__(self):
        super().__init__(1.0, 0.0)
        self.unused = torch.nn.Parameter(torch.ones(2))


def test_a_parameter_without_a_gradient_is_passed_over():
    network = Unused()
    parameters = list(network.parameters())
    masks = randomlabel.salient(network, parameters, images(0, 1, 1), 0.5, FP32)
    assert [mask.tolist() for mask in masks] == [[True, True], [False, False]]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    randomlabel.train_alone(optimizer, parameters, masks)
    network(images(0).images).sum().backward()
    optimizer.step()
    assert network.logits.tolist() == [0.0, -1.0] and network.unused.tolist() == [1.0, 1.0]


def test_a_random_mask_trains_as_many_weights_wherever_gradients_are_large(weights, tmp_path):
    """Masks of a share s that know nothing of each other share s^2 of all weights."""
    before, moved = models.load_checkpoint(weights / "digits_resnet8_original_s0.pth")["state_dict"], []
    salun = ("--saliency", 0.3, "--batch-size", 512)
    for place, flags in enumerate((salun, (*salun, "--random-mask"), (*salun, "--random-mask", "--seed", 1))):
        original = ("--original", weights / "digits_resnet8_original_s0.pth")
        path = call(randomlabel, *forgetting_three(weights, 1), *original, *flags, "--output", tmp_path / f"{place}.pth")
        checkpoint = models.load_checkpoint(path)
        names = {name for name, _ in models.build(checkpoint).named_parameters()}
        after = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        moved.append(torch.cat([(value != before[name]).flatten() for name, value in after.items()]))
        assert moved[-1].double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert checkpoint["flags"] == {"--saliency": "0.3", "--random-mask": "", "--batch-size": "512"}
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (moved[one] & moved[other]).double().mean().item() == pytest.approx(0.09, abs=0.01)
