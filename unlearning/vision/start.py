"""How a run begins: its data, its forget set, its network, the name and the key of its checkpoint."""

import argparse
import datetime
import glob
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core import distributed, names
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.files import sha256
from unlearning.core.flags import Parser, PerModel
from unlearning.core.provenance import device_name, versions
from unlearning.images import forgetting
from unlearning.vision.flags import forget_request, source_of
from unlearning.vision.identity import digest, forget_identity, identity, key, of_checkpoint, with_normalisation
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot


@dataclass(frozen=True)
class Start:
    """All that is known before a method runs.

    values: every flag, defaults resolved. forget: int64 positions. network: its name and the arguments of models.create.
    shapes: those of the network's tensors, by name. facts: what the checkpoint says of the method, its settings and where
    it started. finished: True if the output is there already.
    """

    values: Mapping[str, Any]
    dataset: data.Dataset
    forget: torch.Tensor
    model: nn.Module
    network: dict[str, Any]
    shapes: dict[str, torch.Size]
    compute: Compute
    output: Path
    snapshot: Snapshot
    facts: dict[str, Any]
    finished: bool

    def checkpoint(self, model: nn.Module, cost: dict[str, float], command: str) -> dict[str, Any]:
        """The dictionary that is written for the trained `model`."""
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        smaller = any(value.shape != self.shapes[name] for name, value in state.items())
        several = f" x {distributed.count()}" if distributed.count() > 1 else ""
        return {
            "format": models.FORMAT,
            "network": self.network | ({"compact": True} if smaller else {}),
            "state_dict": state,
            "command": command,
            "forget": self.forget,
            **(self.dataset.whole.recorded(self.forget) if len(self.forget) else {}),
            "seed": self.values["seed"],
            "cost": cost,
            "device": device_name(self.compute.device) + several,
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
            **self.facts,
        }


def start(method: str, parser: Parser, args: argparse.Namespace, shared: Shared) -> Start:
    """Read what the flags name and check that it fits together; see `run.execute` for what is refused."""
    source, forgets = source_of(args), hasattr(args, "forget_class")
    dataset = shared.load(source)
    request = forget_request(args) if forgets else None
    forgotten = dataset.forgotten(request or forgetting.ForgetRequest()) if forgets else None
    forget, forget_tag = torch.empty(0, dtype=torch.int64), None
    if forgotten:
        forget, forget_tag = forgotten.positions, forgotten.tag
    parent = read_original(args, dataset, forget) if hasattr(args, "original") else None
    torch.manual_seed(args.seed)
    model, network = _network(args, dataset, parent)
    compute = Compute.from_flags(args)
    model.to(compute.device)
    compute = compute.placed(model)
    values = _resolved(args, network["name"], compute.precision)
    default = Compute(compute.device, None, compute.scratch).placed(model).precision
    flags = parser.non_default(values | ({"precision": None} if compute.precision == default else {}))
    known = values if parent else values | {name: network["arguments"][name] for name in ("mean", "std")}
    settings, sha = parser.settings(known), parent and parent["sha256"]
    own = parser.own_settings(known)
    wanted = forget_identity(forget, forgotten.draw if forgotten else None)
    lineage = parent and of_checkpoint(parent)
    made_from = {"data": dataset.fingerprint, "forget": digest(forget), "parent": sha}
    same = {"method": method, "settings": own | {"seed": args.seed}, "from": made_from}
    begin = _begin(network["name"], dataset.tag)
    stem = begin + _rest_of_name(method, values, parser, flags, forget_tag)
    output = args.output or _output(args, stem, begin, parent, same, parser)
    facts: dict[str, Any] = {
        "method": method,
        "config": settings,
        "flags": flags,
        "identity": identity(method, own, dataset.fingerprint, wanted, lineage),
        "key": key(same),
        "forget_tag": forget_tag,
        "data": source.described(dataset),
        "parent": sha,
        "origin": parent and (parent.get("origin") or sha),
    }
    finished = not args.overwrite and _is_finished(output, same, parser)
    if forgotten and not finished:
        _say(forgotten, dataset, compute.quiet)
    snapshot = Snapshot(output.with_name(output.name + ".partial"), facts["key"], args.overwrite)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return Start(values, dataset, forget, model, network, shapes, compute, output, snapshot, facts, finished)


def _say(forgotten: forgetting.Forgotten, dataset: data.Dataset, quiet: bool) -> None:
    """Say what is odd about a request and, unless quiet, what is about to be forgotten."""
    line = forgetting.by_class(dataset.train.labels, dataset.classes, forgotten.positions, "forgets")
    for text in (*forgotten.notes, *([] if quiet else [line])):
        print(text, file=sys.stderr, flush=True)


