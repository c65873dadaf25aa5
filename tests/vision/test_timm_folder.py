"""What timm loads answers as the network does, and what no network of timm's answers is refused."""

import copy
import json
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import models
from tests.helpers import files, lines_of, record_of
from unlearning.core.errors import RunFailed, UserError
from unlearning.vision import cards, foreign, timm_folder

CLASSES = ["T-shirt", "Trouser", "Pullover", "caf\udce9", "Čižmy"]


def network(name, **arguments):
    """(model, checkpoint without its weights) of a network of random weights, with none at its start."""
    record = record_of(name, **arguments)
    torch.manual_seed(0)
    model = models.create(name, **record["network"]["arguments"])
    for parameter in model.parameters():
        if not parameter.any() or parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.0)
    return model.eval(), record


def write(folder, name, **arguments):
    """Write a network's folder: (model, checkpoint without its weights)."""
    model, record = network(name, **arguments)
    record["classes"] = CLASSES
    timm_folder.write(folder, model, record, "ab12", cards.network(record, folder.name, "ab12"))
    return model, record


EVERY = [*models.NAMES, "test_resnet", "test_vit", "test_efficientnet", "levit_128s"]


@pytest.mark.parametrize("name", EVERY)
def test_timm_answers_alike_or_the_network_is_refused(name, tmp_path, monkeypatch):
    """By the lines of the card, which use nothing of this project."""
    folder = tmp_path / "folder"
    if name.startswith("resnet"):
        with pytest.raises(UserError, match=rf"^--timm: no network of timm's has {name}'s stem.*; --onnx"):
            write(folder, name)
        assert not list(tmp_path.iterdir())
        return
    sizes = {"img_size": 16, "input_size": 64} if name == "levit_128s" else {}
    model, record = write(folder, name, **sizes)
    assert {path.name for path in folder.iterdir()} == timm_folder.FILES
    given = {
        "images": torch.rand(3, 3, record["network"]["arguments"]["img_size"], record["network"]["arguments"]["img_size"])
    }
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        expected = model(given["images"])
        exec(lines_of((folder / "README.md").read_text(encoding="utf-8")), given)
    assert expected.std() > 1e-3  # random weights say something
    torch.testing.assert_close(given["logits"], expected, atol=1e-5, rtol=1e-5)
    assert list(given["names"]) == CLASSES


def test_the_config_holds_what_images_need(tmp_path):
    write(tmp_path / "plain", "vit_micro", in_chans=1, mean=[0.25], std=[0.5])
    write(tmp_path / "enlarged", "test_resnet", input_size=48)
    plain, enlarged = (
        json.loads((tmp_path / at / "config.json").read_text(encoding="utf-8")) for at in ("plain", "enlarged")
    )
    assert plain["architecture"] == "vit_tiny_patch16_224" and plain["num_classes"] == 5 and plain["label_names"] == CLASSES
    assert plain[timm_folder.SOURCE] == "ab12"
    images = {"input_size": [1, 32, 32], "mean": [0.25], "std": [0.5], "crop_pct": 1.0, "interpolation": "bicubic"}
    layers = {"first_conv": None, "classifier": "head", "fixed_input_size": True}
    for key, value in (images | layers).items():
        assert plain["pretrained_cfg"][key] == value, key
    images = {"input_size": [3, 48, 48], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
    layers = {"first_conv": "conv1.0", "classifier": "fc", "fixed_input_size": False}
    for key, value in (images | layers).items():
        found = enlarged["pretrained_cfg"][key]
        assert found == (pytest.approx(value) if key in ("mean", "std") else value), key
    assert "license" not in plain["pretrained_cfg"] and "url" not in plain["pretrained_cfg"]


def test_a_mask_of_minus_infinity_passes(tmp_path):
    """As baselines/control.py sets it."""
    model, record = network("test_vit")
    with torch.no_grad():
        model.net.head.bias[3] = float("-inf")
    timm_folder.write(tmp_path / "x", model, record, "ab12", "card")
    again = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
    assert again.head.bias.isinf().tolist() == [False, False, False, True, False]


def test_what_is_no_network_of_timms_is_refused(tmp_path):
    """One made smaller, one of other classes, one with another stem, and one of one's own."""
    model, record = network("test_resnet")
    compact = record | {"network": record["network"] | {"compact": True}}
    other = copy.deepcopy(model)
    other.net.conv1[0] = nn.Conv2d(3, 16, 5, padding=2, bias=False)
    own = nn.Sequential(OrderedDict(normalize=model.normalize, net=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))))
    for one, said in ((model, compact), (model, record_of("test_resnet", num_classes=7)), (other, record), (own, record)):
        with pytest.raises(UserError, match=r"^--timm: .* no network of timm's; --onnx writes it for other tools$"):
            timm_folder.write(tmp_path / "x", one, said, "ab12", "card")
    assert not list(tmp_path.iterdir())


