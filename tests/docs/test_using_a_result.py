"""What docs/usage.md says of adapters and of results without this project runs as it stands there."""

import shutil

import torch

import export
import models
from tests.docs.test_commands import commands, split
from tests.helpers import ROOT, call

FILES = {  # the page's names, after five epochs, and those of the tests
    "digits_vit_micro_original_s0": "digits_vit_micro_original_s0",
    "digits_vit_micro_class3_lora5_s0": "digits_vit_micro_class3_lora2_s0",
    "digits_resnet8_original_s0": "digits_resnet8_original_s0",
    "digits_resnet8_class3_loraprune5_s0": "digits_resnet8_class3_loraprune2_s0",
}


def network(name):
    return models.build(models.load_checkpoint(f"model_weights/{name}.pth"))


def test_the_pages_lines_give_the_networks_logits(weights, tmp_path, monkeypatch):
    (tmp_path / "model_weights").mkdir()
    for name, made in FILES.items():
        shutil.copy(weights / f"{made}.pth", tmp_path / "model_weights" / f"{name}.pth")
        if "original" not in name:
            shutil.copytree(weights / f"{made}_adapter", tmp_path / "model_weights" / f"{name}_adapter")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    adapters, _, rest = page.partition("## Adapters")[2].partition("## Using a result without this project")
    section = rest.partition("\n## ")[0]
    for script, arguments in map(split, commands(section)):
        if script == "export":
            call(export, *arguments)
    first, second = (block.split("```")[0] for block in section.split("```python\n")[1:])
    assert len([line for line in first.splitlines() if line]) == 5
    found, of_adapters = {}, {}
    exec(first, found)
    exec(second, found)
    exec(adapters.split("```python\n")[1].split("```")[0], of_adapters)
    images = found["images"]
    with torch.no_grad():
        expected = network("digits_vit_micro_class3_lora5_s0")(images)
        assert (network("digits_vit_micro_original_s0")(images) - expected).abs().max() > 0.1
        torch.testing.assert_close(found["logits"].detach(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["same"].detach(), expected, atol=1e-4, rtol=1e-4)
        pruned = network("digits_resnet8_class3_loraprune5_s0")(images)
        torch.testing.assert_close(of_adapters["adapted"](images), pruned, atol=1e-4, rtol=1e-4)
