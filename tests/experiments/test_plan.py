"""The rows of the tables, and the runs that they take."""

import importlib
import itertools

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import models
import reproduce
import retrain
from tests.exact.test_system import random_backbone
from tests.experiments.tables import SMALL, make, planned, request_of
from unlearning.core.errors import UserError
from unlearning.experiments import llmeraser, plan, prunelora
from unlearning.experiments.methods import FORGETS, METHODS, Method, rows_of
from unlearning.language.rows import Row, write_rows

METHOD = """
from functools import partial

import torch

from unlearning.core.flags import main, POSITIVE_FLOAT
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute


def unlearn(model, retain, forget, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=run.settings.lr * run.settings.strength)
    return run.fit(model, retain, optimizer)


def parser():
    parser = method_parser(__doc__, epochs=1, lr=0.01)
    parser.add_argument("--strength", type=POSITIVE_FLOAT, default=0.5, help="how strong")
    return parser


run = partial(execute, "mine", unlearn, parser)
"""


@pytest.mark.usefixtures("no_look_beneath")
def test_a_new_method_is_one_file_and_one_line(tmp_path, monkeypatch):
    """With a flag of its own; two lines with other values of it are two rows that say so, from two files."""
    (tmp_path / "mine.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for strength in ("0.1", "0.9"):
        monkeypatch.setitem(METHODS, f"mine --strength {strength}", Method("mine", ("--strength", strength)))
    names = ["mine --strength 0.1", "mine --strength 0.9"]
    for table in FORGETS:
        assert rows_of(table)[-2:] == names
    assert "mine --strength 0.1" not in rows_of("lmeraser")
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--seeds", "2", "--methods", *names)
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", *names]
    assert {row["n"] for row in result["rows"]} == {2}
    assert result["rows"][-1]["command"].startswith("python mine.py --model resnet8")
    files = sorted(path.name for path in tmp_path.glob("model_weights/prunelora-quick-digits/*mine*.pth"))
    assert len(files) == 4 and all(sum(f"strength-{s}_s" in file for file in files) == 2 for s in ("0.1", "0.9"))
    weak, strong = (row["metrics"]["activation_r"]["values"] for row in result["rows"][-2:])
    assert weak != strong


def test_a_method_is_a_row_where_it_fits():
    """Of every table in which it can forget, unless its line names some."""

    def tables(**line):
        return [table for table in FORGETS if Method("x", **line).fits(table)]

    assert tables() == list(FORGETS)
    assert tables(forgets="images") == ["random", "audit", "rfau", "tune"]
    assert tables(forgets="class") == [table for table in FORGETS if "class" in FORGETS[table]]
    assert tables(tables=("tune", "random"), forgets="class") == ["tune"]


# Rows of every table that forgets images.
LOSSES = "delete neglora neglora_--prune neglora_--bound_5 regun loraprune_--forget-loss_bounded "
LOSSES += "loraprune_--forget-loss_delete loraprune_--forget-loss_residual "
LOSSES += "loraprune_--amount_0.05_--forget-loss_delete"
# Baselines and controls of other papers: the last rows of each table that they fit.
ADDED = {
    "prunelora": "bias scrub ssd l1sparse negate randomlabel_--saliency_0.5_--random-mask",
    "random": "scrub ssd l1sparse negate randomlabel_--saliency_0.5_--random-mask",
    "tune": "scrub ssd l1sparse negate",
    "sequence": "scrub ssd l1sparse negate",
    "audit": "bias scrub ssd l1sparse negate",
    "rfau": "bias scrub ssd l1sparse negate randomlabel_--saliency_0.5_--random-mask",
}


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("prunelora", "original retrain mask zero-row head-only finetune pruneft lora loraprune loraprune_--regrow "
         "loraprune_--prune-head gradascent_--retain-weight_0.9 randomlabel_--saliency_0.5 rfau"),
        ("random", "original retrain head-only finetune pruneft lora loraprune gradascent_--retain-weight_0.9 "
         "randomlabel_--saliency_0.5 rfau"),
        ("tune", "original retrain head-only finetune pruneft lora loraprune gradascent gradascent_--retain-weight_0.9 "
         "randomlabel randomlabel_--saliency_0.5 badteacher rfau"),
        ("sequence", "original retrain head-only finetune pruneft lora loraprune"),
        ("audit", "original retrain mask head-only finetune pruneft lora loraprune"),
        ("rfau", "original retrain mask head-only finetune loraprune gradascent gradascent_--retain-weight_0.9 randomlabel "
         "randomlabel_--saliency_0.5 badteacher rfau rfau_--shift_unseen rfau_--shift_mean rfau_--shift_head"),
        ("lmeraser", "one-prompt lmeraser_--parts_10 lmeraser_--parts_50 lmeraser_--parts_100 lmeraser_--parts_200 "
         "lmeraser_--parts_100_--linkage_ward lmeraser_--parts_200_--linkage_ward "
         "lmeraser_--parts_1_--start_public_--head_ridge "
         "lmeraser_--parts_200_--linkage_ward_--start_public_--head_ridge_--nearest_10 sisa_--parts_5 sisa_--parts_20 "
         "sisa_--parts_100"),
    ],
)  # fmt: skip
def test_the_rows_of_each_table(table, rows):
    everywhere = LOSSES.split() if table in FORGETS else []
    rows = [*rows.split(), *ADDED.get(table, "").split(), *everywhere]
    assert rows_of(table) == [name.replace("_", " ") for name in rows]


