"""What docs/scenarios.md says of people's label errors runs as it stands there, on few images in CIFAR-10's own files."""

import json
import shlex

import numpy as np
import torch
from torchvision.datasets import CIFAR10

import data
import models
import reproduce
from tests.docs.test_commands import commands
from tests.helpers import ROOT, call
from tests.test_data import trusted, write_cifar
from unlearning.images.forgetting import retain_indices
from unlearning.reports import figures

SECTION = (ROOT / "docs/scenarios.md").read_text(encoding="utf-8").partition("## People's label errors\n")[2]
WRONG = (3, 17, 20, 38, 49)  # of fifty images


def test_a_network_forgets_the_images_with_wrong_labels_and_they_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / CIFAR10.base_folder
    folder.parent.mkdir()
    write_cifar(folder, [file for file, _ in CIFAR10.train_list + CIFAR10.test_list], "labels", 10, CIFAR10.meta)
    trusted(monkeypatch, CIFAR10, folder)
    clean = np.arange(50) % 10
    people = clean.copy()
    people[[*WRONG]] = (people[[*WRONG]] + 1) % 10
    torch.save({"clean_label": clean, "aggre_label": people}, "CIFAR-10_human.pt")
    exec(SECTION.partition("```python\n")[2].partition("```")[0], {})
    made, usual = data.load("npz:cifar10n.npz"), data.load("cifar10")
    assert torch.equal(made.train.images, usual.train.images) and torch.equal(made.test.images, usual.test.images)
    assert made.train.labels.tolist() == people.tolist() and torch.equal(made.test.labels, usual.test.labels)
    (command, *_) = commands(SECTION)
    small = (
        "--model",
        "resnet8",
        "--epochs",
        1,
        "--seeds",
        1,
        "--subset",
        40,
        "--methods",
        "finetune",
        "--precision",
        "fp32",
        "--quiet",
    )
    monkeypatch.setattr(figures, "pictures", lambda rows: {})
    result = call(reproduce, *shlex.split(command)[2:], *small)
    part = data.load("npz:cifar10n.npz", subset=40)
    left = sorted({*WRONG} & {*part.whole.positions.tolist()})
    (path,) = (tmp_path / "model_weights").rglob("*_finetune*.pth")
    checkpoint = models.load_checkpoint(path)
    assert 0 < len(left) < len(WRONG) and checkpoint["forget_images"].tolist() == left
    stay = part.whole.positions[retain_indices(40, checkpoint["forget"])].numpy()
    assert (people[stay] == clean[stay]).all()
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    with torch.no_grad():
        answers = models.build(checkpoint).eval()(made.train.images[left]).argmax(1)
    error = 100 * float((answers != torch.tensor(people[left])).float().mean())
    assert [row["metrics"]["UA"]["mean"] for row in rows if row["method"] == "finetune"] == [error]
