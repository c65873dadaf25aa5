"""Networks that others have trained as originals: what is read, how it is matched, what is refused, and what comes of it."""

import argparse
import json
import shutil
from dataclasses import replace

import peft
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import data
import evaluate
import export
import finetune
import lora
import loraprune
import models
import pretrain
import pruneft
import retrain
from baselines import control
from tests.helpers import FP32, call, lines_of, one_line, rows_of
from tests.test_data import folder_of_images
from tests.test_models import TheirViT, randomise, resnet_keys, their_resnet
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.networks.own import OwnNetwork
from unlearning.vision import foreign, layers, named_layers, originals, predict
from unlearning.vision.originals import Told

CODE = """
import torch
from torch import nn

def small(num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, padding=1), nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(), nn.Linear(256, num_classes),
    )

def two_outputs():
    class Two(nn.Module):
        def forward(self, x):
            return x, x
    return Two()

def broken():
    raise KeyError("width")

class Odd(nn.Module):
    # Its last layer is another than its head.
    def __init__(self, kind, classes=10):
        super().__init__()
        self.kind = kind
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, classes)
        if kind == "places":
            self.head = nn.Conv2d(8, classes, 1)
        self.other = nn.Linear(8, classes)

    def forward(self, x):
        x = self.stem(x).relu()
        if self.kind == "places":
            return self.head(x).mean((2, 3))
        x = x.mean((2, 3))
        if self.kind == "spare":
            return self.head(x)
        other = self.other(x)
        logits = self.head(x)
        return logits if self.kind == "called" else logits.mul_(other.sigmoid())

def spare():
    return Odd("spare")

def called():
    return Odd("called")

def places():
    return Odd("places")

def gate():
    return Odd("gate")

class Cosine(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))

    def forward(self, x):
        return 8 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))

class Scale(nn.Module):
    def forward(self, x):
        return 2 * x

def with_head(head):
    net = nn.Sequential()
    net.stem = nn.Conv2d(1, 8, 3, padding=1)
    net.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    net.pool, net.flat, net.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
    return net

def cosine():
    return with_head(Cosine(8, 10))

def several():
    return with_head(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10), nn.Dropout(0.5)))

def scaled():
    return with_head(nn.Sequential(nn.Linear(8, 10), Scale()))

class Broken(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10))
        if kind == "lazy":
            self.layers[4] = nn.LazyLinear(10)
        if kind == "whole":
            self.places = nn.Parameter(torch.arange(8), requires_grad=False)
        if kind == "bare":
            self.layers, self.weight = nn.Flatten(), nn.Parameter(torch.rand(64, 10))

    def forward(self, x):
        x = self.layers(x)
        if self.kind == "bare":
            return x @ self.weight
        if self.training and self.kind == "fails":
            raise ValueError("no labels")
        return (x, x) if self.training and self.kind == "tuple" else x

def tuple_in_training():
    return Broken("tuple")

def fails_in_training():
    return Broken("fails")

def lazy():
    return Broken("lazy")

def whole_numbers():
    return Broken("whole")

def bare():
    return Broken("bare")

def sound():
    return Broken("none")

class Projected(nn.Module):
    # A fixed random projection before the head, kept in files or not.
    def __init__(self, kept):
        super().__init__()
        self.register_buffer("projection", torch.randn(64, 16), persistent=kept)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head((x.flatten(1) @ self.projection).relu())

def kept():
    return Projected(True)

def drawn():
    return Projected(False)

class Chatty(Broken):
    def get_extra_state(self):
        return {"said": 1}

    def set_extra_state(self, state):
        pass

def chatty():
    return Chatty("none")

def of_random_width():
    width = 8 + torch.randint(1000, ()).item()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def frozen():
    return sound().requires_grad_(False)

def partly_frozen():
    net = sound()
    net.layers[0].requires_grad_(False)
    return net

number = 3
"""
WHERE = ("--dataset", "digits", "--quiet")
ENOUGH = ("--mean", 0.5, "--std", 0.5)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder with net.py, a network that it makes trained on digits by somebody, and its state dict in net.pth."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "net.py").write_text(CODE, encoding="utf-8")
    scope = {}
    exec(CODE, scope)
    torch.manual_seed(0)
    net, train = scope["small"](10, 1), data.load("digits").train
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(net((train.images / 255 - 0.5) / 0.5), train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.eval().state_dict(), folder / "net.pth")
    return folder, net


def own(folder):
    return ("--model", f"{folder / 'net.py'}:small")


def started(path, dataset, told, quiet=True):
    """The network of `from_elsewhere`, in evaluation mode."""
    parent = originals.from_elsewhere(path, told, dataset, quiet)
    return models.build(parent, path, told.own), parent


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


WRAPPED = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": prefixed(state, "module."), "best_prec1": 91.0},
    "net": lambda state: {"net": prefixed(state, "_orig_mod."), "acc": 1},
    "model_state_dict": lambda state: {"model_state_dict": prefixed(state, "module._orig_mod."), "optimizer": {"state": {}}},
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.0"},
    "average": lambda state: {"model_ema": {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}},
    "compiled": lambda state: {"state_dict": prefixed(state, "_orig_mod.module.")},
    "inside": lambda state: {name.replace("2.", "2.module._orig_mod.", 1): value for name, value in state.items()},
    "counted": lambda state: state | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
}


@pytest.mark.parametrize("wrapping", [*WRAPPED, "safetensors"])
def test_a_state_dict_in_whatever_wrapping(theirs, tmp_path, wrapping):
    folder, net = theirs
    path = tmp_path / ("x.safetensors" if wrapping == "safetensors" else "x.pth")
    if wrapping == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(WRAPPED[wrapping](net.state_dict()), path)
    args = finetune.parser().parse_args([*map(str, own(folder)), "--mean", "0.5", "--std", "0.5"])
    dataset = data.load("digits")
    model, parent = started(path, dataset, Told.from_flags(args, args.model))
    with torch.no_grad():
        torch.testing.assert_close(model(dataset.test.images / 255), net((dataset.test.images / 255 - 0.5) / 0.5))
    assert parent["network"]["name"] == "net.py:small" and parent["network"]["layers"]["unheard"] == []


def test_weights_and_their_average_in_one_file(theirs, tmp_path, capsys):
    """The weights themselves are taken, and the run says that there are others; --entry takes these, and is another run."""
    folder, net = theirs
    other = {name: value * 2 for name, value in net.state_dict().items()}
    torch.save({"state_dict_ema": other, "state_dict": net.state_dict()}, tmp_path / "x.pth")
    start = (*WHERE[:2], "--original", tmp_path / "x.pth", *own(folder), *ENOUGH, "--forget-class", 3, "--epochs", 1)
    first = call(finetune, *start, "--weights", tmp_path)
    said = capsys.readouterr().err
    assert "under 'state_dict' (also there: state_dict_ema; --entry takes one); as net.py:small" in said
    assert "10 of 10 tensors match" in said and "% of 256 test images are right" in said and "chance" not in said
    second = call(finetune, *start, "--weights", tmp_path, "--entry", "state_dict_ema", "--quiet")
    assert first != second and not torch.equal(
        *(models.load_checkpoint(p)["state_dict"]["net.0.weight"] for p in (first, second))
    )
    code, line = one_line(finetune, capsys, *start, "--weights", tmp_path, "--entry", "ema", "--quiet")
    assert code == 2 and "no state dict 'ema'; it has state_dict, state_dict_ema" in line


def test_an_entry_may_be_called_by_a_number(theirs, tmp_path):
    _, net = theirs
    torch.save({0: net.state_dict(), 1: net.state_dict()}, tmp_path / "x.pth")
    assert foreign.read(tmp_path / "x.pth", "1", constants=False).tensors.keys() == net.state_dict().keys()
    with pytest.raises(UserError, match=r"has no state dict '2'; it has 0, 1"):
        foreign.read(tmp_path / "x.pth", "2", constants=False)