@pytest.mark.parametrize(("table", "lengths"), [("prunelora", "5"), ("random", "5"), ("rfau", "1 2 5 20")])
def test_rfau_has_several_lengths_in_its_own_table_alone(table, lengths):
    kind = ("--only", "class") if table == "rfau" else ()
    runs = planned(table, "--methods", "rfau", "--seeds", "1", "--model", "resnet8", *kind)
    assert [words[words.index("--epochs") + 1] for script, words in runs if script == "rfau"] == lengths.split()


def test_methods_takes_the_names_that_tables_show():
    shown = ["DELETE", "salun", "NegGrad+", "NoT", "l1-sparse", "NegLoRA --prune", "lora"]
    keys = (
        "delete",
        "randomlabel --saliency 0.5",
        "gradascent --retain-weight 0.9",
        "negate",
        "l1sparse",
        "neglora --prune",
        "lora",
    )
    assert request_of("prunelora", "--methods", *shown).methods == keys
    for key in METHODS:
        assert request_of("rfau", "--methods", key).methods == (key,)


def test_a_network_from_elsewhere_is_called_as_its_file_calls_it(tmp_path):
    """As its rows will be: else these would be taken for another network's, and Retrain be made of this project's."""
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    file = {"model": state, "lr_scheduler": {}, "args": {"model": "resnet18"}}
    torch.save(file, tmp_path / "said.pth")
    torch.save({"average": state, "other": state}, tmp_path / "bare.pth")
    flags = ("prunelora", "--methods", "retrain", "lora", "--original", str(tmp_path / "said.pth"))
    for told in ((), ("--model", "resnet18"), ("--model", "torchvision:resnet18")):
        assert request_of(*flags, *told).networks == ("torchvision:resnet18",)
    assert all("torchvision:resnet18" in arguments for _, arguments in planned(*flags, "--model", "resnet18"))
    assert request_of(*flags, "--model", "resnet20").networks == ("resnet20",)  # which the first run refuses
    bare = ("prunelora", "--original", str(tmp_path / "bare.pth"), "--entry", "other")
    assert request_of(*bare, "--model", "resnet18").networks == ("resnet18",)
    with pytest.raises(UserError, match=r"bare.pth doesn't say which network it holds"):
        request_of(*bare)


def test_retrain_is_of_the_network_that_the_file_to_start_from_holds(tmp_path):
    """With what the command line, the checkpoint or the folder says of it; an original is never trained beside it."""
    torch.save({"a": {"fc.weight": torch.zeros(10, 512)}}, tmp_path / "bare.pth")
    own, folder = random_backbone(tmp_path / "own.pth"), tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    told = ("--mean", "0.5", "--std", "0.25", "--input-size", "64")
    bare = ("--original", str(tmp_path / "bare.pth"), "--model", "torchvision:resnet18", *told, "--entry", "a")
    for flags, model, said in (
        (bare, "torchvision:resnet18", [*told]),
        (("--original", str(own)), "resnet8", ["--data-of", str(own)]),
        (("--original", str(folder)), str(folder), []),
    ):
        for table, methods in (
            ("prunelora", ("original", "retrain", "lora")),
            ("sequence", ("retrain", "lora")),
            ("tune", ("lora",)),
        ):
            runs = planned(table, "--dataset", "cifar10", "--seeds", "1", "--methods", *methods, *flags)
            retrained = [words for script, words in runs if script == "retrain"]
            assert {script for script, _ in runs} == {"retrain", "lora"} and retrained
            for words in retrained:
                args = retrain.parser().parse_args(words)
                assert args.model == model and " ".join(said) in " ".join(words), (table, flags)
    lite = ("--original", str(tmp_path / "bare.pth"), "--model", models.EFFICIENTNET, "--input-size", "64")
    (words, _) = (words for _, words in planned("prunelora", "--methods", "retrain", "mask", "--seeds", "1", *lite))
    assert retrain.parser().parse_args(words).input_size == 64  # in the place of the preset's


def test_rows_that_only_leaves_out_are_named():
    """They would be missing from the table without a word."""
    for table, only, name in (
        ("rfau", "images", "mask"),
        ("audit", "images", "bias"),
        ("rfau", "class", "rfau --shift unseen"),
    ):
        flags = (table, "--model", "resnet8", "--methods", "finetune", name)
        assert plan.notes(request_of(*flags, "--only", only)) == [f"note: --only {only} leaves out {name}"]
        assert plan.notes(request_of(*flags)) == []


