"""An adapter's folder: replaced as a whole or not at all, of today's and of earlier versions, and its card."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lora
import loraprune
import models
import rfau
from tests.helpers import files, finished_run, lines_of, record_of, save_adapter
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import read_torch, save_tensors, save_torch, staging, write_torch
from unlearning.vision import adapter_files, adapters, pruning
from unlearning.vision.adapter_files import ADAPTER_FILE, MASK_FILE
from unlearning.vision.identity import digest
from unlearning.vision.settings import Settings
from unlearning.vision.snapshots import Snapshot

FULL = OSError(28, "No space left on device")
COST = {"seconds": 1.0, "trainable": 1}
PRUNING = Settings({"compact": None, "regrow": False, "amount": 0.5, "prune_head": False})


def network(name="resnet8", **arguments):
    """A network in whose batch norms no scale is zero, as in a trained one."""
    torch.manual_seed(0)
    model = models.create(name, **record_of(name, **arguments)["network"]["arguments"]).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            module.running_var.uniform_(0.5, 1.0)
    return model


def adapted(model, rank=2):
    """A PeftModel on a copy of `model`, as after training: every number of the adapter has moved."""
    peft_model = adapters.attach(copy.deepcopy(model), adapters.last_and_head(model), rank, 8, 0.1)
    for key, tensor in peft_model.state_dict().items():
        if "lora_" in key or "modules_to_save" in key:
            tensor += (torch.rand(tensor.shape) / 10).to(tensor.dtype)  # batch norms count in whole numbers
    return peft_model.eval()


def failing(call):
    """`save_tensors` on a disk that is full at the given call of it."""
    calls = []

    def save(part, tensors, about):
        calls.append(part)
        if len(calls) == call:
            part.write_bytes(b"half")
            raise FULL
        save_tensors(part, tensors, about)

    return save


def rename_fails(source, target, rename=Path.rename):
    if source.is_dir() and source.suffix == ".unlearning-tmp":
        raise FULL
    rename(source, target)


@pytest.mark.parametrize(
    ("where", "name", "fails"),
    [
        (adapter_files, "save_tensors", failing(1)),
        (adapter_files, "save_tensors", failing(2)),
        (Path, "rename", rename_fails),
    ],
    ids=["adapter", "mask", "rename"],
)
def test_a_failure_at_any_step_leaves_the_old_folder(tmp_path, monkeypatch, where, name, fails):
    model, run, masks = (
        network(),
        finished_run(tmp_path / "x.pth", "resnet8"),
        {"net.conv1": torch.ones(16, dtype=torch.bool)},
    )
    save_adapter(adapted(model), run, masks)
    (tmp_path / "x_adapter" / "notes.txt").write_text("of the old one", encoding="utf-8")
    before, new = files(tmp_path), adapted(model, rank=4)
    assert {f"x_adapter/{file}" for file in (ADAPTER_FILE, MASK_FILE, "README.md", "adapter_config.json")} < set(before)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(RunFailed, match="No space left"):
            save_adapter(new, run, masks)
    assert files(tmp_path) == before
    save_adapter(new, run)
    assert set(before) - set(files(tmp_path)) == {f"x_adapter/{file}" for file in ("notes.txt", MASK_FILE)}


@pytest.mark.parametrize("script", [lora, loraprune, rfau])
@pytest.mark.parametrize(
    ("name", "what"), [("thesis.txt", "holds thesis.txt"), ("README.md", "holds README.md"), ("", "no folder")]
)
def test_nothing_of_anyones_is_replaced(script, name, what, tmp_path):
    """Before anything is computed: the folder's name isn't only this project's."""
    taken = tmp_path / "x_adapter"
    if name:
        taken.mkdir()
    (taken / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"x_adapter is where the adapter goes, and .*{what}"):
        script.unlearn(None, None, None, finished_run(tmp_path / "x.pth", "resnet8"))


def run_to(output, overwrite=False):
    """A run of `finished_run` as it is before it begins."""
    return replace(finished_run(output, "resnet8"), snapshot=Snapshot(output.with_name("x.partial"), "key", overwrite))