def test_the_entry_that_is_taken_unasked_may_be_named(theirs, tmp_path):
    """It is the same run then, and the same Original; a folder has no entry to name."""
    folder, net = theirs
    torch.save({"state_dict_ema": net.state_dict(), "model": net.state_dict()}, tmp_path / "x.pth")
    start = (*WHERE, "--original", tmp_path / "x.pth", *own(folder), *ENOUGH, "--forget-class", 3, "--epochs", 1)
    made = [call(finetune, *start, *entry, "--weights", tmp_path) for entry in ((), ("--entry", "model"))]
    assert made[0] == made[1]
    other = call(finetune, *start, "--entry", "state_dict_ema", "--weights", tmp_path)
    first, second = (models.load_checkpoint(path)["identity"] for path in (made[0], other))
    assert "entry" not in first["settings"] | first["parent"]["settings"]
    assert second["settings"]["entry"] == second["parent"]["settings"]["entry"] == "state_dict_ema"
    dataset, told = data.load("digits"), Told.from_flags(finetune.parser().parse_args(["--entry", "model"]), None)
    network = models.load_checkpoint(other)["network"]
    earlier = originals.from_elsewhere(tmp_path / "x.pth", replace(told, own=OwnNetwork.parse(own(folder)[1])), dataset,
                                       True, network)  # fmt: skip
    assert earlier["identity"]["settings"]["entry"] == "model"  # as files of earlier versions say of their Original


def test_from_a_strangers_network_to_a_table(theirs, tmp_path, capsys):
    """Every method starts from it; the file doesn't change; evaluate finds it again as the Original, and a Retrain."""
    folder, _ = theirs
    before = (folder / "net.pth").read_bytes()
    start = (*WHERE, "--weights", tmp_path, "--original", folder / "net.pth", *own(folder), *ENOUGH, "--forget-class", 3)
    made = [call(script, *start, "--epochs", 1) for script in (finetune, pruneft, lora, loraprune)]
    for path in made:
        checkpoint = models.load_checkpoint(path)
        assert checkpoint["network"]["name"] == "net.py:small"
        assert str(folder) not in str(checkpoint["network"])  # only the name and a digest
        assert checkpoint["origin"] == originals.digest_of(folder / "net.pth")
    assert call(lora, *start, "--epochs", 1) == made[2]  # there already
    rows = rows_of(*made[:2], "--weights", tmp_path, *own(folder), beneath=False)
    assert [row["method"] for row in rows] == ["original", "finetune", "pruneft"]
    assert rows[0]["metrics"]["UA"]["mean"] < 20 < rows[1]["metrics"]["UA"]["mean"] + 20
    assert "no Retrain" in rows[1]["metrics"]["gap"]["missing"]
    call(retrain, *WHERE, "--weights", tmp_path, *own(folder), *ENOUGH, "--forget-class", 3, "--epochs", 2)
    rows = rows_of(made[0], "--weights", tmp_path, *own(folder))
    assert [row["method"] for row in rows] == ["original", "retrain", "finetune"]
    assert rows[2]["metrics"]["gap"]["mean"] >= 0 and "missing" not in rows[2]["metrics"]["relearn_steps"]
    assert (folder / "net.pth").read_bytes() == before
    way = "a network of your own: give --model net.py:small again (its file is not run unasked)"
    others = (*WHERE, "--weights", tmp_path, "--forget-class", 3)
    for script, flags, who in (
        (evaluate, (made[0], "--weights", tmp_path), "net.py:small is"),  # its original, which is scored first
        (export, (made[0], "--onnx", tmp_path / "x.onnx"), f"{made[0]} holds"),
        (lora, (*others, "--original", made[0]), f"{made[0]} holds"),
        (retrain, (*others, "--data-of", made[0]), "net.py:small is"),
    ):
        code, line = one_line(script, capsys, *flags)
        assert code == 2 and line == f"{script.__name__}.py: {who} {way}"


def test_a_retrain_that_normalises_otherwise_is_warned_of_when_it_is_made_and_when_it_is_scored(theirs, tmp_path, capsys):
    folder, _ = theirs
    where = (*WHERE, "--weights", tmp_path, *own(folder), "--forget-class", 3, "--epochs", 1, "--quiet")
    constants = ("--mean", 0.4, "--std", 0.3)
    path = call(finetune, *where, "--original", folder / "net.pth", *constants)
    capsys.readouterr()
    wrong = call(retrain, *where)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "normalised" in line)
    ours, known = "mean 0.5 and std 0.5", "mean 0.4 and std 0.3"
    assert line.startswith(
        f"warning: this network is normalised by {ours}, and {path.name}, of the same network and data, by {known}"
    )
    assert f"give --mean 0.4 --std 0.3, or --data-of {path}" in line
    rows_of(path, "--weights", tmp_path, *own(folder), beneath=False)
    what = f"note: {wrong} was not trained as net.pth was: mean [0.5] for [0.4], std [0.5] for [0.3]"
    assert what in capsys.readouterr().err
    wrong.unlink()
    for flags in (constants, ("--data-of", path)):
        right = call(retrain, *where, *flags)
        rows_of(path, "--weights", tmp_path, *own(folder), beneath=False)
        said = capsys.readouterr().err
        assert "normalised" not in said and "was not trained as" not in said
        right.unlink()


def test_a_checkpoint_never_imports_and_says_when_the_code_has_changed(theirs, tmp_path, capsys):
    folder, _ = theirs
    code = tmp_path / "net.py"
    code.write_text(CODE, encoding="utf-8")
    start = (*WHERE, "--weights", tmp_path, "--original", folder / "net.pth", *own(tmp_path), *ENOUGH, "--forget-class", 3)
    path = call(finetune, *start, "--epochs", 1)
    code.write_text(CODE + f"\nopen({str(tmp_path / 'witness')!r}, 'w')\n", encoding="utf-8")
    assert one_line(evaluate, capsys, path, "--weights", tmp_path)[0] == 2
    assert not (tmp_path / "witness").exists()
    capsys.readouterr()
    rows_of(path, "--weights", tmp_path, *own(tmp_path), beneath=False)
    assert f"note: {code} is not the file that {path} was made with" in capsys.readouterr().err
    assert (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "11 tensors; say of which network with --model"),
        (("--model", "resnet8"), "of the network's"),
        (("--model", "{}/none.py:small"), "there is no file"),
        (("--model", "{}/net.py"), "name a function in it"),
        (("--model", "{}/net.py:large"), "has no function 'large'"),
        (("--model", "{}/net.py:number"), "has no function 'number'"),
        (("--model", "{}/net.py:broken"), "failed: KeyError: 'width'"),
        (("--model", "{}/net.py:two_outputs"), "answers two images by tuple"),
        (("--model", "{}/net.py:tuple_in_training"), "in training mode answers two images by tuple, not by (2, 10)"),
        (("--model", "{}/net.py:fails_in_training"), "fails in training mode (no labels)"),
        (("--model", "{}/net.py:lazy"), "its parameter layers.4.weight has no size yet"),
        (("--model", "{}/net.py:whole_numbers"), "its parameter places holds int64: make it a buffer"),
        (("--model", "{}/net.py:bare"), "has neither a Conv2d nor a Linear layer"),
        (("--model", "{}/net.py:frozen"), "net.py:frozen: its function has frozen all of its weights"),
        (("--model", "{}/net.py:chatty"), "net.py:chatty: _extra_state of its state dict is no tensor"),
        (("--model", "{}/net.py:of_random_width"), "it is another network (Error(s) in loading state_dict"),
        (("--model", "{}/net.py:drawn"), "net.py:drawn: made again, with the same state dict, it answers otherwise: what"),
        (("--model", "{}/net.py:small", "--mean", 0.5), "belong together"),
        (("--model", "{}/net.py:small", "--mean", 0.5, 0.5, "--std", 0.5, 0.5), "of 2 and 2 channels, and images of 1"),
        (("--model", "{}/net.py:small", "--head", "2.0"), "doesn't give 10 logits: name the layer that does with --head"),
        (
            ("--model", "{}/net.py:small", "--head", "fc"),
            "no convolution or linear layer of this name; it has 0, 2.0",
        ),
        (("--model", "torchvision:resnet9"), "torchvision has no network 'resnet9'"),
        (("--model", "torchvision:resnet18"), "takes no images of 1 channels"),
        (("--model", "timm:resnet9"), "unknown model 'timm:resnet9'"),
    ],
)
def test_refusals(theirs, tmp_path, capsys, flags, message):
    folder, _ = theirs
    flags = [str(flag).format(folder) for flag in flags]
    start = (*WHERE, "--weights", tmp_path, "--original", folder / "net.pth", "--forget-class", 3, *flags)
    code, line = one_line(finetune, capsys, *start)
    assert code == 2 and message in line, line
    assert not list(tmp_path.iterdir())


