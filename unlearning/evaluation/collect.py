"""TODO unlearning.evaluation.collect."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

import data
import models
from unlearning.core.device import placed
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch
from unlearning.core.provenance import provenance
from unlearning.evaluation import network
from unlearning.exact import learners
from unlearning.exact.system import assemble
from unlearning.metrics import statistics
from unlearning.vision import feature_cache, pruning
from unlearning.vision.flags import data_arguments, load_data, load_data_by
from unlearning.vision.predict import predict
from unlearning.vision.published import from_published
from unlearning.vision.run import variant


def score_files(paths, config, beneath=True):
    """Score the files `paths`, all seeds of a method together: rows as report.py describes them.

    beneath: whether to look beneath the head as well, by a probe, relearning and a picture of the features.
    An original is scored on every forget set that the other files of its data and network bring, or on the one that the
    flags name. Raises UserError when a forget set is missing or contradicts the flags.
    """
    entries = [describe(path, config) for path in dict.fromkeys(map(Path, paths))]
    _name_rates(entries)
    for entry in entries:
        entry["forgets"] = forget_sets(entry, entries, config)
    entries += _companions(entries, config)
    scored, retrained, states = [], {}, [entry["tensors"] for entry in entries]
    for entry in sorted(entries, key=lambda entry: entry["method"] != "retrain"):  # others are measured from Retrain
        scored += _score_file(entry, retrained, states, config, beneath)
    anchors = {(row["method"], *_pair(row)): row for row in scored}
    for row in scored:
        network.compare(row, anchors.get(("original", *_pair(row))), anchors.get(("retrain", *_pair(row))))
    return _put_seeds_together(scored)


def describe(path, config):
    """What a file says about itself, without its weights."""
    content = _content(path)
    if not models.is_checkpoint(content):
        _, name = from_published(content, path)
        unknown = {"missing": "cost: LoRA-Unlearn's files don't say"}
        return {
            "path": path,
            "spec": None,
            "fingerprint": load_data(config).fingerprint,
            "private": None,
            "tensors": {},
            "model": name,
            "forget": [],
            "forget_tag": None,
            "method": f"published {path.name}",
            "rate": None,
            "epochs": None,
            "seed": 0,
            "command": f"LoRA-Unlearn's {path.name}",
            "cost": dict.fromkeys(("seconds", "memory_mib", "trainable", "steps", "moved"), unknown),
            "device": "unknown hardware",
        }
    checkpoint = models.checked(content, path)
    try:
        return _describe_own(path, checkpoint, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or not of this project ({type(error).__name__}: {error})") from None


def _content(path):
    """What a checkpoint's file holds, or a system's folder."""
    return assemble(path) if path.is_dir() else read_torch(path)


def _describe_own(path, checkpoint, config):
    settings, spec = checkpoint["config"], checkpoint["data"]
    return {
        "path": path,
        "spec": data_arguments(spec, config.data_dir),
        "fingerprint": spec["fingerprint"],
        "private": checkpoint.get("private"),
        "tensors": feature_cache.digests(checkpoint["state_dict"]),
        "model": learners.label(checkpoint["network"]),
        "forget": checkpoint["forget"],
        "forget_tag": checkpoint["forget_tag"],
        "method": " ".join([checkpoint["method"], *variant(settings | {"lr_given": False})]),
        "rate": settings["lr"],
        "epochs": settings["epochs"] if checkpoint["cost"]["trainable"] else None,
        "seed": checkpoint["seed"],
        "command": checkpoint["command"],
        "cost": checkpoint["cost"],
        "device": checkpoint["device"],
    }


def _name_rates(entries):
    """Add the learning rate to the method's name where a method comes with several."""
    alike = {}
    for entry in entries:
        key = (*_network(entry), entry["forget_tag"], entry["method"], entry["epochs"])
        alike.setdefault(key, []).append(entry)
    for group in alike.values():
        if len({entry["rate"] for entry in group}) > 1:
            for entry in group:
                entry["method"] += f" --lr {entry['rate']:g}"


def dataset_of(entry, config):
    """The data that a file was made with; of a system those that are private. Raises UserError when they have changed."""
    dataset = load_data(config) if entry["spec"] is None else load_data_by(*entry["spec"])
    if dataset.fingerprint != entry["fingerprint"]:
        raise UserError(f"{entry['path']} was made with other data than this {dataset.tag}: their fingerprints differ")
    if entry["private"] is not None:
        dataset = dataclasses.replace(dataset, train=dataset.train.take(entry["private"]))
    return dataset