def test_an_adapter_is_replaced_along_with_its_checkpoint_alone(tmp_path):
    """Also an earlier version's, without a card and of a checkpoint that doesn't say which it came with."""
    folder, masks = tmp_path / "x_adapter", {"net.conv1": torch.ones(16, dtype=torch.bool)}
    again = run_to(tmp_path / "x.pth", overwrite=True)
    adapter_files.check_replaceable(run_to(tmp_path / "x.pth"))
    with staging(tmp_path / "x.pth") as staged:
        adapter_files.save(adapted(network()), replace(run_to(tmp_path / "x.pth"), staged=staged), masks)
        says = adapter_files.beside(staged)
    with pytest.raises(UserError, match=r"x_adapter is where the adapter goes, and is there without x.pth: move it"):
        adapter_files.check_replaceable(run_to(tmp_path / "x.pth"))
    adapter_files.check_replaceable(again)
    with pytest.raises(UserError, match="is there without x: move it"):
        (tmp_path / "x.pth").touch()
        adapter_files.check_replaceable(run_to(tmp_path / "x", overwrite=True))
    for content in (says, {"config": {"rank": 2}}):
        write_torch(tmp_path / "x.pth", content)
        adapter_files.check_replaceable(run_to(tmp_path / "x.pth"))
    write_torch(tmp_path / "x.pth", {"config": {"epochs": 2}})
    with pytest.raises(UserError, match=r"and x.pth came with none"):
        adapter_files.check_replaceable(again)
    write_torch(tmp_path / "x.pth", says)
    card = (folder / "README.md").read_bytes()
    (folder / "README.md").unlink()
    adapter_files.check_replaceable(again)
    config = (folder / "adapter_config.json").read_text(encoding="utf-8")
    for file, content in (
        (ADAPTER_FILE, {"a": torch.ones(1)}),
        ("adapter_config.json", config.replace('"lora_alpha": 8', '"lora_alpha": 9')),
    ):
        before = (folder / file).read_bytes()
        if isinstance(content, str):
            (folder / file).write_text(content, encoding="utf-8")
        else:
            save_file(content, folder / file)
        assert (folder / file).read_bytes() != before
        with pytest.raises(UserError, match=r"and isn't the one that x.pth came with"):
            adapter_files.check_replaceable(again)
        (folder / file).write_bytes(before)
    for file, content in (("notes.txt", b"mine"), ("README.md", card + b"My note.\n"), ("README.md", b"mine")):
        (folder / file).write_bytes(content)
        with pytest.raises(UserError, match=rf"x_adapter is where the adapter goes, and holds .*{file}"):
            adapter_files.check_replaceable(again)
        with pytest.raises(UserError, match=rf"x_adapter, which goes with x.pth, holds .*{file}"):
            adapter_files.check_going(tmp_path / "x.pth")
        (folder / file).unlink()
    adapter_files.check_going(tmp_path / "x.pth")
    (tmp_path / "x.pth").unlink()
    save_file({"a": torch.ones(1)}, folder / ADAPTER_FILE)  # somebody's, which doesn't say that it was written here
    with pytest.raises(UserError, match=r"is there without x\.pth"):
        adapter_files.check_replaceable(again)
    for file in folder.iterdir():
        file.unlink()
    adapter_files.check_replaceable(again)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        adapter_files.check_replaceable(again)


def test_a_checkpoint_without_an_adapter_takes_that_of_the_one_before_with_it(tmp_path):
    """And no other folder."""
    for mine in (True, False):
        with staging(tmp_path / "x.pth") as staged:
            adapter_files.save(adapted(network()), replace(run_to(tmp_path / "x.pth"), staged=staged))
            save_torch(staged.part(tmp_path / "x.pth"), adapter_files.beside(staged))
        if not mine:
            save_file({"a": torch.ones(1)}, tmp_path / "x_adapter" / ADAPTER_FILE)
        with staging(tmp_path / "x.pth") as staged:
            assert adapter_files.beside(staged) == {}
            save_torch(staged.part(tmp_path / "x.pth"), {})
        assert (tmp_path / "x_adapter").exists() is not mine
        assert read_torch(tmp_path / "x.pth") == {}


def test_two_checkpoints_never_share_an_adapter():
    """Rates have a dot, which ends no name."""
    names = [adapter_files.folder_for(name).name for name in ("run_lr0.001", "run_lr0.003", "run_lr0.001.pth", "a.b.pth")]
    assert names == ["run_lr0.001_adapter", "run_lr0.003_adapter", "run_lr0.001_adapter", "a.b_adapter"]


def test_an_adapter_that_is_not_the_one_of_its_checkpoint_is_not_loaded(tmp_path):
    with staging(tmp_path / "x.pth") as staged:
        adapter_files.save(adapted(network()), replace(run_to(tmp_path / "x.pth"), staged=staged))
        save_torch(staged.part(tmp_path / "x.pth"), adapter_files.beside(staged))
    adapter_files.load(network(), tmp_path / "x_adapter")
    content = bytearray((tmp_path / "x_adapter" / ADAPTER_FILE).read_bytes())
    content[-3] ^= 1
    (tmp_path / "x_adapter" / ADAPTER_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"x_adapter is damaged, or not the adapter that x.pth came with"):
        adapter_files.load(network(), tmp_path / "x_adapter")


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
def test_a_folder_of_an_earlier_version_still_loads(name, tmp_path):
    """As PEFT itself writes a network with its normalisation: every name begins with `net.`, those of masks too."""
    original = network(name)
    pruned = copy.deepcopy(original)
    masks, _ = pruning.prune(pruned, PRUNING, quiet=True)
    peft_model = adapted(pruned)
    peft_model.save_pretrained(str(tmp_path / "old"))
    save_file(masks, tmp_path / "old" / MASK_FILE, {"compact": "False"})
    assert all(key.startswith("base_model.model.net.") for key in load_file(tmp_path / "old" / ADAPTER_FILE))
    save_adapter(peft_model, finished_run(tmp_path / "new.pth", name), masks)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = peft_model(x)
        assert (original(x) - expected).abs().max() > 1e-2
        for folder in ("old", "new_adapter"):
            loaded = adapter_files.load(copy.deepcopy(original), tmp_path / folder)
            torch.testing.assert_close(loaded(x), expected, atol=1e-6, rtol=1e-5, msg=folder)