def test_a_trial_changes_nothing(theirs):
    """Neither the statistics of a network that is then trained nor what is drawn for it."""
    folder, _ = theirs
    net = OwnNetwork.parse(f"{folder / 'net.py'}:sound").create()
    before, state = models.state(net), torch.get_rng_state()
    models.try_images(net, "sound", {"img_size": 8, "in_chans": 1, "num_classes": 10})
    assert net.training and models.moved(before, models.state(net)) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_its_function_draws_is_the_same_in_every_command(theirs, tmp_path, capsys):
    """Or isn't trained: a file keeps the state dict alone. What a function has frozen stays so, as a line says."""
    folder, _ = theirs
    where = (*WHERE, "--epochs", 1, "--weights", tmp_path)
    assert one_line(pretrain, capsys, *where, "--model", f"{folder / 'net.py'}:drawn")[0] == 2
    path = call(pretrain, *where, "--model", f"{folder / 'net.py'}:kept")
    once, twice = (models.build(models.load_checkpoint(path), path, OwnNetwork.parse(f"{folder / 'net.py'}:kept"))
                   for _ in range(2))  # fmt: skip
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(once(images), twice(images))
    capsys.readouterr()
    path = call(pretrain, *where, "--model", f"{folder / 'net.py'}:partly_frozen")
    said = "net.py:partly_frozen: its function has frozen 2 of 6 tensors of weights: training leaves them"
    assert said in capsys.readouterr().err


def test_a_check_of_ones_own_network_changes_nothing(theirs):
    folder, _ = theirs
    own = OwnNetwork.parse(f"{folder / 'net.py'}:sound")
    net = own.create()
    before, state = models.state(net), torch.get_rng_state()
    own.check(net, in_chans=1, num_classes=10, img_size=8)
    assert net.training and models.moved(before, models.state(net)) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_names_the_networks_file_that_it_was_made_with(theirs, tmp_path, capsys):
    """Which need not be its original's: a note says so then, and not of the file that was used."""
    folder, _ = theirs
    first = call(finetune, *(start := (*WHERE, "--weights", tmp_path, "--epochs", 1, "--forget-class", 3)), *own(folder),
                 "--original", folder / "net.pth", *ENOUGH)  # fmt: skip
    (tmp_path / "net.py").write_text(CODE.replace("nn.ReLU()", "nn.Tanh()"), encoding="utf-8")
    second = call(lora, *start, "--original", first, *own(tmp_path), "--output", tmp_path / "second.pth")
    for where, notes in ((tmp_path, 0), (folder, 1)):
        capsys.readouterr()
        models.build(models.load_checkpoint(second), second, OwnNetwork.parse(own(where)[1]))
        assert capsys.readouterr().err.count("is not the file that") == notes


def from_file(folder, tmp_path, function, *head):
    """What a checkpoint would say of the layers of a network that `function` in net.py makes."""
    flags = ["--model", f"{folder / 'net.py'}:{function}", "--mean", "0.5", "--std", "0.5", *head]
    args = finetune.parser().parse_args(flags)
    told = Told.from_flags(args, args.model)
    torch.save(told.own.create().state_dict(), tmp_path / "x.pth")
    return originals.from_elsewhere(tmp_path / "x.pth", told, data.load("digits"), True)["network"]["layers"]


def test_the_head_is_what_gives_the_logits(theirs, tmp_path):
    """Not the layer that is defined last, which may be a spare one, or be there for something else."""
    folder, _ = theirs
    torch.manual_seed(0)
    assert from_file(folder, tmp_path, "spare") == {"head": ["net.head"], "unheard": ["net.other"]}
    assert from_file(folder, tmp_path, "called") == {"head": ["net.head"], "unheard": []}
    assert from_file(folder, tmp_path, "places")["head"] == ["net.head"]
    with pytest.raises(UserError, match=r"net.py:gate: no layer's outputs .* with --head"):
        from_file(folder, tmp_path, "gate")
    assert from_file(folder, tmp_path, "gate", "--head", "head")["head"] == ["net.head"]
    args = finetune.parser().parse_args(["--model", f"{folder / 'net.py'}:gate", *map(str, ENOUGH), "--head", "head"])
    told = Told.from_flags(args, args.model)
    network = originals.from_elsewhere(tmp_path / "x.pth", told, data.load("digits"), True)["network"]
    again = originals.from_elsewhere(tmp_path / "x.pth", replace(told, head=()), data.load("digits"), True, network)
    assert again["network"] == network  # a checkpoint says it already


def test_a_head_may_be_any_module(theirs, tmp_path):
    """Of several layers it is the last one where that gives the answer; what isn't called for the answer is no head."""
    folder, _ = theirs
    heads = {"cosine": "net.head", "several": "net.head.2", "scaled": "net.head"}
    assert {kind: from_file(folder, tmp_path, kind, "--head", "head")["head"] for kind in heads} == {
        kind: [name] for kind, name in heads.items()
    }
    for kind, head, message in (
        ("spare", "other", "--head other: Odd never calls this layer for its answer"),
        ("cosine", "pool", "--head pool: .* no convolution or linear layer of this name"),  # nothing to train
        ("cosine", "blocks", "net.blocks doesn't give 10 logits: name the layer that does with --head"),
    ):
        with pytest.raises(UserError, match=message):
            from_file(folder, tmp_path, kind, "--head", head)


def test_a_cosine_classifier_is_unlearned(theirs, tmp_path):
    """It has rows and no bias; the probe reads its inputs; it is trained whole beside LoRA. What is made says its head."""
    folder, _ = theirs
    torch.manual_seed(0)
    torch.save(OwnNetwork.parse(f"{folder / 'net.py'}:cosine").create().state_dict(), tmp_path / "x.pth")
    model = ("--model", f"{folder / 'net.py'}:cosine")
    start = (*WHERE, "--original", tmp_path / "x.pth", *model, *ENOUGH, "--head", "head", "--forget-class", 3, "--epochs", 1)
    start = (*start, "--subset", 200, "--test-subset", 100, "--weights", tmp_path)
    made = [call(lora, *start), *(call(control, *start, "--kind", kind) for kind in ("head-only", "zero-row"))]
    before = torch.load(tmp_path / "x.pth")
    after = [models.load_checkpoint(path)["state_dict"] for path in made]
    assert all(not torch.equal(state["net.head.weight"], before["head.weight"]) for state in after)
    moved = {key for key, value in before.items() if not torch.equal(after[1][f"net.{key}"], value)}
    assert moved == {"head.weight"} and (after[2]["net.head.weight"][3] == 0).all()
    network = models.build(models.load_checkpoint(made[0]), made[0], OwnNetwork.parse(model[1]))
    some = data.load("digits", test_subset=40).test
    features = predict.penultimate(network, some, FP32)
    assert features.shape == (40, 8)
    torch.testing.assert_close(network.net.head(features), predict.predict(network, some, FP32))
    for kind in ("mask", "bias"):
        with pytest.raises(UserError, match=f"--kind {kind}: this network's head has no bias for each class"):
            call(control, *start, "--kind", kind)


