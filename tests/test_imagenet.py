"""ImageNet weights: by position out of the package's file, checked, and with a resizing layer in front."""

import hashlib
import subprocess
from collections import OrderedDict
from dataclasses import replace

import pytest
import timm
import torch

import data
import models
import pretrain
from tests.helpers import call
from unlearning.core.errors import UserError
from unlearning.vision import layers


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A data folder with a file in the package's form: the same tensors in the same order under other names."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    theirs = OrderedDict(
        (f"_{i}", value) for i, value in enumerate(timm.create_model(models.EFFICIENTNET).state_dict().values())
    )
    torch.save(theirs, folder / models.LITE0.name)
    return folder, list(theirs.values())


@pytest.fixture
def known(package, monkeypatch):
    folder, values = package
    digest = hashlib.sha256(next(folder.glob("*.pth")).read_bytes()).hexdigest()
    monkeypatch.setattr(models, "LITE0", replace(models.LITE0, sha256=digest))
    return folder, values


def test_the_packages_tensors_arrive_in_timms_network(known):
    folder, values = known
    net = models.create_pretrained(models.EFFICIENTNET, folder, in_chans=3, num_classes=1000)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), values, strict=True))
    gray = models.create_pretrained(models.EFFICIENTNET, folder, in_chans=1, num_classes=10)
    torch.testing.assert_close(gray.conv_stem.weight, values[0].sum(1, keepdim=True))
    assert gray.classifier.weight.shape[0] == 10


def test_a_network_on_small_gray_images_resizes_them_itself(known, tmp_path):
    folder, _ = known
    dataset = data.load("digits", subset=40)
    model, arguments = models.create_for(models.EFFICIENTNET, dataset, pretrained=folder, input_size=32)
    assert arguments["mean"] == arguments["std"] == [0.5]  # as the weights have seen images, not as the digits are
    x = torch.rand(2, 1, 8, 8)
    large = torch.nn.functional.interpolate((x - 0.5) / 0.5, size=(32, 32), mode="bilinear")
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.net(large))
    common = ("--dataset", "digits", "--data-dir", folder, "--subset", 40, "--epochs", 1, "--quiet")
    start = ("--model", models.EFFICIENTNET, "--pretrained", "--input-size", 32, "--output", tmp_path / "x.pth")
    again = models.build(models.load_checkpoint(call(pretrain, *common, *start)))
    assert again(x).shape == (2, 10)
    assert len(layers.stages(again)) == 5


def test_a_foreign_file_is_refused(package):
    folder, _ = package
    with pytest.raises(UserError, match="SHA-256"):
        models.create_pretrained(models.EFFICIENTNET, folder)


def test_without_network_one_line_says_what_to_put_where(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(UserError, match=r"No matching.*put efficientnet-lite0-57934424.pth out of .* into"):
        models.create_pretrained(models.EFFICIENTNET, tmp_path)


def test_small_networks_have_no_imagenet_weights(tmp_path):
    with pytest.raises(UserError, match="without ImageNet weights"):
        models.create_for("resnet8", data.load("digits"), pretrained=tmp_path)