def test_rows_that_epochs_says_nothing_to_are_named():
    """With the lengths that they are run at; not what isn't trained, such as ssd, nor where nothing is asked for."""
    rows = ("--methods", "finetune", "rfau", "delete", "ssd", "gradascent --retain-weight 0.9")
    flags = (*rows, "--model", "resnet8")
    (line,) = plan.notes(request_of("prunelora", *flags, "--epochs", "3"))
    assert line == "note: --epochs says nothing to gradascent --retain-weight 0.9 (1), rfau (5), delete (20)"
    assert plan.notes(request_of("prunelora", *flags)) == []
    assert plan.notes(request_of("prunelora", "--methods", "lora", "--epochs", "3", "--model", "resnet8")) == []
    (line,) = plan.notes(request_of("rfau", "--epochs", "3", "--methods", "rfau", "--model", "resnet8"))
    assert line.endswith("nothing to rfau (1, 2, 5, 20)")


CALLED = {  # rows whose name says what they are, and not their flags
    "original": ("pretrain",),
    "one-prompt": ("lmeraser", "--parts", "1"),
    **{kind: ("control", "--kind", kind) for kind in ("mask", "zero-row", "bias", "head-only")},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_row_runs_what_its_name_says(name):
    """The script, and each flag with its value; no other flag."""
    method = METHODS[name]
    assert (method.script.split(".")[-1], *method.flags) == CALLED.get(name, tuple(name.split()))


@pytest.mark.parametrize("name", llmeraser.ROWS)
def test_a_row_of_llmerasers_table_runs_what_its_name_says(name):
    """The paper's solver at the damping that its page names; other methods by --method."""
    asked = {"corrupted": None, "llmeraser --solver adam": ("--solver", "adam", "--damping", "0.03", "--products", "120")}
    asked["sisa"] = None  # trainings alone
    usual = tuple(name.split()[1:]) if name.startswith("llmeraser") else ("--method", name)
    assert llmeraser.ROWS[name] == asked.get(name, usual)


# Of every script; the last two where each request has a file of its own.
COMMON = {
    *("model", "dataset", "seed", "weights", "subset", "retain-subset", "test-subset", "validation", "epochs", "lr"),
    *("output", "original"),
}


@pytest.mark.parametrize("table", FORGETS)
def test_a_row_is_run_with_its_own_flags_on_every_network_and_forget_set(table):
    for name in rows_of(table)[2:]:  # after original and retrain
        runs = planned(table, "--preset", "small", "--seeds", "1", "--methods", name)
        script, flags = METHODS[name].script, [*METHODS[name].flags]
        mine = [arguments for other, arguments in runs if other not in ("pretrain", "retrain")]
        assert {other for other, _ in runs} == {"pretrain", "retrain", script}, name
        assert all(arguments[len(arguments) - len(flags) :] == flags for arguments in mine), name
        shared = [arguments[: len(arguments) - len(flags)] for arguments in mine]
        request = request_of(table, "--preset", "small")
        tuned = METHODS[name].knobs if table == "tune" else ()
        words = {word for arguments in shared for word in arguments if word.startswith("--")}
        named = {word.removeprefix("--") for word in words.difference(tuned)}
        forgets = {word for word in named if word.startswith("forget-")}
        kinds = {"class": "forget-class", "images": "forget-random"}
        assert forgets == {kinds[kind] for kind in FORGETS[table] if METHODS[name].forgets in (None, kind)}, name
        assert named - forgets <= COMMON, name
        assert {arguments[arguments.index("--model") + 1] for arguments in mine} == {*request.networks}, name


def parts_of(script, words):
    """What a parser may refuse of a command: words before its flags, each flag with its values, which flags it has."""
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    flags = [tuple(words[start:end]) for start, end in itertools.pairwise([0, *starts, len(words)])]
    return {(script, frozenset(flag[:1] for flag in flags)), *((script, flag) for flag in flags)}


def test_every_preset_of_every_table_names_commands_that_parse(tmp_path, monkeypatch):
    """Each command but those that have nothing which one before them hadn't."""
    seen = 'This user has watched "A", "B", "C{}" in the previous.'
    rows = [Row(f"n{i}", (("user", seen.format(i)),), answer) for i, answer in enumerate(["Yes", "No"] * 20)]
    parsers, known = {}, set()
    monkeypatch.chdir(tmp_path)
    for name in (f"{task}-{part}" for task in llmeraser.KINDS for part in ("train", "validation", "test")):
        write_rows(tmp_path / f"data/llmeraser/{name}.jsonl", rows)  # MovieLens isn't there without a network
    for table in reproduce.TABLES:
        for preset in reproduce.table_of(table).presets:
            runs = planned(table, "--preset", preset, "--seeds", "1")  # the others differ in their seed alone
            assert len(runs) > 3
            for script, arguments in runs:
                if (parts := parts_of(script, arguments)) <= known:
                    continue
                if script not in parsers:
                    parsers[script] = importlib.import_module(script).parser()
                parsers[script].parse_args(arguments)
                known |= parts