def test_layers_by_hand(theirs, tmp_path, capsys):
    folder, _ = theirs
    start = (*WHERE, "--weights", tmp_path, "--original", folder / "net.pth", *own(folder), *ENOUGH, "--forget-class", 3)
    start = (*start, "--epochs", 1)
    usual = models.load_checkpoint(call(loraprune, *start))["state_dict"]
    by_hand = models.load_checkpoint(call(loraprune, *start, "--lora-targets", "0", "--prune-targets", "2.0"))["state_dict"]
    original = torch.load(folder / "net.pth")
    assert torch.equal(usual["net.2.0.weight"] != original["2.0.weight"], torch.ones_like(original["2.0.weight"]) > 0)
    silent = by_hand["net.2.0.weight"].flatten(1).abs().sum(1) == 0
    assert silent.sum() == 8 and torch.equal(by_hand["net.2.0.weight"][~silent], original["2.0.weight"][~silent])
    assert not torch.equal(by_hand["net.0.weight"], original["0.weight"])  # the stem, as was asked
    code, line = one_line(lora, capsys, *start, "--lora-targets", "conv9")
    assert code == 2 and "--lora-targets conv9" in line
    made = call(lora, *start, "--output", tmp_path / "lora.pth")
    code, line = one_line(lora, capsys, *WHERE, *own(folder), *ENOUGH, "--original", made, "--forget-class", 3)
    assert code == 2 and "--mean is for networks from elsewhere" in line


class Attention(nn.Module):
    """A block with PyTorch's own attention, which reads its projections' weights and never calls them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 2, stride=2)
        self.block = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True), "mlp": nn.Linear(8, 8)})
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        return self.head(self.block["mlp"](x + self.block["attention"](x, x, x)[0]).mean(1))


def test_layers_that_are_never_called_get_no_lora():
    torch.manual_seed(0)
    model = nn.Sequential(models.Normalize([0.5], [0.5]))
    model.net = Attention()
    found = named_layers.unheard(model, torch.rand(2, 1, 8, 8))
    assert found == ("net.block.attention.out_proj",)
    model.layer_names = models.LayerNames(unheard=found)
    assert layers.adaptable(model) == ["net.block.mlp"] and layers.heads(model) == ["net.head"]
    model.layer_names = models.LayerNames(unheard=found, lora=found)
    with pytest.raises(UserError, match="this layer of Attention is never called"):
        layers.adaptable(model)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images of two classes, and the data set."""
    folder = tmp_path_factory.mktemp("pictures")
    folder_of_images(folder, classes=["ant", "bee"])
    return folder, data.load(f"folder:{folder}")


def test_a_file_of_timms_train_script(pictures, tmp_path, capsys):
    """It says its network, how that pools, mean and deviation; the weights aren't the averaged ones unless asked."""
    _, dataset = pictures
    net = timm.create_model("test_resnet", num_classes=2, global_pool="max")
    randomise(net)
    args = argparse.Namespace(model="test_resnet", mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3], model_kwargs={}, gp="max")
    content = {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": net.state_dict(),
        "optimizer": {},
        "version": 2,
        "args": args,
    }
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path)
    model, parent = started(path, dataset, Told())
    assert parent["network"]["name"] == "timm:test_resnet"
    x = torch.rand(3, 3, 32, 32)
    normalised = torchvision.transforms.functional.normalize(x, args.mean, args.std)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net.eval()(normalised), atol=1e-4, rtol=1e-4)
    assert originals.from_elsewhere(path, Told(model="timm:test_resnet"), dataset, True)["network"] == parent["network"]
    with pytest.raises(UserError, match=r"0 of the network's .* another --model"):
        originals.from_elsewhere(path, Told(model="timm:test_vit"), dataset, True)


def test_the_stem_of_a_wrapped_network():
    """torchvision's wide ResNets have one too, and no other of its networks."""
    for name, prefix in (
        ("resnet18", "module._orig_mod."),
        ("wide_resnet50_2", "_orig_mod."),
        ("resnet18", "model.module."),
    ):
        with torch.device("meta"):
            usual, other = (torchvision.models.get_model(one, num_classes=2) for one in (name, "shufflenet_v2_x0_5"))
        state = usual.state_dict()
        small = state | {"conv1.weight": state["conv1.weight"][:, :, :3, :3]}
        for given, net, expected in ((small, usual, True), (state, usual, False), (small, other, False)):
            found = foreign.Found("a state dict", prefixed(given, prefix))
            assert originals._has_small_stem(found, net) == expected


def test_torchvisions_networks_with_both_stems(pictures, tmp_path):
    _, dataset = pictures
    for small in (False, True):
        net = torchvision.models.resnet18(num_classes=2)
        if small:
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        randomise(net)
        path = tmp_path / f"{small}.pth"
        args = argparse.Namespace(model="resnet18", lr=0.1)
        wrapped = {"model": prefixed(net.state_dict(), "_orig_mod.module."), "lr_scheduler": {}, "args": args}
        torch.save(wrapped if small else net.state_dict(), path)
        told = Told() if small else Told(model="torchvision:resnet18")  # their train.py says it
        model, parent = started(path, dataset, told)
        assert parent["network"]["arguments"].get("small_stem", False) == small
        x = torch.rand(3, 3, 32, 32)
        normalised = torchvision.transforms.functional.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        with torch.no_grad():
            torch.testing.assert_close(model(x), net.eval()(normalised), atol=1e-4, rtol=1e-4)
        assert layers.heads(model) == ["net.fc"] and "net.conv1" not in layers.adaptable(model)


def hugging_face(folder, kind, size=32, width=16):
    """A folder of a small network of transformers; the network."""
    names = {"id2label": {0: "ant", 1: "bee"}, "label2id": {"ant": 0, "bee": 1}}
    if kind == "vit":
        config = transformers.ViTConfig(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                        image_size=size, patch_size=8, **names)  # fmt: skip
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **names
        )
    torch.manual_seed(0)
    net = transformers.AutoModelForImageClassification.from_config(config)
    randomise(net)
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4] * 3, "image_std": [0.2] * 3}), encoding="utf-8"
    )
    return net.eval()


