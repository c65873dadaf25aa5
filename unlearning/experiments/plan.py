"""The rows of all tables, and the runs that they take: which script, with which flags, in which order."""

import importlib
import shlex
from collections import namedtuple
from pathlib import Path

import data
import models
from unlearning.core.errors import UserError
from unlearning.core.flags import CACHE_MIB
from unlearning.reports import results

ONE = "one-prompt"  # the system of one part: no clusters
# One line for each row: its label, its script, its flags, and its numbers of epochs if they aren't the preset's (None: the
# script's own); tuned: at how many its rate is chosen (None: the first of them). A new method is one new file and a line.
Method = namedtuple("Method", "script flags epochs tuned", defaults=((), None, None))
METHODS = {
    "original": Method("pretrain"),
    "retrain": Method("retrain"),
    "mask": Method("baselines.control", ("--kind", "mask"), (None,)),
    "zero-row": Method("baselines.control", ("--kind", "zero-row"), (None,)),
    "head-only": Method("baselines.control", ("--kind", "head-only")),
    "finetune": Method("finetune"),
    "pruneft": Method("pruneft"),
    "lora": Method("lora"),
    "loraprune": Method("loraprune"),
    "loraprune --regrow": Method("loraprune", ("--regrow",)),
    "loraprune --prune-head": Method("loraprune", ("--prune-head",)),
    "gradascent": Method("baselines.gradascent", (), (1,)),
    "gradascent --retain-weight 0.9": Method("baselines.gradascent", ("--retain-weight", "0.9"), (1,)),
    "randomlabel": Method("baselines.randomlabel"),
    "randomlabel --saliency 0.5": Method("baselines.randomlabel", ("--saliency", "0.5")),
    "badteacher": Method("baselines.badteacher"),
    "rfau": Method("rfau", (), (1, 2, 5, 20), 5),
    "rfau --shift unseen": Method("rfau", ("--shift", "unseen"), (1, 20)),
    "rfau --shift mean": Method("rfau", ("--shift", "mean"), (1,)),
    "rfau --shift head": Method("rfau", ("--shift", "head"), (1,)),
    ONE: Method("lmeraser", ("--parts", "1")),
    **{f"lmeraser --parts {k}": Method("lmeraser", ("--parts", str(k))) for k in (10, 50, 100, 200)},
    **{
        f"lmeraser --parts {k} --linkage ward": Method("lmeraser", ("--parts", str(k), "--linkage", "ward"))
        for k in (100, 200)
    },
    **{f"sisa --parts {k}": Method("baselines.sisa", ("--parts", str(k))) for k in (5, 20, 100)},
}
# The rows of the tables. PLAIN has neither the controls that edit a class's row nor PruneLoRA's variants.
PLAIN = ("original", "retrain", "head-only", "finetune", "pruneft", "lora", "loraprune")
ALWAYS = ("original", "corrupted", "retrain", ONE)  # rows that others are measured by
ONLY_CLASSES, ONLY_IMAGES = ("mask", "zero-row"), ("rfau --shift unseen",)
CONTROL = "baselines.control"
# Networks that start from weights of other data: their flags for pretrain and retrain.
START = {models.EFFICIENTNET: ["--pretrained", "--input-size", "48", "--lr", "0.01"]}
# Flags of this script that are handed on where they differ from the scripts' default.
HANDED_ON = {
    "data_dir": Path("data"),
    "img_size": 32,
    "test_subset": None,
    "subset": None,
    "validation": 0.0,
    "device": "auto",
    "precision": None,
}


def plan(config, methods, forget, rates=lambda network, method: (None,)):
    """The runs of a table, originals first: a list of (script module, argument list for its parser).

    methods: keys of METHODS. forget: the flags that name the forget set. rates: function of a network and a key of METHODS,
    the learning rates to run it with, None for the script's own; with several, only one number of epochs is run, `tuned`.
    """
    preset = config.sizes
    runs = []
    for seed in range(config.seeds):
        for network in config.model or preset["model"]:
            common = ["--model", network, *handed_on(config, seed)]
            common += ["--cache", str(config.cache)] if config.cache != CACHE_MIB else []
            from_start = scratch(preset, network)
            for method in methods:
                script, flags, epochs, tuned = METHODS[method]
                if method == "original":
                    runs.append((script, common + from_start))
                elif method == "retrain":
                    runs.append((script, common + forget + from_start))
                else:
                    chosen = [["--lr", rate] if rate else [] for rate in rates(network, method)]
                    lengths_run = epochs or preset["epochs"]
                    if len(chosen) > 1:
                        lengths_run = [tuned or lengths_run[0]]
                    runs += [
                        (script, common + forget + (["--epochs", str(n)] if n else []) + rate + list(flags))
                        for n in lengths_run
                        for rate in chosen
                    ]
    return runs


