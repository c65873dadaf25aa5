"""Score checkpoints: how much is forgotten, how much is kept, and whether an attacker can tell.

Each network sees the training and the test images once, without gradients. UA = 100 - accuracy on D_f, RA = accuracy on
D_r, TA = accuracy on test images of the kept classes; MIA-Efficacy = share of D_f that an attack fitted on the unlearned
network calls non-member. Seeds of one method are put together: mean and 95 % confidence interval. The average gap needs
a Retrain of the same data, network, forget set and seed, among the files given or in --weights.
Files of the published LoRA-Unlearn are scored too; they don't say what they forgot, so give --dataset and --forget-class.

    python evaluate.py model_weights/*.pth
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

import torch

import cli
import data
import metrics
import models
import pruning
import report
import training
from errors import UserError

ATTACKS = {
    "svc": (metrics.confidence, metrics.mia_efficacy),
    "lora-unlearn": (metrics.loss, metrics.mia_lora_unlearn),
}


def score(logits, dataset, forget, attack):
    """UA, UA_test, RA, TA and MIA of one network, in percent.

    logits: float32 (N, C) of the training and of the test images. forget: int64 positions in the training images.
    attack: a key of ATTACKS.
    """
    (train, test), train_y, test_y = logits, dataset.train.labels, dataset.test.labels
    retain = data.retain_indices(len(train_y), forget)
    gone = torch.isin(test_y, torch.tensor(data.forgotten_classes(train_y, forget), dtype=torch.int64))
    feature, efficacy = ATTACKS[attack]
    values = feature(train, train_y)
    return {
        "UA": 100 - metrics.accuracy(train[forget], train_y[forget]),
        "UA_test": 100 - metrics.accuracy(test[gone], test_y[gone])
        if gone.any()
        else {"missing": "UA-test: no class is forgotten as a whole"},
        "RA": metrics.accuracy(train[retain], train_y[retain]),
        "TA": metrics.accuracy(test[~gone], test_y[~gone]),
        "MIA": efficacy(values[retain], feature(test, test_y)[~gone], values[forget]),
    }


def evaluate(paths, config):
    """Score the files `paths`, all seeds of a method together: rows as report.py describes them.

    An original is scored on every forget set that the other files of its data and network bring, or on the one that the
    flags name. Raises UserError when a forget set is missing or contradicts the flags.
    """
    entries = [_describe(Path(path), config) for path in paths]
    ways = [getattr(config, f"forget_{way}", None) for way in ("class", "random", "file")]
    for entry in entries:
        own = [(entry["forget"], entry["forget_tag"])] if len(entry["forget"]) else []
        if any(ways):
            dataset = _dataset(entry, config)
            wanted = data.forget_indices(dataset.train, *ways)
            if own and not (len(own[0][0]) == len(wanted[0]) and (own[0][0] == wanted[0]).all()):
                raise UserError(f"{entry['path']} has forgotten {entry['forget_tag']}, not {wanted[1]}")
            own = [wanted]
        alike = [e for e in entries if len(e["forget"]) and _network(e) == _network(entry)]
        entry["forgets"] = own or list({e["forget_tag"]: (e["forget"], e["forget_tag"]) for e in alike}.values())
        if not entry["forgets"]:
            raise UserError(f"{entry['path']} doesn't say what to forget: give --forget-class, or unlearned files as well")
    scored = [row for entry in entries for row in _score_file(entry, config)]
    retrains = {_pair(row): row for row in scored if row["method"] == "retrain"}
    for path in sorted(set(config.weights.glob("*_retrain*.pth")) - {entry["path"] for entry in entries}):
        entry = _describe(path, config)
        entry["forgets"] = [(entry["forget"], entry["forget_tag"])]
        pair = (*_network(entry), entry["forget_tag"], entry["seed"])
        if pair not in retrains and any(_pair(row) == pair for row in scored):
            retrains[pair] = _score_file(entry, config)[0]
    for row in scored:
        retrain = retrains.get(_pair(row))
        row["metrics"]["gap"] = (
            metrics.average_gap(row["metrics"], retrain["metrics"])
            if retrain
            else {"missing": f"average gap: no Retrain of seed {row['seed']} for {row['forget']} on {row['model']}"}
        )
    return _put_seeds_together(scored)


def _describe(path, config):
    """What a file says about itself, without its weights."""
    content = models.read(path)
    if not (isinstance(content, dict) and "format" in content):
        _, name = models.load_published(path)
        unknown = {"missing": "cost: LoRA-Unlearn's files don't say"}
        return {
            "path": path,
            "spec": None,
            "fingerprint": cli.load_data(config).fingerprint,
            "model": name,
            "forget": [],
            "forget_tag": None,
            "method": f"published {path.name}",
            "epochs": None,
            "seed": 0,
            "command": f"LoRA-Unlearn's {path.name}",
            "cost": dict.fromkeys(("seconds", "memory_mib", "trainable", "moved"), unknown),
        }
    checkpoint = models.load_checkpoint(path)
    try:
        return _describe_own(path, checkpoint, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or not of this project ({type(error).__name__}: {error})") from None


def _describe_own(path, checkpoint, config):
    settings, spec = checkpoint["config"], checkpoint["data"]
    return {
        "path": path,
        "spec": (spec["dataset"], config.data_dir, spec["subset"], spec["validation"], spec["img_size"]),
        "fingerprint": spec["fingerprint"],
        "model": checkpoint["network"]["name"],
        "forget": checkpoint["forget"],
        "forget_tag": checkpoint["forget_tag"],
        "method": " ".join([checkpoint["method"], *cli.variant(settings)]),
        "epochs": settings["epochs"] if checkpoint["cost"]["trainable"] else None,
        "seed": checkpoint["seed"],
        "command": checkpoint["command"],
        "cost": checkpoint["cost"],
    }


def _dataset(entry, config):
    dataset = cli.load_data(config) if entry["spec"] is None else cli.load_data_by(*entry["spec"])
    if dataset.fingerprint != entry["fingerprint"]:
        raise UserError(f"{entry['path']} was made with other data than this {dataset.tag}: their fingerprints differ")
    return dataset


def _score_file(entry, config):
    """One row for each forget set of the file."""
    dataset = _dataset(entry, config)
    if entry["spec"] is None:
        model, _ = models.load_published(entry["path"])
    else:
        model = models.build(models.load_checkpoint(entry["path"]), entry["path"])
    size = {"zeros": pruning.zeros(model), "bytes": entry["path"].stat().st_size}
    on_device = argparse.Namespace(
        device=training.resolve_device(config.device),
        precision=config.precision or training.best_precision(model, training.resolve_device(config.device)),
    )
    logits = [training.predict(model, split.images, on_device) for split in (dataset.train, dataset.test)]
    if not config.quiet:
        print(f"scored {entry['path']}", file=sys.stderr, flush=True)
    return [
        {
            "dataset": dataset.tag,
            "forget": tag,
            **{key: entry[key] for key in ("fingerprint", "model", "method", "epochs", "seed", "command")},
            "metrics": score(logits, dataset, forget, config.mia) | entry["cost"] | size,
        }
        for forget, tag in entry["forgets"]
    ]


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
        joined = {name: _over_seeds([row["metrics"][name] for row in group]) for name in group[0]["metrics"]}
        rows.append(names | {"n": len(group), "command": group[0]["command"], "metrics": joined})
    return rows


def _over_seeds(values):
    missing = [value for value in values if isinstance(value, dict)]
    if missing:
        return missing[0]
    mean, half = metrics.mean_ci95(values)
    return {"mean": mean, "ci95": half, "values": values}


def result(table, command, rows, config):
    """The rows with what made them: the dictionary that report.py draws."""
    return {
        "table": table,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "hardware": cli.device_name(training.resolve_device(config.device)),
        "versions": cli.versions(),
        "attack": config.mia,
        "rows": rows,
    }


def add_scoring_flags(parser):
    """The flags that evaluate and reproduce share."""
    parser.add_argument("--mia", choices=tuple(ATTACKS), default="svc", help="membership attack (default: svc)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    cli.add_device_flags(parser)


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of this project or of LoRA-Unlearn")
    parser.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder to look for Retrain in")
    cli.add_data_flags(parser)
    cli.add_forget_flags(parser)
    add_scoring_flags(parser)
    for form in ("json", "markdown", "plot"):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"also write the table as {form} to FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace those files")
    return parser


def run(config):
    for path in (config.json, config.markdown, config.plot):
        if path and path.exists() and not config.overwrite:
            raise UserError(f"{path} exists; --overwrite replaces it")
    table = result("evaluate", config.command, evaluate(config.checkpoints, config), config)
    print(report.terminal(table), end="")
    if config.json:
        report.write(config.json, json.dumps(table, indent=1) + "\n")
    if config.markdown:
        report.write(config.markdown, report.markdown(table))
    if config.plot:
        report.plot(table, config.plot)


if __name__ == "__main__":
    cli.main(run, parser())