@pytest.mark.parametrize(
    ("kind", "adapted"), [("vit", ["net.vit.layers.1.attention.o_proj"]), ("resnet", None)], ids=["vit", "resnet"]
)
def test_a_folder_of_hugging_face(pictures, tmp_path, kind, adapted):
    folder, dataset = pictures
    net = hugging_face(tmp_path / "hf", kind)
    model, parent = started(tmp_path / "hf", dataset, Told())
    assert parent["network"]["name"] == f"hf:{kind}"
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net((x - 0.4) / 0.2).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="hf has no state dict 'model': leave --entry out"):
        originals.from_elsewhere(tmp_path / "hf", Told(entry="model"), dataset, True)
    found = layers.adaptable(model)
    assert found == adapted if adapted else all(".encoder." in name and "shortcut" not in name for name in found)
    start = ("--dataset", f"folder:{folder}", "--original", tmp_path / "hf", "--forget-file", ids(tmp_path), "--quiet")
    made = call(loraprune, *start, "--epochs", 1, "--weights", tmp_path)
    built = models.build(models.load_checkpoint(made), made)
    assert built(x).shape == (3, 2)
    (original, row) = rows_of(made, "--weights", tmp_path)
    assert (original["method"], row["method"]) == ("original", "loraprune")
    again = ("--data-of", made) if kind == "resnet" else ("--model", tmp_path / "hf")  # made again as a checkpoint says
    again = ("--dataset", f"folder:{folder}", *again, "--forget-file", ids(tmp_path), "--quiet")
    rate = models.load_checkpoint(call(retrain, *again, "--epochs", 1, "--weights", tmp_path))["config"]["lr"]
    assert rate == (0.001 if kind == "vit" else 0.1)
    assert "mean" in rows_of(made, "--weights", tmp_path, beneath=False)[-1]["metrics"]["gap"]
    assert call(retrain, *again, "--epochs", 1, "--weights", tmp_path).exists()  # there already
    if kind == "vit":  # another network of the same name
        hugging_face(tmp_path / "hf", kind, width=24)
        with pytest.raises(UserError, match="made with other settings"):
            call(retrain, *again, "--epochs", 1, "--weights", tmp_path)
        hugging_face(tmp_path / "hf", kind)
    if kind == "vit":
        with pytest.raises(UserError, match="was trained on images of 32 pixels, these have 16: give --img-size 32"):
            originals.from_elsewhere(tmp_path / "hf", Told(), data.load(f"folder:{folder}", img_size=16), True)


def ids(folder):
    """A file that names one image."""
    (folder / "ids.txt").write_text("1", encoding="utf-8")
    return folder / "ids.txt"


def test_classes_in_another_order_or_number_are_refused(pictures, tmp_path):
    _, dataset = pictures
    hugging_face(tmp_path / "hf", "resnet")
    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"id2label": {"0": "bee", "1": "ant"}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"numbers its classes otherwise: its class 0 is bee, that of this \S+ is ant"):
        originals.from_elsewhere(tmp_path / "hf", Told(), dataset, True)
    state = resnet_keys(their_resnet().state_dict())
    torch.save(state, tmp_path / "resnet10.pth")
    with pytest.raises(UserError, match=r"knows 10 classes, and this .* has 2"):
        originals.from_elsewhere(tmp_path / "resnet10.pth", Told(), dataset, True)
    net = timm.create_model("test_resnet", num_classes=10)
    torch.save(net.state_dict(), tmp_path / "ten.pth")
    with pytest.raises(UserError, match=r"\(10, .*in the file and \(2, .*other classes, channels or --model"):
        originals.from_elsewhere(tmp_path / "ten.pth", Told(model="timm:test_resnet"), dataset, True)


def test_a_wrong_image_size_is_refused(tmp_path):
    folder_of_images(tmp_path / "ten", classes=[f"c{i}" for i in range(10)])
    torch.save({"state_dict": TheirViT().state_dict()}, tmp_path / "basevit10.tar")
    dataset = data.load(f"folder:{tmp_path / 'ten'}", img_size=16)
    with pytest.raises(UserError, match="was trained on images of 32 pixels, these have 16: give --img-size 32"):
        originals.from_elsewhere(tmp_path / "basevit10.tar", Told(), dataset, True)
    with pytest.raises(UserError, match="these have 8: give --input-size 32 to let the network"):  # of which no file says it
        originals.from_elsewhere(tmp_path / "basevit10.tar", Told(), data.load("digits"), True)
    positions = timm.create_model("test_vit", img_size=32, num_classes=10)
    torch.save(positions.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"pos_embed is .* another image size"):
        originals.from_elsewhere(
            tmp_path / "vit.pth", Told(model="timm:test_vit"), data.load(f"folder:{tmp_path / 'ten'}", img_size=64), True
        )


def test_chance_is_warned_about(theirs, tmp_path, capsys):
    """As when the file numbers its classes in another order."""
    folder, net = theirs
    torch.save(
        {name: value.roll(3, 0) if "4." in name else value for name, value in net.state_dict().items()}, tmp_path / "x"
    )
    start = (*WHERE, "--weights", tmp_path, "--original", tmp_path / "x", *own(folder), *ENOUGH, "--forget-class", 3)
    call(finetune, *start, "--epochs", 1)
    said = capsys.readouterr().err
    assert "knows no more than chance" in said and "other --mean and --std" in said


