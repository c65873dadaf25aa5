"""Where a run's checkpoint goes: its name, whether it is there or comes with the project, and what it may replace."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import models
from unlearning.core import distributed, names
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.flags import Parser
from unlearning.core.words import say
from unlearning.vision import adapter_files, originals, shipped
from unlearning.vision.epoch_scores import EpochScores
from unlearning.vision.identity import digest, for_each_channel, key, with_normalisation


def output_of(
    args: argparse.Namespace,
    stems: list[str],
    begin: str,
    parent: dict[str, Any] | None,
    same: dict[str, Any],
    parser: Parser,
) -> Path:
    """The file to write: its name also says the original where that isn't the usual one, unless the file without it is
    already what is wanted, for which original is usual changes with what lies in the folder. A file, or an unfinished run,
    that has the name of earlier versions keeps it, as does one that was made by the same flags in other words, `stems`."""
    end = f"_s{args.seed}.pth"
    ways = names.started_from(parent["file"], begin, args.seed) if parent and not parent["usual"] else ()
    every = [args.weights / f"{stem}{way}{end}" for stem in stems for way in ("", *ways)]
    if made := next((path for path in every if _was_made(path, same, parser)), None):
        return made
    plain, *others = every[: 1 + len(ways)]
    if not others:
        return plain
    today, before = others
    return before if unfinished(before).exists() else today


def is_there(output: Path, same: dict[str, Any], parser: Parser, overwrite: bool) -> bool:
    """True if the output is there, made as `same` says, and isn't to be made again. Raises UserError if it was made
    otherwise."""
    if overwrite or not output.exists():
        return False
    if other := _other(same, _made(output, parser, same)):
        kept = output.resolve().parent == shipped.FOLDER.resolve() and shipped.is_one(output)
        ways = "--output keeps both" if kept else "--overwrite computes it again, --output keeps both"
        raise UserError(f"{output} was made with other settings ({other}); {ways}")
    return True


def provide(
    output: Path, same: dict[str, Any], parser: Parser, args: argparse.Namespace, scores: Sequence[EpochScores]
) -> bool:
    """True if a shipped original or Retrain is what is to be made, and nothing of this name is there, finished or not: then
    it is put into its place; or if another process of this run has just put it there."""
    if args.overwrite or same["from"]["parent"]:  # what starts from an original may have an adapter beside it
        return False
    if output.exists():
        return shipped.is_one(output) and _was_made(output, same, parser)
    file = shipped.FOLDER / output.name
    if not shipped.is_one(file):
        if line := shipped.missed(output.name):
            say(line)
        return False
    if unfinished(output).exists() or not _was_made(file, same, parser):
        return False
    for each in scores:
        each.check_place(output, args.overwrite)
    if distributed.is_main():
        shipped.copy(output)
    return True


def check_output(
    output: Path, args: argparse.Namespace, parent: dict[str, Any] | None, scores: Sequence[EpochScores]
) -> None:
    """Raise UserError where the output would replace what the run reads, or what is no checkpoint of this project."""
    if output.is_dir():
        raise UserError(f"--output {output} is a folder")
    if output.suffix == ".safetensors":
        raise UserError(f"--output {output}: that is another format's ending, as which nobody could read it: give it .pth")
    if output.is_symlink():
        raise UserError(f"--output {output} is a link, which the checkpoint would replace: name what it leads to")
    for each in scores:
        each.check_place(output, args.overwrite)
    if not output.exists():
        return
    read = vars(args) | {"original": parent["file"] if parent else None}
    for name, value in read.items():
        if isinstance(value, Path) and name != "output" and value.exists() and value.samefile(output):
            raise UserError(f"--output {output} is the file that --{name.replace('_', '-')} names: it isn't replaced")
    try:
        ours = not originals.is_elsewhere(output)
    except UserError:
        ours = False
    if not ours:
        what = "is there and no checkpoint of this project, or a damaged one"
        raise UserError(f"{output} {what}: move it, or give another --output")
    adapter_files.check_going(output)


def rest_of_name(
    method: str, values: Mapping[str, Any], parser: Parser, flags: dict[str, str], forget_tag: str | None
) -> str:
    """The part of a file's name that says forget set, method, epochs and the flags that differ from their defaults."""
    if forget_tag is None:  # an original: its usual length isn't named, so that others find it
        return method + names.suffix(parser.unusual_epochs(values)) + names.suffix(flags)
    dash = "-" if method[-1].isdigit() else ""
    return f"{names.part(forget_tag, 'forget')}_{method}{dash}{values['epochs']}{names.suffix(flags)}"


