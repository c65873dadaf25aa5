"""An adapter's folder is replaced as a whole, or every byte of it stays."""

import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import models
from tests.helpers import files
from unlearning.core.errors import RunFailed
from unlearning.vision import adapter_files, adapters

FULL = OSError(28, "No space left on device")


def adapted(rank):
    """A tiny network with an adapter."""
    torch.manual_seed(rank)
    model = models.create("resnet8", in_chans=1, num_classes=3, img_size=8, mean=[0.3], std=[0.3])
    return adapters.attach(model, adapters.last_and_head(model), rank, 8, 0.1)


def adapter_fails(model, folder):
    Path(folder).mkdir()
    (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
    raise FULL


def mask_fails(tensors, file, metadata):
    file.write_bytes(b"half")
    raise FULL


def rename_fails(source, target):
    raise FULL


@pytest.mark.parametrize(
    ("where", "name", "fails"),
    [
        (PeftModel, "save_pretrained", adapter_fails),
        (adapter_files, "save_file", mask_fails),
        (os, "replace", rename_fails),
    ],
    ids=["adapter", "mask", "rename"],
)
def test_a_failure_at_any_step_leaves_the_old_folder(tmp_path, monkeypatch, where, name, fails):
    folder, masks = tmp_path / "x_adapter", {"net.conv1": torch.ones(16, dtype=torch.bool)}
    adapter_files.save(adapted(2), folder, masks)
    (folder / "notes.txt").write_text("of the old one", encoding="utf-8")
    before, new = files(tmp_path), adapted(4)
    assert {f"x_adapter/{file}" for file in ("adapter_model.safetensors", adapter_files.MASK_FILE)} < set(before)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(RunFailed, match="No space left"):
            adapter_files.save(new, folder, masks)
    assert files(tmp_path) == before
    adapter_files.save(new, folder)
    assert set(before) - set(files(tmp_path)) == {f"x_adapter/{file}" for file in ("notes.txt", adapter_files.MASK_FILE)}