def test_what_is_no_network(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("[]", encoding="utf-8")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / "bad.safetensors").write_bytes(b"\x01\x02")
    torch.save({"weights": 3}, tmp_path / "none.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"left": {"w": torch.ones(1)}, "right": {"w": torch.ones(1)}}, tmp_path / "two.pth")
    for name, message in {
        "empty": "neither a timm architecture nor a model type",
        "odd": "no image classifier of Hugging Face",
        "bad.safetensors": "not a readable safetensors file",
        "gone.safetensors": "no file",
        "none.pth": "neither a checkpoint of this project nor a state dict",
        "list.pth": "holds list, not a state dict",
        "two.pth": "several state dicts, left, right: name one with --entry",
    }.items():
        with pytest.raises(UserError, match=message):
            foreign.read(tmp_path / name)


def test_flags_go_before_what_a_file_says(tmp_path):
    """LoRA-Unlearn's deviations are those of its unlearning scripts unless --std says otherwise."""
    folder_of_images(tmp_path / "ten", classes=[f"c{i}" for i in range(10)])
    dataset = data.load(f"folder:{tmp_path / 'ten'}")
    torch.save({"state_dict": TheirViT().state_dict()}, tmp_path / "basevit10.tar")
    for std in ([0.2471, 0.2435, 0.2616], [0.2023, 0.1994, 0.2010]):
        told = Told(constants=([0.5] * 3, std) if std[0] == 0.2023 else None)
        found = originals.from_elsewhere(tmp_path / "basevit10.tar", told, dataset, True)
        assert found["network"]["arguments"]["std"] == std


def test_no_code_of_a_folder_runs(tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to import it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    hugging_face(tmp_path / "hf", "vit")
    file = tmp_path / "hf" / "config.json"
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"}}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | own), encoding="utf-8")
    code = f"open({str(tmp_path / 'witness')!r}, 'w')\n"
    code += "from transformers import ViTConfig as C, ViTForImageClassification as M\n"
    (tmp_path / "hf" / "evil.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match="no image classifier of Hugging Face"):
        foreign.read(tmp_path / "hf")
    assert not (tmp_path / "witness").exists()


def test_one_file_read_in_two_ways_has_two_originals(theirs, tmp_path):
    """Each row is set against the network that it started from, whatever the order of the files."""
    folder, net = theirs
    state = net.state_dict()
    wrong = state | {name: state[name].roll(3, 0) for name in ("4.weight", "4.bias")}
    torch.save({"state_dict": state, "model_ema": wrong}, tmp_path / "x.pth")
    start = (*WHERE, "--original", tmp_path / "x.pth", *own(folder), *ENOUGH, "--forget-class", 3, "--epochs", 1)
    a = call(finetune, *start, "--output", tmp_path / "a.pth")
    b = call(finetune, *start, "--entry", "model_ema", "--output", tmp_path / "b.pth")
    for files in ((a, b), (b, a)):
        rows = rows_of(*files, "--weights", tmp_path, *own(folder), beneath=False)
        low, high = sorted(row["metrics"]["RA"]["mean"] for row in rows if row["method"].startswith("original"))
        assert low < 20 < 80 < high


def test_rows_of_several_originals_of_others_are_called_by_their_files(theirs, tmp_path):
    """By their paths where two files have one name; what was made from them says so too."""
    folder, net = theirs
    given = ("--weights", tmp_path, *own(folder), "--dataset", "digits", "--forget-class", 3)
    for place, scale in (("a/net.pth", 1.0), ("b/net.pth", 0.5), ("other.pth", 0.25)):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        torch.save({name: scale * value for name, value in net.state_dict().items()}, tmp_path / place)
    files = [tmp_path / "a/net.pth", tmp_path / "other.pth"]
    rows = rows_of(*files, *given, beneath=False)
    assert [row["method"] for row in rows] == ["original --original net.pth", "original --original other.pth"]
    rows = rows_of(*files, tmp_path / "b/net.pth", *given, beneath=False)
    assert {f"original --original {tmp_path / place}" for place in ("a/net.pth", "b/net.pth")} < {r["method"] for r in rows}
    start = (*WHERE, *own(folder), *ENOUGH, "--weights", tmp_path, "--epochs", 1, "--forget-class", 3, "--original")
    made = [call(finetune, *start, path) for path in files]
    rows = rows_of(*made, "--weights", tmp_path, *own(folder), beneath=False)
    assert {row["method"].partition("finetune ")[2] for row in rows if "finetune" in row["method"]} == {
        "from original --original net.pth",
        "from original --original other.pth",
    }


def test_the_adapter_of_ones_own_network_fits_what_the_function_makes(theirs, tmp_path):
    """By PEFT alone, as docs/usage.md says, without this project."""
    folder, net = theirs
    start = (*WHERE, *own(folder), *ENOUGH, "--weights", tmp_path, "--epochs", 1, "--forget-class", 3)
    made = call(lora, *start, "--original", folder / "net.pth")
    plain = OwnNetwork.parse(own(folder)[1]).create(num_classes=10, in_chans=1)
    plain.load_state_dict(torch.load(folder / "net.pth"))
    adapted = peft.PeftModel.from_pretrained(plain, str(made).replace(".pth", "_adapter")).eval()
    x = torch.rand(3, 1, 8, 8)
    merged = models.build(models.load_checkpoint(made), made, OwnNetwork.parse(own(folder)[1]))
    with torch.no_grad():
        torch.testing.assert_close(adapted((x - 0.5) / 0.5), merged(x), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(net.eval()((x - 0.5) / 0.5), merged(x), atol=1e-4, rtol=1e-4)


def test_rows_that_differ_in_their_origin_alone_say_the_origin(theirs, tmp_path):
    """What one was told of the network, and the other has read off a checkpoint, is the same network."""
    folder, _ = theirs
    where = (*WHERE, *own(folder), "--weights", tmp_path, "--epochs", 1, "--forget-class", 3)
    told = ("--original", folder / "net.pth", "--mean", 0.5, "--std", 0.5, "--head", "4", "--input-size", 8)
    before = call(finetune, *where, *told)
    made = [call(lora, *where, *told), call(lora, *where, "--original", before)]
    given = ("--weights", tmp_path / "nowhere", *own(folder))
    names = [row["method"] for row in rows_of(*made, *given, beneath=False)]
    assert [name for name in names if "lora" in name] == ["lora from original", "lora from finetune"]
    made.append(call(lora, *where, *told, "--std", 0.25))  # that is another network, whatever it started from
    names = [row["method"] for row in rows_of(*made[::2], *given, beneath=False) if "lora" in row["method"]]
    assert names == ["lora --std 0.5", "lora --std 0.25"]


def test_the_file_of_ones_own_network_is_part_of_what_a_run_is(theirs, tmp_path, capsys):
    """Changed, it makes another network: nothing finished is taken for it, nor averaged with it."""
    code = tmp_path / "net.py"
    code.write_text(CODE, encoding="utf-8")
    start = (*WHERE, "--weights", tmp_path, *own(tmp_path), "--epochs", 1)
    call(pretrain, *start)
    assert call(pretrain, *start).exists()  # there already
    code.write_text(CODE.replace("nn.ReLU(),", "nn.GELU(),", 1), encoding="utf-8")
    code_, line = one_line(pretrain, capsys, *start)
    assert code_ == 2 and "made with other settings" in line


def test_a_file_may_import_what_lies_beside_it(tmp_path):
    """Though this project has modules of the same names."""
    (tmp_path / "models.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "net.py").write_text("from models import small", encoding="utf-8")
    net = OwnNetwork.parse(f"{tmp_path / 'net.py'}:small").create(num_classes=10, in_chans=1)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    late = "def small():\n    from models import small as made\n    return made(10, 1)"
    (tmp_path / "late.py").write_text(late, encoding="utf-8")
    assert OwnNetwork.parse(f"{tmp_path / 'late.py'}:small").create()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    import models as again

    assert again is models


def test_inputs_are_not_replaced(theirs, tmp_path, capsys):
    folder, _ = theirs
    original = tmp_path / "net.pth"
    original.write_bytes((folder / "net.pth").read_bytes())
    start = (
        *WHERE,
        "--original",
        original,
        *own(folder),
        *ENOUGH,
        "--forget-class",
        3,
        "--epochs",
        1,
        "--overwrite",
        "--output",
    )
    code, line = one_line(finetune, capsys, *start, original)
    assert code == 2 and "is the file that --original names" in line
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    before = (tmp_path / "picture.png").read_bytes()
    assert one_line(finetune, capsys, *start, tmp_path / "picture.png")[0] == 2
    assert (tmp_path / "picture.png").read_bytes() == before


def test_the_original_of_a_folder_that_was_called_otherwise_is_found(tmp_path):
    folder_of_images(tmp_path / "old")
    size = ("--img-size", 8, "--model", "resnet8", "--weights", tmp_path, "--epochs", 1, "--quiet")
    original = call(pretrain, "--dataset", f"folder:{tmp_path / 'old'}", *size)
    (tmp_path / "old").rename(tmp_path / "new")
    path = call(finetune, "--dataset", f"folder:{tmp_path / 'new'}", *size, "--forget-count", 1)
    assert models.load_checkpoint(path)["parent"] == originals.digest_of(original)


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    """transformers would make a random one."""
    net = hugging_face(tmp_path / "hf", "vit")
    net.vit.save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match=r"it lacks 2 tensors \(classifier.bias, classifier.weight"):
        foreign.read(tmp_path / "hf")


STATE = {"fc.weight": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"arch": "mobilenet_v2", "best_acc1": 1.0}, "torchvision:mobilenet_v2"),
        ({"arch": "vgg16", "best_acc1": 1.0}, "torchvision:vgg16"),  # timm's has other names
        ({"arch": "vgg16", "version": 2}, "timm:vgg16"),
        ({"arch": "test_vit"}, "timm:test_vit"),
        ({"arch": "mine"}, None),
        ({"args": argparse.Namespace(model="test_vit"), "lr_scheduler": {}}, "timm:test_vit"),  # DeiT, MAE
        ({"args": argparse.Namespace(model="vgg16"), "lr_scheduler": {}}, "torchvision:vgg16"),
        ({"args": argparse.Namespace(model="mine"), "lr_scheduler": {}}, None),
    ],
)
def test_whose_network_a_training_scripts_file_is_of(tmp_path, content, name):
    torch.save({"state_dict": STATE} | content, tmp_path / "x.pth")
    assert foreign.read(tmp_path / "x.pth").name == name
    assert foreign.read(tmp_path / "x.pth", model="net.py:mine").name in (None, "net.py:mine")


def test_names_like_lora_unlearns(pictures, tmp_path):
    """Its ResNet-50 has names that many CIFAR networks have; --model says whose code it is, and it is read as it stands."""
    state = {name: torch.zeros(()).expand(value.shape) for name, value in their_resnet().state_dict().items()}
    usual = resnet_keys(state)
    path = tmp_path / "x.pth"

    def found(state, model=None):
        torch.save(state, path)
        return foreign.read(path, model=model)

    assert found(usual).name == found(usual, "resnet50").name == "resnet50"
    deeper = {name.replace("layer3.5", "layer3.22"): value for name, value in usual.items() if "layer3.5" in name}
    assert found(usual | deeper).name is None  # ResNet-101
    assert found({name: value for name, value in usual.items() if not name.startswith("layer3.5")}).name is None
    wide = usual | {"layer1.0.conv2.weight": torch.zeros(()).expand(128, 128, 3, 3)}
    assert found(wide).name is None
    assert found(usual | {"layer4.2.conv3.weight": torch.zeros(()).expand(1024, 512, 1, 1)}).name is None
    assert found(usual | {"linear.weight": torch.zeros(())}).name is None
    layer = {"layer4.2.conv3.lora_A.default.weight": torch.zeros(1), "layer4.2.conv3.base_layer.weight": torch.zeros(1)}
    half = foreign.Found(foreign.LORA_UNLEARN, usual | layer, "net")
    model = nn.Sequential()
    model.net = nn.Linear(1, 1)
    with pytest.raises(UserError, match="that doesn't fit its network"):
        foreign.load(model, half, path)
    own = found(usual, "net.py:ResNet50")
    assert (own.kind, own.name, own.constants, own.classes, own.size, own.base) == ("a state dict", *[None] * 4, True)
    assert own.tensors.keys() == usual.keys()


@pytest.mark.parametrize("said", [{"format": "pt"}, {"format": 1}, {"format": 2, "config": {}, "seed": 0}])
def test_others_have_a_format_too(theirs, tmp_path, said):
    _, net = theirs
    torch.save(said | {"state_dict": net.state_dict()}, tmp_path / "x.pth")
    assert originals.is_elsewhere(tmp_path / "x.pth")
    ours = dict.fromkeys(("format", "network", "method", "config", "data", "seed"), 1)  # lacks its state_dict: damaged
    torch.save(ours, tmp_path / "ours.pth")
    assert not originals.is_elsewhere(tmp_path / "ours.pth")


WEIGHTS = {
    "quantised": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "4.bias is quantised"),
    "sparse": (lambda w: w.to_sparse(), "4.bias is sparse"),
    "meta": (lambda w: w.to("meta"), "4.bias is on the meta device"),
    "complex": (lambda w: w + 1j, "4.bias is of torch.complex64"),
    "whole": (lambda w: w.long(), "4.bias is of torch.int64"),
    "nan": (lambda w: w * torch.nan, "4.bias holds NaN"),
    "infinite": (lambda w: w.double() * 1e300, "4.bias holds infinity"),
}