def handed_on(config, seed):
    """The flags that all scripts of a table share."""
    flags = ["--dataset", config.dataset, "--seed", str(seed), "--weights", str(weights(config))]
    for flag, default in HANDED_ON.items():
        if getattr(config, flag) != default:
            flags += [f"--{flag.replace('_', '-')}", str(getattr(config, flag))]
    return flags + (["--quiet"] if config.quiet else [])


def scratch(preset, network):
    """The flags with which a preset trains a network from its start."""
    lengths = dict(zip(preset["model"], preset["pretrain"], strict=True))
    epochs = ["--epochs", str(lengths[network])] if network in lengths else []
    return epochs + START.get(network, []) + preset.get("scratch", {}).get(network, [])


def weights(config):
    """The folder of a table's checkpoints, apart from those that other presets make of the same names."""
    return Path("model_weights") / name(config)


def name(config):
    """The table's name, which is its files' name: prunelora-quick, prunelora-small-cifar10 ..."""
    share = f"-share{config.share:g}" if config.share != 0.1 else ""
    dataset = "" if config.dataset == "fashion-mnist" else "-" + Path(config.dataset).name
    return f"{config.table}-{config.preset}{share}{dataset}"


def run_all(runs):
    """Run what is missing and return the checkpoints' paths, in order."""
    paths = {}
    for place in execution_order(runs):
        name, arguments = runs[place]
        script = importlib.import_module(name)
        config = script.parser().parse_args(arguments)
        config.command = command(name, arguments)
        config.reuse = True
        paths[place] = script.run(config)
    return [paths[place] for place in range(len(runs))]


def command(script, arguments):
    """What a user types to run the script of this name: `python lora.py ...`, `python -m baselines.control ...`."""
    return shlex.join(["python", *(["-m", script] if "." in script else [f"{script}.py"]), *arguments])


def execution_order(runs):
    """The positions of `runs` in the order to run them: controls after the other methods of their network and seed, for what
    head-only needs is made from what LoRA has kept, but not the other way round."""
    if not any(script == CONTROL for script, _ in runs):
        return list(range(len(runs)))
    groups = {}
    for place, (_, arguments) in enumerate(runs):
        key = tuple(arguments[arguments.index(flag) + 1] for flag in ("--model", "--seed"))
        groups.setdefault(key, []).append(place)
    return [place for group in groups.values() for place in sorted(group, key=lambda place: runs[place][0] == CONTROL)]


def chosen(config, methods):
    """Those of the table's `methods` that --methods asks for, with those that they are measured by in any case."""
    wrong = [m for m in config.methods or [] if m not in methods]
    if wrong:
        raise UserError(f"{config.table} has no row {wrong[0]!r}; there are {', '.join(methods)}")
    return [m for m in methods if m in ALWAYS or m in (config.methods or methods)]


def both_ways(config, methods, rates=None):
    """The runs of `methods` for class and for random forgetting, or what --only says of these; the originals serve both.
    rates: function of the forget set's tag, giving what `plan` wants."""
    runs = []
    for kind, impossible, flags in (
        ("class", ONLY_IMAGES, class_flags(config)),
        ("images", ONLY_CLASSES, ["--forget-random", str(config.share)]),
    ):
        if config.only not in (None, kind):
            continue
        possible = [method for method in methods if method not in impossible]
        planned = plan(config, possible, flags, *([rates(forget_tags(config)[kind])] if rates else []))
        runs += [run for run in planned if run not in runs]
    return runs


def forget_tags(config):
    """The names of the two kinds of forget sets."""
    return {"class": data.tag_of_classes(config.forget_class), "images": data.tag_of_share(config.share)}


def class_flags(config):
    return ["--forget-class", *map(str, config.forget_class)]


# For each table: its runs, its presets, how many seeds by default, what scores the checkpoints, how many rows from each.
Table = namedtuple("Table", "runs presets seeds score rows", defaults=(1,))


def check_nothing_is_lost(stem, config, runs, rows_each):
    """Raise UserError if results exist that hold more seeds, or more rows of what is asked for, than this would write."""
    path = Path(f"{stem}.json")
    if config.overwrite or not path.exists():
        return
    models = {Path(model).name for model in config.model or config.sizes["model"]}
    rows = [
        row
        for row in results.read(path)["rows"]
        if row["model"].split(",")[0] in models
        and (not config.only or row["forget"] == forget_tags(config)[config.only])
        and row["method"] != "original"  # one run, but a row for each forget set
    ]
    cells = len(getattr(config, "cells", []))  # each has a row more than runs: the base alone
    written = sum(script != "pretrain" for script, _ in runs) + cells
    if len(rows) > written // config.seeds * rows_each or max((row["n"] for row in rows), default=0) > config.seeds:
        raise UserError(f"{path} holds more rows or seeds than this would write: --overwrite, or --results elsewhere")
