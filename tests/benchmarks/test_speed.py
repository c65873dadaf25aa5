"""The yardstick does what it says, and the comparison measures both ways on the same thing."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import ToTensor

import data
import models
from benchmarks import compact, compare, published_way
from unlearning.core.device import best_precision
from unlearning.core.errors import UserError
from unlearning.exact import learners
from unlearning.reports import figures, results

COMMAND = "python -m benchmarks.compare"


def test_bf16_is_the_default_where_it_measures_faster(monkeypatch):
    dataset = data.load("digits", subset=20)
    networks = [models.create_for(n, dataset)[0] for n in ("resnet8", "vit_small", "vit_micro", "tf_efficientnet_lite0")]
    networks += [
        learners.Prompted(learners.Backbone(models.create_for(name, dataset)[0], 8), (1, 8, 8), 10, learners=2, routed=True)
        for name in ("vit_small", "vit_micro")
    ]

    def defaults():
        return [best_precision(network, "cpu") for network in networks]

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, "amx_bf16": False})
    assert defaults() == ["fp32"] * 6
    for unit in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda unit=unit: {"avx512f": True, unit: True})
        # Neither narrow transformers nor depthwise convolutions.
        assert defaults() == ["bf16", "bf16", "fp32", "fp32", "bf16", "fp32"]


def test_the_yardsticks_pictures_are_the_images():
    split = data.load("digits", subset=40).train
    x, y = published_way.Pictures(split)[7]
    assert y == split.labels[7]
    torch.testing.assert_close(x, split.images[7].float() / 255)
    colours = data.Split(torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8), torch.tensor([0, 1]))
    picture = Image.fromarray(np.asarray(colours.images[1].permute(1, 2, 0)))
    torch.testing.assert_close(published_way.Pictures(colours)[1][0], ToTensor()(picture))


@pytest.mark.parametrize(("method", "model"), [("lora", "vit_micro"), ("loraprune", "resnet8"), ("finetune", "resnet8")])
def test_the_yardstick_trains_what_the_method_trains(method, model):
    dataset = data.load("digits", subset=60)
    torch.manual_seed(0)
    network, _ = models.create_for(model, dataset)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh ones close each block's branch: nothing within it would learn
            nn.init.uniform_(module.weight, 0.5, 1.5)
    before = models.state(network)
    trained = published_way.unlearn(network, method, dataset.train, 3, 1e-2, 4, 8)
    moved = [
        name for name, p in trained.named_parameters() if p.requires_grad and p.grad is not None and p.grad.abs().max() > 0
    ]
    if method == "lora":
        assert any("attn.proj.lora_B" in name for name in moved) and any("head.lora_B" in name for name in moved)
    elif method == "loraprune":
        assert sum("lora_B" in name for name in moved) == 6
        assert models.zeros(network) > 30  # under the adapters the pruned weights are zero, as published
    else:
        assert len(moved) == len(list(network.parameters()))
        assert models.moved(before, models.state(trained)) > 0


def test_the_yardsticks_accuracies():
    dataset = data.load("digits", subset=100)
    network, _ = models.create_for("resnet8", dataset)
    three = dataset.train.labels == 3
    found = published_way.evaluate(network, dataset.train.take(three), dataset.train.take(~three), dataset.test)
    with torch.no_grad():
        right = network(dataset.test.images.float() / 255).argmax(1) == dataset.test.labels
    assert found[2] == pytest.approx(100 * right.double().mean().item())


@pytest.mark.slow
def test_both_ways_are_measured_on_the_same(tmp_path):
    config = Namespace(
        dataset="digits",
        images=300,
        test_images=100,
        rounds=1,
        pretrain=4,
        epochs=2,
        methods=["lora", "loraprune"],
        device="cpu",
    )
    rows = compare.compare("vit_micro", config, COMMAND, tmp_path)
    assert [row["method"] for row in rows] == ["lora", "loraprune", compare.TOGETHER]
    for row in rows[:-1]:
        found = {key: metric["mean"] for key, metric in row["metrics"].items()}
        assert found["ratio"] == pytest.approx(found["published_seconds"] / found["here_seconds"])
        assert found["of_bare_loop"] > 0
        assert 0 < found["here_mib"] < 2000 and 0 < found["published_mib"] < 2000
        for key in ("UA", "RA", "TA"):
            assert abs(found[f"published_{key}"] - found[f"here_{key}"]) < 25, key
    figures.draw(rows, tmp_path)
    assert (tmp_path / "speed.png").exists()


def test_rows_that_a_comparison_does_not_measure_again_are_not_lost(tmp_path, monkeypatch):
    """Those of the same network on other images or of other methods. The picture has the file's own name."""
    file = tmp_path / "mine.json"

    def measure(images, *methods, more=()):
        ratio = {"ratio": {"mean": 2.0, "ci95": None, "values": [2.0]}}
        about = {"dataset": f"digits-{images}-test100", "model": "resnet8", "forget": "class3", "epochs": 5, "n": 1}
        rows = [about | {"method": name, "command": COMMAND, "device": "a CPU", "metrics": ratio} for name in methods]
        monkeypatch.setattr(compare, "compare", lambda *_: rows)
        words = ["--model", "resnet8", "--dataset", "digits", "--images", str(images), "--test-images", "100"]
        compare.measure_all(
            compare.parser().parse_args([*words, "--output", str(file), *more, "--methods", *methods]), COMMAND
        )

    measure(300, "finetune", "lora")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.png"]
    for images, methods in ((300, ["lora"]), (200, ["finetune", "lora"])):
        with pytest.raises(UserError, match=r"holds finetune \(resnet8, digits-300-test100\); this would lose it"):
            measure(images, *methods)
    measure(300, "finetune", "lora", "loraprune")
    measure(200, "lora", more=["--overwrite"])
    assert [(row["dataset"], row["method"]) for row in results.read(file)["rows"]] == [("digits-200-test100", "lora")]


@pytest.mark.slow
def test_compact_rows_say_what_was_saved(tmp_path):
    sizes = {"images": 200, "test_images": 100, "pretrain": 1, "epochs": 1, "rounds": 1}
    config = Namespace(dataset="digits", device="cpu", **sizes)
    for name in ("resnet8", "resnet20"):  # in one folder, as the command does
        masked, small = (row["metrics"] for row in compact.rows_of(name, config, COMMAND, tmp_path))
        assert small["TA"]["mean"] == masked["TA"]["mean"]
        for key in ("parameters", "macs", "bytes"):
            assert small[key]["mean"] < 0.8 * masked[key]["mean"], key
        assert small["latency_ms"]["mean"] > 0 and small["onnx_ms"]["mean"] > 0