@pytest.mark.parametrize("odd", WEIGHTS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_weights_that_are_no_numbers_for_it(theirs, tmp_path, odd):
    folder, net = theirs
    change, message = WEIGHTS[odd]
    state = dict(net.state_dict())
    found = foreign.Found("a state dict", state | {"4.bias": change(state["4.bias"])})
    model = nn.Sequential()
    model.net = originals.OwnNetwork.parse(f"{folder / 'net.py'}:small").create(num_classes=10, in_chans=1)
    with pytest.raises(UserError, match=message):
        foreign.load(model, found, tmp_path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mean": 3, "std": [1.0]}, "its mean is '3', not a list of numbers"),
        ({"mean": "abc", "std": "abc"}, "its mean is 'abc'"),
        ({"mean": [0.5], "std": [0.0]}, "its std is .0.0., and images are divided by it"),
        ({"mean": [float("nan")], "std": [1.0]}, "its mean is"),
        ({"mean": [10**400], "std": [1.0]}, "its mean is"),
        ({"model_kwargs": [1]}, "not names and values"),
        ({"model_kwargs": {"checkpoint_path": "x"}}, "nothing that a file may ask of timm"),
    ],
)
def test_odd_flags_in_a_file(tmp_path, said, message):
    torch.save({"arch": "test_vit", "args": argparse.Namespace(**said), "state_dict": STATE}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        foreign.read(tmp_path / "x.pth")


def test_flags_go_before_what_cant_be_read(pictures, tmp_path):
    """Constants of which a file says nothing that can be used, and arguments of a network that it isn't taken for."""
    told, dataset = Told(constants=([0.5] * 3, [0.25] * 3)), pictures[1]
    net = timm.create_model("test_resnet", num_classes=2)
    args = argparse.Namespace(mean="odd", std=[0.0], model_kwargs={})
    torch.save({"arch": "test_resnet", "args": args, "state_dict": net.state_dict()}, tmp_path / "x.pth")
    save_file(net.state_dict(), timm_config(tmp_path / "timm", architecture="test_resnet", mean="odd", std=[0.0])
              / "model.safetensors")  # fmt: skip
    hugging_face(tmp_path / "hf", "resnet")
    (tmp_path / "hf" / "preprocessor_config.json").write_text('{"do_rescale": false}', encoding="utf-8")
    for name in ("x.pth", "timm", "hf"):
        parent = originals.from_elsewhere(tmp_path / name, told, dataset, True)
        arguments = parent["network"]["arguments"]
        assert (arguments["mean"], arguments["std"]) == told.constants
        again = originals.rebuilt(tmp_path / name, parent["network"], None, None)
        assert models.moved(parent["state_dict"], again.state_dict()) == 0
        with pytest.raises(UserError, match=r"its mean is 'odd'|aren't in \[0, 1\]"):
            originals.from_elsewhere(tmp_path / name, Told(), dataset, True)
    args = argparse.Namespace(model_kwargs={"checkpoint_path": "x"})
    torch.save({"arch": "test_vit", "args": args, "state_dict": net.state_dict()}, tmp_path / "x.pth")
    found = foreign.read(tmp_path / "x.pth", model="timm:test_resnet")
    assert (found.name, found.arguments) == (None, {})


def timm_config(folder, **said):
    """A folder of timm whose config.json says these things."""
    folder.mkdir(exist_ok=True)
    save_file(STATE, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit"} | said), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pretrained_cfg": "x"}, "pretrained_cfg is 'x'"),
        ({"model_args": [1]}, "not names and values"),
        ({"pretrained_cfg": {"input_size": 8}}, "input_size is '8'"),
        ({"pretrained_cfg": {"input_size": [3, 8, 16]}}, "this project's are square"),
        ({"mean": "abc", "std": [1.0]}, "its mean is 'abc'"),
        ({"mean": [None] * 3, "std": [1.0] * 3}, "its mean is"),
        ({"label_names": [["a"], "b"]}, "label_names are no list of names"),
        ({"label_names": "ab"}, "label_names are no list of names"),
        ({"model_args": {"pretrained": True}}, "pretrained='True' is nothing that a file may ask"),
        ({"model_args": {"pretrained_cfg_overlay": "x"}}, "nothing that a file may ask"),
        ({"model_args": {"checkpoint_path": "x"}}, "nothing that a file may ask"),
        ({"model_args": {"cache_dir": "x"}}, "nothing that a file may ask"),
        ({"model_args": {"act_layer": "/root/x"}}, "nothing that a file may ask"),
        ({"model_args": {"act_layer": ["a", ["x.pth"]]}}, "nothing that a file may ask"),
        ({"model_args": {"block": {"file": "x"}}}, "nothing that a file may ask"),
    ],
)
def test_odd_configurations_of_timm(tmp_path, said, message):
    with pytest.raises(UserError, match=message):
        foreign.read(timm_config(tmp_path / "timm", **said))