def usual_precision(compute: Compute, model: nn.Module) -> dict[str, None]:
    """The precision as a flag that names leave out, where it is the one that network and device have by default."""
    default = Compute(compute.device, None, compute.scratch).placed(model).precision
    return {"precision": None} if compute.precision == default else {}


def spellings(values: Mapping[str, Any], constants: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The ways to type --mean and --std that come to the same, first the one that names say: as few numbers as possible
    where they are typed, none where they aren't. constants: of each channel, {} for those that the original says."""
    if not constants:
        return [{}]
    every = {name: list(numbers) for name, numbers in constants.items()}
    few = {name: numbers[:1] if len({*numbers}) == 1 else numbers for name, numbers in every.items()}
    nothing = dict.fromkeys(every)
    return [few, nothing, every] if values["mean"] else [nothing, few, every]


def unfinished(output: Path) -> Path:
    """Where an unfinished run keeps what it continues from."""
    return output.with_name(output.name + ".partial")


def code_of(network: Mapping[str, Any]) -> dict[str, str]:
    """Of a network of the user's own some digits of its file's SHA-256: another file makes another network."""
    return {"code": network["code"][:12]} if "code" in network else {}


def made_of(network: Mapping[str, Any], parent: object) -> dict[str, str]:
    """`code_of`, and of a network without a parent a digest of what a folder or a checkpoint says of it beside its name."""
    said = {name: value for name, value in network["arguments"].items() if name in models.KINDS and not parent}
    return code_of(network) | ({"network": key(said)} if said else {})


def _was_made(path: Path, same: dict[str, Any], parser: Parser) -> bool:
    """True if the file is there, is a checkpoint, and was made as `same` says."""
    try:
        return path.exists() and _made(path, parser, same) == same
    except UserError:  # whoever writes to this name will say what is there
        return False


def _other(same: dict[str, Any], before: dict[str, Any]) -> str:
    """In what two runs differ, in words: method, flags, data, forget set, original; "" where they are the same."""
    own, theirs = same["settings"], before["settings"]
    flags = [f"--{name.replace('_', '-')}" for name in sorted({*own, *theirs}) if own.get(name) != theirs.get(name)]
    words = {"data": "the data", "forget": "the forget set", "parent": "the original", "code": "the network's file"}
    keys = [key for key in {**same["from"], **before["from"]} if same["from"].get(key) != before["from"].get(key)]
    found = ["the method"] * (same["method"] != before["method"]) + [words.get(key, "the network") for key in keys]
    return ", ".join([*found, *flags])


def _made(path: Path, parser: Parser, same: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint was made, as `start` says it of a run. same: what it says of the run at hand; the precision of a
    shipped one is taken to be that, for by default it depends on the machine."""
    found = models.load_checkpoint(path)
    made_from = {"data": found["data"]["fingerprint"], "forget": digest(found["forget"]), "parent": found.get("parent")}
    made_from |= made_of(found["network"], found.get("parent"))
    own = for_each_channel(parser.recorded_own(found["config"]), found) | {"seed": found["seed"]}
    if not found.get("parent"):
        own = with_normalisation(own, found)
    if shipped.is_one(path):
        own |= {"precision": same["settings"]["precision"]}
    return {"method": found["method"], "settings": own, "from": made_from}
