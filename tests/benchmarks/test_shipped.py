"""The table of the networks that come with the project: of these files, and what they answer."""

import hashlib
from argparse import Namespace

import pytest
import torch

import data
import models
import pretrain
import retrain
from benchmarks import shipped as benchmark
from tests.helpers import ROOT, call
from unlearning.core.device import to_float
from unlearning.reports import results
from unlearning.vision import shipped

FLAGS = ("--dataset", "digits", "--subset", 300, "--model", "resnet8", "--epochs", 3, "--batch-size", 32, "--quiet")


def test_rows_hold_what_the_networks_answer(tmp_path, monkeypatch):
    paths = [
        call(pretrain, *FLAGS, "--weights", tmp_path),
        call(retrain, *FLAGS, "--weights", tmp_path, "--forget-class", 3),
    ]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    (tmp_path / shipped.SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in digests.items()), encoding="utf-8"
    )
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    output = tmp_path / "shipped.json"
    args = Namespace(data_dir=ROOT / "data", device="cpu", precision="fp32", quiet=True, output=output)
    benchmark.measure_all(args, "python -m benchmarks.shipped")
    rows = results.read_json(output)["rows"]
    assert {row["file"]: row["sha256"] for row in rows} == digests
    dataset = data.load("digits", subset=300)
    for row, path in zip(rows, paths, strict=True):
        model = models.build(models.load_checkpoint(path), path).eval()
        with torch.no_grad():
            wrong, test = (model(to_float(part.images)).argmax(1) != part.labels for part in (dataset.train, dataset.test))
        gone = [part.labels == 3 if "retrain" in path.name else part.labels < 0 for part in (dataset.train, dataset.test)]
        expected = {"RA": ~wrong[~gone[0]], "TA": ~test[~gone[1]]} | ({"UA": wrong[gone[0]]} if gone[0].any() else {})
        for name, right in expected.items():
            assert row[name] == pytest.approx(right.double().mean().item() * 100, abs=0.5), (path.name, name)
    assert rows[0]["UA"] is None and rows[1]["UA"] > 90 and rows[0]["TA"] > 30


def test_the_table_is_of_what_is_shipped():
    rows = results.read_json(ROOT / "results/benchmarks/shipped.json")["rows"]
    assert {row["file"]: row["sha256"] for row in rows} == shipped.listed()
    assert all(row["command"] in (ROOT / "model_weights/README.md").read_text(encoding="utf-8") for row in rows)