def test_harmless_arguments_of_timm(tmp_path):
    given = {"depth": 2, "act_layer": "gelu", "qkv_bias": True, "layers": [1, [2]], "fc_norm": None, "in_chans": 1}
    found = foreign.read(timm_config(tmp_path / "timm", model_args=given))
    assert found.arguments == {"model_args": {name: value for name, value in given.items() if name != "in_chans"}}


def test_what_prepares_images_for_hugging_face(tmp_path):
    hugging_face(tmp_path / "hf", "vit")
    config, file = tmp_path / "hf" / "config.json", tmp_path / "hf" / "preprocessor_config.json"
    known = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(known | {"image_size": [32, 32]}), encoding="utf-8")
    right = {
        '{"image_mean": 0.5, "image_std": 0.25}': ([0.5], [0.25]),
        '{"do_normalize": false, "image_mean": [0.5], "image_std": [0.5]}': ([0.0], [1.0]),
        '{"rescale_factor": 0.00392156862745098}': None,
    }
    for text, constants in right.items():
        file.write_text(text, encoding="utf-8")
        found = foreign.read(tmp_path / "hf")
        assert found.constants == constants and found.size == 32
    wrong = {"[1]": "is list", "{": "can't be read", '{"do_rescale": false}': r"aren't in \[0, 1\]",
             '{"rescale_factor": 1}': r"aren't in \[0, 1\]", '{"image_mean": "x", "image_std": 1}': "its mean"}  # fmt: skip
    for text, message in wrong.items():
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            foreign.read(tmp_path / "hf")


def test_a_folders_digest_is_of_its_files(tmp_path):
    folder = timm_config(tmp_path / "timm")
    before = originals.digest_of(folder)
    (folder / "sub.json").mkdir()
    (folder / "gone.bin").symlink_to(tmp_path / "nowhere")
    assert originals.digest_of(folder) == before
    (folder / "new.json").write_text("{}", encoding="utf-8")
    assert originals.digest_of(folder) != before


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        (("Ant", "Bee"), ("ant", "bee"), True),
        (("Bee", "ant"), ("ant", "bee"), False),
        (("bee", "fly", "ant"), ("ant", "fly", "wasp"), False),  # one of them alone
        (("a", "A"), ("A", "a"), False),
        (("crane", "fly", "crane"), ("crane", "fly", "crane2"), True),  # as in ImageNet
        (("0", "1", "2"), ("1", "2", "3"), True),  # LoRA-Unlearn's have no names
        (("1", "0"), ("0", "1"), False),
    ],
)
def test_names_of_classes(tmp_path, theirs, ours, fits):
    found = foreign.Found("a folder of timm", STATE, classes=theirs)
    images = originals.Images(3, 8, ours, ([0.5], [0.5]), "these")
    if fits:
        originals._check_classes(found, tmp_path, images)
    else:
        with pytest.raises(UserError, match="numbers its classes otherwise: its class"):
            originals._check_classes(found, tmp_path, images)


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_the_card_of_an_adapter_says_how_it_is_used(theirs, pictures, tmp_path, monkeypatch, kind):
    """Its original is no checkpoint of this project: the lines read it as this project does."""
    folder, _ = theirs
    if kind == "timm":
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=2)
        randomise(net)
        torch.save({"a": net.state_dict(), "b": net.state_dict()}, tmp_path / "x.pth")
        told = ("--dataset", f"folder:{pictures[0]}", "--model", "timm:test_resnet", "--entry", "b", "--forget-file")
        start = (*told, ids(tmp_path), "--original", tmp_path / "x.pth", "--quiet", "--epochs", 1)
    else:
        start = (*WHERE, "--original", folder / "net.pth", *own(folder), *ENOUGH, "--forget-class", 3, "--epochs", 1)
    made = call(lora, *start, "--weights", tmp_path / "made")
    again = call(lora, *WHERE[:2], *own(folder), "--original", made, "--forget-class", 4, "--epochs", 1, "--output",
                 tmp_path / "again.pth") if kind == "own" else None  # fmt: skip
    (place,) = (tmp_path / "made").glob("*_adapter")
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "what others have trained" in card and originals.digest_of(start[start.index("--original") + 1]) in card
    if again:
        card_again = (tmp_path / "again_adapter" / "README.md").read_text(encoding="utf-8")
        assert "what others have trained" not in card_again  # its original is a checkpoint of this project
    shutil.copy(tmp_path / "x.pth" if kind == "timm" else folder / "net.pth", place.parent / "ORIGINAL.pth")
    shutil.copy(folder / "net.py", place.parent)
    monkeypatch.chdir(place.parent)
    given = {"images": torch.rand(2, 3, 32, 32) if kind == "timm" else torch.rand(2, 1, 8, 8)}
    exec(lines_of(card), given)
    model = models.build(models.load_checkpoint(made), made, originals.OwnNetwork.parse(own(folder)[1]))
    torch.testing.assert_close(given["logits"], model(given["images"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("said", [{"input_size": [1, 32, 32]}, {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.2]}])
def test_a_folder_of_one_channel_alone(tmp_path, said):
    net = timm.create_model("test_resnet", num_classes=2, in_chans=1).eval()
    folder = timm_config(
        tmp_path / "timm",
        architecture="test_resnet",
        pretrained_cfg=said,
        model_args={"in_chans": 1},
        label_names=["a", "b"],
    )
    save_file(net.state_dict(), folder / "model.safetensors")
    model, x = models.build(originals.alone(folder, Told())), torch.rand(2, 1, 32, 32)
    normalised = (x - model.get_buffer("normalize.mean")) / model.get_buffer("normalize.std")
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(normalised))


def test_a_hugging_face_folder_of_one_channel_alone(tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_channels=1,
                                       image_size=32)  # fmt: skip
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": 0.25, "image_std": 0.5}', encoding="utf-8")
    found = originals.alone(tmp_path, Told())["network"]["arguments"]
    assert (found["in_chans"], found["mean"], found["std"]) == (1, [0.25], [0.5])


def test_weights_in_half_precision_train_in_full(tmp_path):
    net = hugging_face(tmp_path / "hf", "vit").half()
    net.save_pretrained(tmp_path / "hf")
    model = models.build(originals.alone(tmp_path / "hf", Told()))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_both_heads_of_a_distilled_network_of_hugging_face(pictures):
    _, dataset = pictures
    config = transformers.DeiTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                     image_size=32, patch_size=16, num_labels=2)  # fmt: skip
    config.architectures = ["DeiTForImageClassificationWithTeacher"]
    of = {"in_chans": 3, "num_classes": 2, "img_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    model = models.create("hf:deit", **of, config=config.to_diff_dict() | {"model_type": "deit"})
    randomise(model.net)
    originals.described(model, "hf:deit", Told(), dataset)
    assert layers.heads(model) == ["net.cls_classifier", "net.distillation_classifier"]


def test_a_damaged_file_that_nobody_named_stops_no_run(tmp_path):
    (tmp_path / "digits_resnet8_original_s0.pth").write_bytes(b"half")
    network = {"name": "resnet8", "arguments": {"mean": [0.5], "std": [0.5]}}
    assert originals.other_constants(network, tmp_path, "digits") is None


def test_an_original_that_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path, monkeypatch):
    """Its digest is that of its weights."""
    of = ("--dataset", "digits", "--subset", 120)
    path = call(pretrain, *of, "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    before, checked = originals.digest_of(path), models.checked

    def replacing(content, where):
        write_torch(where, content | {"seed": 1})
        return checked(content, where)

    monkeypatch.setattr(models, "checked", replacing)
    args = finetune.parser().parse_args([*map(str, of), "--original", str(path)])
    found = originals.read(args, Told(), data.load("digits", subset=120))
    assert (found["seed"], found["sha256"]) == (0, before) and originals.digest_of(path) != before