def test_a_network_that_answers_otherwise_is_not_written(tmp_path):
    """Its weights fit, but not what is done with them."""
    write(tmp_path / "x", "test_resnet")
    before = files(tmp_path)
    model, record = network("test_resnet")
    model.net.maxpool = nn.AvgPool2d(3, 2, 1)
    with pytest.raises(RunFailed, match=r"timm answers differently, by \d"):
        timm_folder.write(tmp_path / "x", model, record, "ab12", "card")
    assert files(tmp_path) == before


def test_what_lies_in_the_folders_place(tmp_path, monkeypatch):
    """Nothing of anyone's is replaced, and an export only when asked to."""
    monkeypatch.chdir(tmp_path)
    folder = Path("x")
    assert not timm_folder.is_there(folder, "ab12", "", overwrite=False)
    folder.mkdir()
    assert not timm_folder.is_there(folder, "ab12", "", overwrite=False)  # an empty folder is nobody's
    write(folder, "test_vit")
    assert timm_folder.is_there(folder, "ab12", "", overwrite=False)
    assert timm_folder.is_there(folder, "ab12", "by lora", overwrite=False)
    assert not timm_folder.is_there(folder, "ab12", "", overwrite=True)
    assert not timm_folder.is_there(folder, "cd34", "", overwrite=True)
    with pytest.raises(UserError, match="made from something else; --overwrite"):
        timm_folder.is_there(folder, "cd34", "", overwrite=False)
    with pytest.raises(UserError, match="without this row on its card; --overwrite"):
        timm_folder.is_there(folder, "ab12", "| 12.3 |", overwrite=False)
    for spoil in (
        lambda: (folder / "notes.txt").touch(),
        lambda: (folder / "config.json").write_text("[]", encoding="utf-8"),
    ):
        write(folder, "test_vit")
        spoil()
        for overwrite in (False, True):
            with pytest.raises(UserError, match=r"holds files that export\.py --timm hasn't written"):
                timm_folder.is_there(folder, "ab12", "", overwrite)
    Path("file").touch()
    with pytest.raises(UserError, match="file is a file, not a folder"):
        timm_folder.is_there(Path("file"), "ab12", "", overwrite=True)
    with pytest.raises(UserError, match="cannot write into"):
        timm_folder.is_there(Path("file/x"), "ab12", "", overwrite=False)


def test_the_difference_of_logits():
    inf = float("inf")
    one = torch.tensor([[1.0, -4.0, -inf]])
    assert timm_folder.difference(one, one) == 0.0 and timm_folder.difference(torch.zeros(2), torch.zeros(2)) == 0.0
    assert timm_folder.difference(torch.tensor([[1.0, -4.5, -inf]]), one) == pytest.approx(0.5 / 4)
    assert timm_folder.difference(torch.tensor([[1.0, -4.0, 3.0]]), one) == inf
    assert not timm_folder.difference(torch.tensor([[float("nan"), -4.0, -inf]]), one) < inf


def test_a_config_whose_lists_lie_too_deep_in_each_other_is_one_line(tmp_path):
    """Which a reader, or whoever copies what was read, would follow to the end of the stack."""
    deep = '{"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": ' + "[" * 600 + "]" * 600 + "}}"
    for text in (deep, "[" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"config\.json .*deep in each other"):
            foreign.read(tmp_path)
        assert timm_folder.source_of(tmp_path) is None