def read_original(args: argparse.Namespace, dataset: data.Dataset, forget: torch.Tensor) -> dict[str, Any]:
    """The checkpoint to start from, if it belongs to these data and this request, with its SHA-256 and its file, and whether
    that is the usual one."""
    path = args.original or _find_original(args, args.model, dataset.tag)
    checkpoint = models.load_checkpoint(path)
    if checkpoint["data"]["fingerprint"] is None:
        raise UserError(f"{path} holds ImageNet weights, a backbone of lmeraser.py: it knows none of these images")
    if checkpoint["data"]["fingerprint"] != dataset.fingerprint:
        raise UserError(f"{path} was trained on {checkpoint['data']['tag']}, not on this {dataset.tag}")
    if args.model and args.model != checkpoint["network"]["name"]:
        raise UserError(f"{path} holds a {checkpoint['network']['name']}, not a {args.model}")
    if len(checkpoint["forget"]) and not torch.equal(checkpoint["forget"], forget):
        raise UserError(f"{path} has forgotten {checkpoint['forget_tag']} already; start from an original")
    usual = not args.original or _is_usual(args, checkpoint["network"]["name"], dataset.tag)
    return checkpoint | {"sha256": sha256(path), "file": path, "usual": usual}


def _is_usual(args: argparse.Namespace, network: str, tag: str) -> bool:
    """True if --original names the file that would be found without it, or is called like one that isn't there."""
    try:
        return args.original.samefile(_find_original(args, network, tag))
    except UserError:
        return args.original.stem == f"{_begin(network, tag)}original_s{args.seed}"


def _find_original(args: argparse.Namespace, network: str | None, tag: str) -> Path:
    """The original by name: the one that pretrain.py makes by default, else the only one of this network, data and seed."""
    stem = _begin(network or "resnet20", tag) + "original"
    usual = args.weights / f"{stem}_s{args.seed}.pth"
    others = sorted(args.weights.glob(f"{glob.escape(stem)}-*_s{args.seed}.pth"))
    if usual.exists() or len(others) == 1:
        return usual if usual.exists() else others[0]
    if others:
        raise UserError(f"several originals, {' and '.join(map(str, others))}: name one with --original")
    raise UserError(f"no original {usual}; train it with pretrain.py or name one with --original")


def _begin(network: str, tag: str) -> str:
    """What the names of all files of a network and its data begin with."""
    return f"{names.part(tag, 'data')}_{names.part(network, 'network')}_"


def _network(args: argparse.Namespace, dataset: data.Dataset, parent: dict | None) -> tuple[nn.Module, dict[str, Any]]:
    """The original's network, or a fresh one, with its name and the arguments of models.create."""
    if parent:
        return models.build(parent, parent["file"]), parent["network"]
    name = args.model or "resnet20"
    if (args.mean is None) != (args.std is None):
        raise UserError("--mean and --std belong together: give both")
    normalisation = (args.mean, args.std) if args.mean else None
    folder = args.data_dir if args.pretrained else None
    model, arguments = models.create_for(name, dataset, folder, args.input_size, args.quiet, normalisation)
    return model, {"name": name, "arguments": arguments}


def _resolved(args: argparse.Namespace, network: str, precision: str | None) -> dict[str, Any]:
    """Every flag, with what its default is for this network."""
    given = vars(args) | {"model": network, "precision": precision}
    return {name: value.of(network) if isinstance(value, PerModel) else value for name, value in given.items()}


def _rest_of_name(
    method: str, values: Mapping[str, Any], parser: Parser, flags: dict[str, str], forget_tag: str | None
) -> str:
    """The part of a file's name that says forget set, method, epochs and the flags that differ from their defaults."""
    if forget_tag is None:  # an original: its usual length isn't named, so that others find it
        return method + names.suffix(parser.unusual_epochs(values)) + names.suffix(flags)
    dash = "-" if method[-1].isdigit() else ""
    return f"{names.part(forget_tag, 'forget')}_{method}{dash}{values['epochs']}{names.suffix(flags)}"


def _output(
    args: argparse.Namespace, stem: str, begin: str, parent: dict[str, Any] | None, same: dict[str, Any], parser: Parser
) -> Path:
    """The file to write: its name also says the original where that isn't the usual one, unless the file without it is
    already what is wanted, for which original is usual changes with what lies in the folder."""
    end = f"_s{args.seed}.pth"
    plain = args.weights / f"{stem}{end}"
    if not parent or parent["usual"] or _was_made(plain, same, parser):
        return plain
    return args.weights / f"{stem}{names.started_from(parent['file'], begin)}{end}"


def _is_finished(output: Path, same: dict[str, Any], parser: Parser) -> bool:
    """True if the output is there and was made as `same` says. Raises UserError if it was made otherwise."""
    if output.exists() and not _was_made(output, same, parser):
        raise UserError(f"{output} was made with other settings; --overwrite computes it again, --output keeps both")
    return output.exists()


def _was_made(path: Path, same: dict[str, Any], parser: Parser) -> bool:
    """True if the file is there and was made as `same` says."""
    if not path.exists():
        return False
    found = models.load_checkpoint(path)
    made_from = {"data": found["data"]["fingerprint"], "forget": digest(found["forget"]), "parent": found.get("parent")}
    own = parser.recorded_own(found["config"]) | {"seed": found["seed"]}
    if not found.get("parent"):
        own = with_normalisation(own, found)
    return {"method": found["method"], "settings": own, "from": made_from} == same
