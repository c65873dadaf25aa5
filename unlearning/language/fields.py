"""The fields of an adapter's record, and of PEFT's own configuration."""

from typing import Any

from unlearning.core import content
from unlearning.core.content import (
    either,
    fields,
    list_of,
    map_of,
    number,
    one_of,
    optional,
    require,
    text,
    whole,
    yes_or_no,
)

KINDS = {"remove": "remove", "modify": "query", "correct": "response"}  # request: the field of its edits
LAYERS, RANK = 10_000, 65_536  # of a base and of LoRA: the most
NAMED = text(content.NAME)  # a row's name
LONG = text(10 * content.TEXT)  # what a row says
MAYBE_EMPTY = text(10 * content.TEXT, empty=True)  # of Alpaca's two parts of a query each may be
COST = fields({"seconds": number(0)}, {"memory_mib": number(0), "passes": whole()})


def edit(value: Any) -> None:
    """What becomes of a row: it is removed, or has another query or response; or had one, and has been removed since."""
    ways = {"remove": one_of(True), "query": MAYBE_EMPTY, "response": LONG, "forgotten": one_of(True)}
    fields({"id": NAMED}, ways | {"input": MAYBE_EMPTY}, closed=True)(value)
    told = len(value) == 3 if "input" in value else len(value) == 2
    require(told and ("query" in value or "input" not in value), "", "doesn't say one thing that becomes of its row")


def _pair(value: Any) -> None:
    list_of(NAMED, 2)(value)
    require(len(value) == 2, "", "is no row's name with its digest")


ENTRY = fields(
    {"action": one_of(*KINDS), "edits": list_of(edit, 1), "method": text(), "cost": COST},
    {"asked": content.plain, "found": content.plain, "command": text(content.TEXT), "hardware": text(), "source": text()},
)
TRAINING = either(
    fields({"optimizer": one_of("unknown")}, closed=True),  # of an adapter from elsewhere
    fields({"optimizer": one_of("lbfgs"), "evaluations": whole(1)}, closed=True),
    fields(
        {"optimizer": one_of("adamw"), "epochs": whole(1), "lr": number(above=0), "batch_size": whole(1)},
        closed=True,
    ),
)
LORA = fields(
    {"rank": whole(1, RANK), "alpha": whole(1), "targets": optional(list_of(text(), 1)), "blocks": whole(1, LAYERS)},
    closed=True,
)
RECORD = fields(
    {"base": content.path, "precision": one_of("fp32", "bf16"), "base_sha256": text(), "adapter_sha256": text()}
    | {"files": fields({"train": content.path}, {"validation": optional(content.path), "test": optional(content.path)})}
    | {"rows": list_of(_pair, 1), "prompt": one_of("chat", "alpaca", "plain", "raw"), "loss": one_of("tokens", "choice")}
    | {
        "decay": number(0),
        "seed": whole(0, 2**32 - 1),
        "training": TRAINING,
        "edits": list_of(edit),
        "ledger": list_of(ENTRY),
    },
    {
        "lora": LORA,
        "elsewhere": text(),
        "config_sha256": text(),
        "adapter_config_sha256": text(),
        "tokens_sha256": text(),
        "unseen": map_of(text()),
        "choice": list_of(whole(), 1),
        "gradient": number(0),
        "prompt_flag": one_of("auto", "chat", "alpaca", "plain", "raw"),
        "cost": COST,
        "objective": number(),
        "command": text(content.TEXT),
    }
    | {"hardware": text(), "date": text(), "versions": map_of(text()), "commit": text()},
)


def record(value: Any) -> None:
    """All of a record's fields, each by itself and together."""
    RECORD(value)
    names = [name for name, _ in value["rows"]]
    require(len(set(names)) == len(names), "rows", "name a row twice")
    asked = [one for entry in value["ledger"] for one in entry["edits"]]
    require(asked == value["edits"], "edits", "aren't those of its ledger, one request after another")
    gone: set[str] = set()
    for place, one in enumerate(value["edits"]):
        where = f"edits.{place}.id"
        require(one["id"] in set(names), where, f"is {content.shown(one['id'])}, which is no row's name")
        require(one["id"] not in gone, where, f"is {content.shown(one['id'])}, which was removed before")
        gone |= {one["id"]} if "remove" in one else set()


def peft_config(value: Any) -> None:
    """What this project reads of PEFT's adapter_config.json."""
    names = either(text(content.TEXT), list_of(text()))
    fields(
        {"peft_type": text()},
        {"r": whole(1, RANK), "lora_alpha": number(0), "target_modules": optional(names), "bias": text()}
        | {
            "base_model_name_or_path": optional(either(one_of(""), content.path)),
            "use_dora": yes_or_no,
            "lora_dropout": number(0, 1),
        }
        | {"init_lora_weights": content.plain, "modules_to_save": optional(names)},
    )(value)