def rewritten(folder, change):
    """Apply `change` to the tensors of an adapter's file, a dictionary."""
    tensors = load_file(folder / ADAPTER_FILE)
    change(tensors)
    save_file(tensors, folder / ADAPTER_FILE, adapter_files.PLAIN)


KEY = "base_model.model.layer1.0.conv1.lora_A.weight"
CHANGES = {
    "none is missing": lambda tensors: tensors.pop(KEY),
    "none is renamed": lambda tensors: tensors.update({KEY.replace("layer1", "net.layer1"): tensors.pop(KEY)}),
    "none is one too many": lambda tensors: tensors.update({KEY.replace("conv1", "conv3"): tensors[KEY].clone()}),
    "each has its shape": lambda tensors: tensors.update({KEY: tensors[KEY][:, :1].clone()}),
    "each module is whole": lambda tensors: tensors.pop("base_model.model.fc.bias"),
}


@pytest.mark.parametrize("rule", CHANGES)
def test_names_that_dont_fit_are_refused(rule, tmp_path):
    """PEFT only warns, or fails with a key."""
    original = network()
    save_adapter(adapted(original), finished_run(tmp_path / "x.pth", "resnet8"))
    rewritten(tmp_path / "x_adapter", CHANGES[rule])
    with pytest.raises(UserError, match=r"x_adapter holds no adapter for this network") as refused:
        adapter_files.load(original, tmp_path / "x_adapter")
    assert "\n" not in str(refused.value)


def test_what_is_no_adapter_is_refused(tmp_path):
    save_adapter(adapted(network()), finished_run(tmp_path / "x.pth", "resnet8"))
    with pytest.raises(UserError, match="holds no adapter for this network"):
        adapter_files.load(network("vit_micro"), tmp_path / "x_adapter")
    with pytest.raises(UserError, match="can't be read as part of an adapter"):
        adapter_files.load(network(), tmp_path / "nowhere")
    (tmp_path / "x_adapter" / ADAPTER_FILE).write_bytes(b"half")
    with pytest.raises(UserError, match="can't be read as part of an adapter"):
        adapter_files.load(network(), tmp_path / "x_adapter")


CASES = [("resnet8", None), ("resnet8", "after"), ("resnet8", "first"), ("resnet18", None), ("vit_micro", "after")]


@pytest.mark.parametrize(("name", "pruned"), [*CASES, ("test_resnet", None)])
def test_the_lines_of_the_card_use_the_adapter(name, pruned, tmp_path, monkeypatch):
    """Without this project, but for a network that was made smaller first; with images that it enlarges itself."""
    arguments = {"input_size": 48} if name == "test_resnet" else {}
    original = network(name, **arguments)
    base = copy.deepcopy(original)
    masks = None
    if pruned:
        masks, _ = pruning.prune(base, Settings({**PRUNING, "compact": "first" if pruned == "first" else None}), quiet=True)
    peft_model = adapted(base)
    save_adapter(peft_model, finished_run(tmp_path / "x.pth", name, **arguments), masks, compact=pruned == "first")
    checkpoint = record_of(name, **arguments) | {"format": models.FORMAT, "state_dict": original.state_dict(), "cost": COST}
    torch.save(checkpoint | {"seed": 0, "key": "of the run"}, tmp_path / "ORIGINAL.pth")
    card = (tmp_path / "x_adapter" / "README.md").read_text(encoding="utf-8")
    assert ("import models" in card) == (pruned == "first")
    monkeypatch.chdir(tmp_path)
    given = {"images": torch.rand(3, 3, 32, 32)}
    expected = peft_model(given["images"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(lines_of(card), given)
    torch.testing.assert_close(given["logits"], expected.detach(), atol=1e-5, rtol=1e-5)


def test_the_card_says_what_was_done(tmp_path):
    run = finished_run(tmp_path / "x.pth", "resnet8", in_chans=1, mean=[0.25], std=[0.5])
    run.record["classes"] = ["T-shirt", "Trouser", "Pullover", "caf\udce9", "Coat"]  # a folder's name need not be text
    save_adapter(adapted(network(in_chans=1, mean=[0.25], std=[0.5])), run)
    card = (tmp_path / "x_adapter" / "README.md").read_text(encoding="utf-8")
    known = (
        "resnet8",
        "by lora",
        "2 training images",
        "class3, caf\\udce9",
        digest(torch.tensor([4, 7])),
        "of the original",
    )
    for text in (*known, "`python lora.py --forget-class 3`", "[0.25]", "[0.5]"):
        assert text in card, text
    assert "More Information Needed" not in card and "license" not in card  # PEFT's template; the owner's to give
