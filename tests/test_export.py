"""Exporting: what was there is replaced or stays. What is written: vision/test_pruning.py and vision/test_timm_folder.py."""

import json

import pytest
import timm
import torch

import data
import export
import finetune
import lora
import models
import pretrain
import retrain
from tests.helpers import call, files, full_disk, lines_of, one_line, rows_of
from tests.test_models import TheirViT, randomise
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import sha256, write_torch
from unlearning.evaluation import collect
from unlearning.images.named import constants
from unlearning.reports import results, tables
from unlearning.vision import originals


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    """Where the network answers differently, and on a full disk."""
    path = call(pretrain, "--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--quiet",
                "--output", tmp_path / "x.pth")  # fmt: skip
    (tmp_path / "x.onnx").write_bytes(b"old")
    before, again = files(tmp_path), (export, path, "--onnx", tmp_path / "x.onnx", "--overwrite")
    for flags, what in (((), "no ONNX file that was written here"), (("--timm", tmp_path), "lies in the folder of --timm")):
        with pytest.raises(UserError, match=what):
            call(*again, *flags)
    monkeypatch.setattr(export, "source_of", lambda _: "another checkpoint")

    def differs(*_):
        raise RunFailed("the ONNX file answers differently")

    monkeypatch.setattr(export, "export", differs)  # making one takes ten seconds
    with pytest.raises(RunFailed, match="answers differently"):
        call(*again)
    assert files(tmp_path) == before
    monkeypatch.setattr(export, "export", lambda *_: b"new")
    with full_disk(), pytest.raises(RunFailed, match=r"cannot write .*x\.onnx: No space left"):
        call(*again)
    assert files(tmp_path) == before
    call(*again)
    assert files(tmp_path) == before | {"x.onnx": b"new"}


def test_a_checkpoint_goes_to_timm_with_its_row(weights, tmp_path, capsys):
    path, folder, rows = weights / "digits_vit_micro_class3_lora2_s0.pth", tmp_path / "x", tmp_path / "rows.json"
    call(export, path, "--timm", folder)
    before, _ = files(folder), capsys.readouterr()
    assert call(export, path, "--timm", folder) == folder
    assert capsys.readouterr().err == f"there already: {folder}\n" and files(folder) == before
    scored = collect.result("evaluate", "python evaluate.py", rows_of(path, "--weights", tmp_path, beneath=False), "logits")
    rows.write_text(results.dump(scored), encoding="utf-8")
    code, line = one_line(export, capsys, path, "--timm", folder, "--row", rows)
    assert code == 2 and "--overwrite" in line and files(folder) == before
    call(export, path, "--timm", folder, "--row", rows, "--overwrite")
    after = files(folder)
    assert {name for name in after if after[name] != before[name]} == {"README.md"}
    (folder / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    (folder / "plain").unlink()
    assert len(set(modes.values())) == 1, modes
    for card in (after["README.md"] + b"My note.\n", b"mine"):
        (folder / "README.md").write_bytes(card)
        with pytest.raises(UserError, match=r"README.md isn't as this project wrote it"):
            call(export, path, "--timm", folder, "--overwrite")
        assert files(folder) == after | {"README.md": card}
    (folder / "README.md").write_bytes(after["README.md"])
    assert f"| {tables.cell(scored['rows'][0], 'UA')} |" in (folder / "README.md").read_text(encoding="utf-8")
    network = models.build(models.load_checkpoint(path))
    net, images = timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(network.normalize(images)), network(images), atol=1e-5, rtol=1e-5)


def test_a_network_that_torch_cant_trace_is_one_line(tmp_path, capsys):
    text = """import torch
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(64, classes)
    def forward(self, x):
        f = x.flatten(1)
        if f.sum() > 1e9:
            f = f * 0.5
        return self.head(f)
def net(num_classes, **_):
    return Net(num_classes)
"""
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    own = ("--model", f"{tmp_path / 'own.py'}:net")
    common = ("--dataset", "digits", "--subset", 120, "--epochs", 1, "--quiet", "--output", tmp_path / "x.pth")
    path = call(pretrain, *own, *common)
    code, line = one_line(export, capsys, path, *own, "--onnx", tmp_path / "x.onnx")
    assert code == 2 and "torch can't write this network as ONNX (" in line and not (tmp_path / "x.onnx").exists()


