"""What an adapter's record says before a command begins, and whether what the command would write is there already."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.words import say
from unlearning.language.adapters import FILES, read_config, read_record
from unlearning.language.rows import digest
from unlearning.language.session import UNSEEN, Place, digest_of, given_files, short_digest

TRAINED = ("epochs", "lr", "batch_size")  # flags that say how an adapter from elsewhere was trained


def record_of(args: argparse.Namespace, place: Place) -> dict[str, Any]:
    """What an adapter was trained on: its own record, or, for one from elsewhere, what the flags say."""
    record = read_record(args.adapter)
    given = given_files(args)
    if record:
        told = ("precision", "prompt", "decay", *(TRAINED if record["training"]["optimizer"] != "unknown" else ()))
        if odd := [key for key in told if getattr(args, key) is not None]:
            flag = odd[0].replace("_", "-")
            raise UserError(f"--{flag}: {args.adapter} has a record that says it: it is for adapters from elsewhere")
        record = record | ({"base": absolute(args.base)} if args.base else {}) | told_training(args)
        return record | {"files": record["files"] | given}
    if "train" not in given:
        raise UserError(f"{args.adapter} is an adapter from elsewhere: --train says on which file of rows it was trained")
    config = read_config(args.adapter)
    base = args.base or config.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{args.adapter} doesn't say of which base it is: give --base")
    rows = place.rows(given["train"], "--train")
    return {
        "base": absolute(base),
        "precision": args.precision or "fp32",
        "prompt": args.prompt or "auto",
        "prompt_flag": args.prompt or "auto",
        "loss": "tokens",
        "decay": 0.0 if args.decay is None else args.decay,
        "seed": 0,
        "training": {"optimizer": "unknown"},
        "elsewhere": digest_of(args.adapter),
        "files": given,
        "rows": [[row.name, digest(row)] for row in rows],
        "edits": [],
        "ledger": [],
    } | told_training(args)


def told_training(args: argparse.Namespace) -> dict[str, Any]:
    """How an adapter from elsewhere was trained, as far as flags say it. Raises UserError where they say a part."""
    given = {key: value for key in TRAINED if (value := getattr(args, key)) is not None}
    if given and len(given) < len(TRAINED):
        raise UserError("--epochs, --lr and --batch-size, which say how an adapter was trained, belong together: give all")
    return {"training": {"optimizer": "adamw"} | given} if given else {}


def unseen_digests(files: dict[str, Any], place: Place) -> dict[str, str]:
    """A short digest of the rows that choose, and of those that are scored on, by kind."""
    there = {kind: place.rows(files[kind], f"--{kind}") for kind in UNSEEN if files.get(kind)}
    return {kind: short_digest([digest(row) for row in rows]) for kind, rows in there.items()}


def absolute(base: str) -> str:
    """A base as it can be found from any folder."""
    return str(Path(base).resolve()) if Path(base).exists() else base


@dataclass(frozen=True)
class Asked:
    """What a request says beside its edits: its flags, the SHA-256 of the weights that it is answered from, where it is."""

    flags: dict[str, Any]
    source: str
    place: Place


def is_finished(output: Path, record: dict[str, Any], overwrite: bool, asked: Asked | None = None) -> bool:
    """True if the folder is there with the same data, edits and flags of the request, and isn't to be made again.

    Raises UserError for other ones, and where what is there isn't an adapter of this project alone.
    """
    if not output.exists():
        return False
    old = read_record(output)
    if old is None:
        raise UserError(f"{output} is an adapter from elsewhere: it isn't replaced; give another --output")
    if overwrite:
        if odd := {path.name for path in output.iterdir()} - FILES:
            raise UserError(f"{output} holds {min(odd)}, which is no part of an adapter: move it, or give another --output")
        seals.check_own([output / "README.md"])
        return False
    keys = ["precision", "loss", "decay", "seed", "training", "rows", "edits", "prompt_flag"]
    if asked and "base_sha256" not in record:  # of the first request to one from elsewhere: is it still the same base?
        record = record | {"base_sha256": asked.place.base(record["base"], record["precision"])[2]}
    keys += ["base_sha256"] if "base_sha256" in record else ["base"]  # finetune doesn't load the base to look
    keys += [key for key in ("elsewhere", "lora") if key in record]
    keys += ["unseen"] if record["loss"] == "choice" and not asked else []  # their answers are among the choice
    requests = [(entry["edits"], entry["asked"]) for entry in record["ledger"]]
    requests += [(record["edits"][sum(len(edits) for edits, _ in requests) :], asked.flags)] if asked else []
    before = [(entry["edits"], entry["asked"]) for entry in old["ledger"]]
    other = asked and old["ledger"] and old["ledger"][-1].get("source", asked.source) != asked.source
    if any(old.get(key) != record.get(key) for key in keys) or before != requests or other:
        raise UserError(f"{output} was made with other settings; --overwrite computes it again")
    say(f"there already: {output}")
    if kept := [f"--{kind}" for kind, rows in record["unseen"].items() if old.get("unseen", {}).get(kind, rows) != rows]:
        say(f"note: its record keeps other {' and '.join(kept)} rows: give yours with each request, or --overwrite it")
    return True