def _score_file(entry, retrained, states, config, beneath):
    """One row for each forget set of the file. A Retrain's answers are left in `retrained` for the files after it.

    states: what frozen.digests says of every file.
    """
    dataset, content = dataset_of(entry, config), _content(entry["path"])
    if entry["spec"] is None:
        model, _ = from_published(content, entry["path"])
    else:
        model = (learners if entry["path"].is_dir() else models).build(content, entry["path"])
    size = {"zeros": pruning.zeros(model), "bytes": _bytes(entry["path"])}
    on_device = placed(model, config)
    feature_cache.share_between(model, entry["tensors"], states, dataset.train, on_device)
    logits = [predict(model, split, on_device) for split in (dataset.train, dataset.test)]
    rows = []
    for forget, tag in entry["forgets"]:
        row = {key: entry[key] for key in ("fingerprint", "model", "method", "epochs", "seed", "command", "device")}
        row |= {"dataset": dataset.tag, "forget": tag}
        found, row["curves"] = network.score(logits, dataset, forget, config.mia, config.every_attack)
        if entry["method"] == "retrain":
            retrained[_pair(row)] = logits[0]
        if _pair(row) in retrained:
            found |= network.distances(logits[0], retrained[_pair(row)], forget)
        if beneath:
            under, curves = network.beneath(model, dataset, forget, on_device)
            found |= under
            row["curves"] |= curves
        row["metrics"] = found | entry["cost"] | size
        rows.append(row)
    if not config.quiet:
        print(f"scored {entry['path']}", file=sys.stderr, flush=True)
    return rows


def _bytes(path):
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def forget_sets(entry, entries, config):
    """The forget sets (positions, tag) that a file is scored on."""
    ways = [getattr(config, f"forget_{way}", None) for way in ("class", "random", "file")]
    own = [(entry["forget"], entry["forget_tag"])] if len(entry["forget"]) else []
    if any(ways):
        wanted = data.forget_indices(dataset_of(entry, config).train, *ways)
        if own and not (len(own[0][0]) == len(wanted[0]) and (own[0][0] == wanted[0]).all()):
            raise UserError(f"{entry['path']} has forgotten {entry['forget_tag']}, not {wanted[1]}")
        own = [wanted]
    alike = [e for e in entries if len(e["forget"]) and _network(e) == _network(entry)]
    forgets = own or list({e["forget_tag"]: (e["forget"], e["forget_tag"]) for e in alike}.values())
    if not forgets:
        raise UserError(f"{entry['path']} doesn't say what to forget: give --forget-class, or unlearned files as well")
    return forgets


def _companions(entries, config):
    """Original and Retrain, from --weights, of every network, forget set and seed that the files have and these lack."""
    have = {(e["method"], *_network(e), e["seed"], tag) for e in entries for _, tag in e["forgets"]}
    wanted = {(*_network(e), e["seed"], tag): (forget, tag) for e in entries for forget, tag in e["forgets"]}
    given, found = {entry["path"].resolve() for entry in entries}, []
    for method in ("original", "retrain"):
        for path in sorted(config.weights.glob(f"*_{method}*.pth")):
            if path.resolve() in given:
                continue
            entry = describe(path, config)
            keys = [
                key
                for key in wanted
                if key[:3] == (*_network(entry), entry["seed"])
                and entry["forget_tag"] in (None, key[3])
                and (entry["method"], *key) not in have
            ]
            if keys and entry["method"] == method:
                found.append(entry | {"forgets": [wanted[key] for key in keys]})
                have |= {(method, *key) for key in keys}
    return found


def _network(entry):
    return entry["fingerprint"], entry["model"]


def _pair(row):
    return (*_network(row), row["forget"], row["seed"])


def _put_seeds_together(scored):
    """Rows of single networks to rows of methods: Original, Retrain, then the others in the order in which they came."""
    groups = {}
    for row in scored:
        key = tuple(row[k] for k in ("dataset", "model", "forget", "method", "epochs"))
        groups.setdefault(key, []).append(row)
    tables = list(dict.fromkeys(key[:3] for key in groups))
    rows = []
    anchors = {"original": 0, "retrain": 1}
    for key in sorted(groups, key=lambda key: (tables.index(key[:3]), anchors.get(key[3], 2))):
        group = sorted(groups[key], key=lambda row: row["seed"])
        names = dict(zip(("dataset", "model", "forget", "method", "epochs"), key, strict=True))
        curves = _curves_over_seeds([row["curves"] for row in group])
        same = {"n": len(group), "command": group[0]["command"], "device": group[0]["device"]}
        rows.append(names | same | {"metrics": statistics.metrics_over_seeds(group), "curves": curves})
    return rows


def _curves_over_seeds(group):
    """The relearning curve of each seed, ROC and histograms averaged over seeds, the first seed's features."""
    roc = [curves["roc"] for curves in group if curves["roc"] is not None]
    losses = {
        name: np.mean([curves["losses"][name] for curves in group], 0).round(4).tolist() for name in group[0]["losses"]
    }
    return {
        "relearn": [curves["relearn"] for curves in group if curves.get("relearn")],
        "relearn_steps": network.RELEARN_STEPS,
        "roc": np.mean(roc, 0).round(4).tolist() if roc else None,
        "losses": losses,
        "features": group[0].get("features"),
    }


def result(table, command, rows, config):
    """The rows with what made them: the dictionary that report.py draws."""
    hardware = "; ".join(dict.fromkeys(row["device"] for row in rows))
    return {"table": table, **provenance(command, hardware), "attack": config.mia, "rows": rows}