def test_mistakes_are_named_before_anything_is_written(weights, tmp_path, capsys):
    vit, resnet = (weights / f"digits_{name}_original_s0.pth" for name in ("vit_micro", "resnet8"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "mine" / "notes.txt")
    before = files(tmp_path)
    for arguments, said in {
        (vit,): "nothing to write",
        (vit, "--onnx", tmp_path / "x.onnx", "--row", tmp_path / "rows.json"): "--row belongs to --timm",
        (vit, "--timm", tmp_path / "x", "--row", tmp_path / "rows.json"): "is not a result file",
        (vit, "--timm", tmp_path / "mine"): "name another folder",
        (vit, "--timm", tmp_path / "mine", "--overwrite"): "name another folder",
        (vit, "--timm", tmp_path / "mine" / "notes.txt"): "is a file",
        (vit, "--onnx", tmp_path / "mine" / "notes.txt" / "x"): "Not a directory",
        (vit, "--onnx", tmp_path / "link.onnx", "--overwrite"): "is a link",
        (resnet, "--timm", tmp_path / "x", "--onnx", tmp_path / "x.onnx"): "--onnx writes it for other tools",
        (tmp_path / "nowhere.pth", "--timm", tmp_path / "x"): "no file",
        (tmp_path / "mine", "--timm", tmp_path / "x"): "cannot be read",
        (tmp_path / "mine" / "notes.txt", "--timm", tmp_path / "x"): "not a readable checkpoint",
    }.items():
        code, line = one_line(export, capsys, *arguments)
        assert code == 2 and said in line, line
        assert files(tmp_path) == before


def test_a_full_disk_leaves_the_old_folder(weights, tmp_path):
    vits = (weights / f"digits_vit_micro_{what}_s0.pth" for what in ("original", "class3_lora2"))
    call(export, next(vits), "--timm", tmp_path / "x")
    before = files(tmp_path)
    with full_disk(), pytest.raises(RunFailed, match=r"cannot write .*x.*: No space left"):
        call(export, next(vits), "--timm", tmp_path / "x", "--overwrite")
    assert files(tmp_path) == before


def test_a_base_file_of_lora_unlearn_goes_to_timm(tmp_path, capsys):
    """Its ViT is one of timm's; ResNets with a stem for small images, and what doesn't say its image size, are refused."""
    net = TheirViT()
    randomise(net)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "basevit10.tar")
    folder = call(export, tmp_path / "basevit10.tar", "--timm", tmp_path / "vit")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in constants("cifar10", 3))
    x = torch.rand(2, 3, 32, 32)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded((x - mean) / std), net.eval()((x - mean) / std), atol=1e-4, rtol=1e-4)
    assert "has forgotten: the file that it was made from doesn't say" in (folder / "README.md").read_text(encoding="utf-8")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    code, line = one_line(export, capsys, tmp_path / "w.pth", "--timm", tmp_path / "w")
    assert code == 2 and "doesn't say classes and image size, which an export names: start a method from it" in line
    assert line.endswith(", and export what that makes") and " --model NAME" in line


def test_what_comes_of_a_timm_folder_goes_to_timm_again(weights, tmp_path, monkeypatch):
    """A ViT of this project's size is timm's by its arguments alone, which the folder says. So do the adapter's card, and
    the folder of the Retrain of it."""
    folder = call(export, weights / "digits_vit_micro_original_s0.pth", "--timm", tmp_path / "vit")
    start = ("--dataset", "digits", "--subset", 100, "--forget-class", 3, "--epochs", 1, "--quiet", "--weights", tmp_path)
    made = [call(finetune, *start, "--original", folder), call(retrain, *start, "--model", folder)]
    x = torch.rand(2, 1, 8, 8)
    for path in made:
        network = models.build(models.load_checkpoint(path))
        again = call(export, path, "--timm", tmp_path / path.stem)
        net = timm.create_model(f"local-dir:{again}", pretrained=True).eval()
        config = json.loads((again / "config.json").read_text(encoding="utf-8"))
        assert config["model_args"] == json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_args"]
        with torch.no_grad():
            torch.testing.assert_close(net(network.normalize(x)), network(x), atol=1e-5, rtol=1e-5)
    call(lora, *start[:4], "--forget-class", 5, *start[6:], "--original", made[0], "--output", tmp_path / "lora.pth")
    card = (tmp_path / "lora_adapter" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "ORIGINAL.pth").write_bytes(made[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    given = {"images": x}
    exec(lines_of(card), given)
    expected = models.build(models.load_checkpoint(tmp_path / "lora.pth"))(x)
    torch.testing.assert_close(given["logits"], expected, atol=1e-5, rtol=1e-5)


def test_an_unlearned_timm_folder_is_an_original_again(weights, tmp_path):
    """What export writes, the methods read."""
    file = weights / "digits_vit_micro_class3_lora2_s0.pth"
    folder = call(export, file, "--timm", tmp_path / "vit")
    again = originals.from_elsewhere(folder, originals.Told(), data.load("digits"), quiet=True)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            models.build(again)(x), models.build(models.load_checkpoint(file))(x), atol=1e-5, rtol=1e-5
        )


def test_a_checkpoint_that_is_replaced_while_it_is_read_and_a_network_that_it_is_not(tmp_path, monkeypatch, capsys):
    """An export says from which of the two it was made."""
    path = call(pretrain, "--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--quiet",
                "--weights", tmp_path)  # fmt: skip
    code, line = one_line(export, capsys, path, "--model", "resnet20", "--timm", tmp_path / "x")
    assert code == 2 and line == f"export.py: {path} holds a resnet8, not a resnet20"
    before, checked = sha256(path), models.checked

    def replacing(content, where):
        write_torch(where, content | {"seed": 1})
        return checked(content, where)

    monkeypatch.setattr(models, "checked", replacing)
    checkpoint, source = export._read(path)
    assert (checkpoint["seed"], source) == (0, before) and sha256(path) != before
