"""The command line of llmeraser.py: train an adapter, answer a request about its rows, score adapters."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unlearning.core import names, paths
from unlearning.core.device import Compute, clock, peak_memory_mib, reset_peak_memory
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import (
    Parser,
    written,
)
from unlearning.core.locks import to_make
from unlearning.core.provenance import device_name, provenance
from unlearning.core.words import say
from unlearning.language import cards, ekfac, scores
from unlearning.language.adapters import write_adapter
from unlearning.language.batches import batches_of
from unlearning.language.controls import CONTROLS
from unlearning.language.flags import DEFAULT, add_training_flags
from unlearning.language.forward import WHOLE, Forward
from unlearning.language.prompts import FORMS, encode
from unlearning.language.records import TRAINED, Asked, absolute, is_finished, record_of, unseen_digests
from unlearning.language.requests import (
    Edit,
    check_edits,
    edited,
    edits_of_names,
    in_words,
    left_doubles,
    read_request,
    without_texts,
)
from unlearning.language.rows import Row, digest
from unlearning.language.session import (
    REST,
    Place,
    Rows,
    Session,
    Workspace,
    current_rows,
    digest_of,
    given_files,
    session_of,
    short_digest,
    tokens_digest,
    versions,
)
from unlearning.language.tasks import task_files
from unlearning.language.training import relative_gradient, train_adapter

COMPARED = 100  # rows of an adapter from elsewhere, at most, on which it is compared with its base
FITS = 0.9  # times the loss under the form that rows are put in: another form with less is likelier the right one
READ = {"lbfgs": ("evaluations",), "adamw": TRAINED}  # flags of a training, by the optimizer that reads them
FAINT = 0.1  # of the way to unseen rows' loss: a removal that goes less far has almost no effect
Step = Callable[[Session, Rows, Rows, "How"], dict[str, Any]]


@dataclass(frozen=True)
class How:
    """How a request is answered.

    curvature: None for the Hessian where the adapter was trained to rest, else Gauss-Newton. damping, length: None for
    those chosen on validation rows. tolerance: of the relative residual. products: at most, whatever is reached by then;
    None for as many as that takes.
    """

    method: str = "influence"
    solver: str = "cg"
    curvature: str | None = None
    damping: float | None = None
    length: float | None = None
    tolerance: float = 1e-4
    products: int | None = None


def finetune(args: argparse.Namespace, command: str, place: Place) -> Path:
    """Train a new adapter on a file of rows and write its folder."""
    trainer = Parser()
    add_training_flags(trainer)
    how = _training(args, trainer)
    own, files = trainer.non_default(args), _files(args, place)
    rows = place.rows(files["train"], "--train")
    record: dict[str, Any] = {key: getattr(args, key) for key in ("precision", "prompt", "loss", "decay", "seed")}
    record |= {
        "prompt_flag": args.prompt,
        "base": absolute(args.base),
        "files": {kind: str(file) for kind, file in files.items()},
    }
    record |= {
        "lora": {key: getattr(args, key) for key in ("rank", "alpha", "targets", "blocks")},
        "training": how,
    }
    record |= {
        "rows": [[row.name, digest(row)] for row in rows],
        "edits": [],
        "ledger": [],
        "unseen": unseen_digests(files, place),
    }
    tail = f"_finetune{names.suffix(own)}_s{args.seed}"
    output = args.output or _named_after(args.weights / files["train"].stem, tail)
    with to_make(output, partial(is_finished, output, record, args.overwrite)) as wanted:
        if not wanted:
            return output
        with session_of(record, place) as session:
            session.batches(session.rows)  # the frozen part's output is kept for everyone: not the training's time
            cost, (loss, passes) = _metered(lambda: train_adapter(session), place.compute)
            made = {"cost": cost | {"passes": passes}, "objective": loss, "gradient": relative_gradient(session)}
            made |= {"choice": session.allowed.nonzero()[:, 0].tolist()} if session.allowed is not None else {}
            record = session.record | made | _provenance(command, place.compute)
            _write(session, output, record | {"tokens_sha256": tokens_digest(session, session.rows)})
    if args.optimizer == "lbfgs":
        _say_if_not_at_rest(record["gradient"], passes)
    print(f"{output}  ({cost['seconds']:.1f} s, {passes} passes, objective {loss:.4f})")
    return output


def _say_if_not_at_rest(gradient: float, passes: int) -> None:
    """Warn of a training that was cut off. gradient: as of `relative_gradient`."""
    if gradient > REST:
        left = f"its objective's gradient is {gradient:.2g} times as long as a row's, and {REST:g} passes for rest"
        say(f"warning: the training ended after {passes} passes, before it was at rest: {left}; more --evaluations go on")


def answer(args: argparse.Namespace, command: str, place: Place, unlearn: Step) -> Path:
    """Answer a request by a step of `unlearn` or of CONTROLS and write the new adapter's folder; the old one stays."""
    record = record_of(args, place)
    source: Path = args.adapter
    rows = current_rows(record, place)
    if not (args.ids or args.request):
        raise UserError(f"nothing is asked: give {'--ids or ' * (args.action == 'remove')}a --request file with rows")
    asked = edits_of_names(args.ids or []) + (read_request(args.request, args.action) if args.request else [])
    gone = {name for (name, _), row in zip(record["rows"], rows, strict=True) if row is None}
    edits = check_edits(asked, args.action, rows, gone)
    changed, named = edited(rows, edits), {name: place for place, (name, _) in enumerate(record["rows"])}
    if not any(changed):
        raise UserError("this removes every row that is left: nothing would hold the adapter, so use the base without it")
    before, after = ([row for edit in edits if (row := some[named[edit["id"]]])] for some in (rows, changed))
    how = How(**{key: getattr(args, key) for key in How.__dataclass_fields__})
    _check_solver(how)
    if how.method == "retrain" and record["training"]["optimizer"] == "unknown":
        raise UserError(f"--method retrain: nobody here knows how {source} was trained: say --epochs, --lr and --batch-size")
    flags = dict(vars(how))
    own = {f"--{key}": written(value) for key, value in flags.items() if key != "method" and value != getattr(How(), key)}
    tail = f"_{args.action}-{short_digest(edits)}_{how.method}{names.suffix(own)}"
    output = args.output or _named_after(source, tail)
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(f"--output {output} is, or lies in, the adapter that is answered from: it isn't replaced")
    record |= {"unseen": unseen_digests(record["files"], place)}
    if "validation" in record["unseen"]:  # what is chosen depends on these
        flags["unseen"] = record["unseen"]["validation"]
    ledger = _without_removed(record["ledger"], edits)
    new = record | {"edits": [edit for entry in ledger for edit in entry["edits"]] + edits, "ledger": ledger}
    made_from = digest_of(source)
    there = partial(is_finished, output, new, args.overwrite, Asked(flags, made_from, place))
    with to_make(output, there) as wanted:
        if not wanted:
            return output
        _say_request(args.action, edits, rows, place.compute.quiet)
        with session_of(record, place, source, afresh=how.method == "retrain") as session:
            session.check_choice([*after, *session.validation])
            cost, found = _answered(session, before, after, changed, how, unlearn, place)
            measured = _at_the_end(replace(session, rows=changed), found, how.method)
            entry = {
                "action": args.action,
                "edits": edits,
                "method": how.method,
                "asked": flags,
                "found": found,
                "cost": cost,
                "source": made_from,
            }
            entry |= _provenance(command, place.compute)
            full = session.record | measured | {"edits": new["edits"], "ledger": [*ledger, entry]}
            if args.action == "remove":  # before the answer is there, which is what ends this
                session.forward.forget(session.tokens(versions(record, [row.name for row in before], place)))
            _write(session, output, full | {"tokens_sha256": tokens_digest(session, changed)})
    told = "".join(f", {key} {value:.3g}" for key, value in found.items() if isinstance(value, (int, float)))
    print(f"{output}  ({cost['seconds']:.1f} s{told})")
    return output


def _say_request(kind: str, edits: Sequence[Edit], rows: Sequence[Row | None], quiet: bool) -> None:
    """Say what a request is about, unless quiet, and which rows it passes over that say the same: what is to be forgotten is
    still trained on there."""
    for line in [] if quiet else in_words(kind, edits, rows):
        say(line)
    if line := left_doubles(edits, rows):
        say(line)


def _named_after(source: Path, tail: str) -> Path:
    """The source's path with a tail. Each request lengthens a name: the source's is shortened where no command would take
    the whole."""
    whole = Path(f"{source}{tail}")
    room = paths.NAME - paths.BESIDE - len(tail.encode())
    return whole.with_name(names.within(whole.name.removesuffix(tail), room) + tail)


def _check_solver(how: How) -> None:
    """Raise UserError for flags that the method or the solver doesn't have, and where a library isn't installed."""
    odd = [key for key, value in vars(how).items() if key != "method" and value != getattr(How(), key)]
    if how.method != "influence" and odd:
        raise UserError(f"--method {how.method} solves no system: --{odd[0]} has no effect on it")
    if how.solver != "ekfac":
        return
    if how.curvature == "hessian":
        raise UserError("--solver ekfac factors the Gauss-Newton matrix: --curvature hessian takes --solver cg")
    if odd := [key for key in ("tolerance", "products") if key in odd]:
        raise UserError(f"--solver ekfac solves its system at once: --{odd[0]} has no effect on it")
    ekfac.check_library()


def _without_removed(ledger: Sequence[dict[str, Any]], edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Earlier entries without what those rows had become that the edits remove: no text of theirs stays in a record."""
    names = {edit["id"] for edit in edits if "remove" in edit}
    return [entry | {"edits": without_texts(entry["edits"], names)} for entry in ledger]


def _answered(
    session: Session, before: Rows, after: Rows, changed: list[Row | None], how: How, unlearn: Step, place: Place
) -> tuple[dict[str, float], dict[str, Any]]:
    """What a step costs, and what it finds; with the losses on asked and on unseen rows, before and after it."""
    for rows in (session.rows, changed, session.validation):
        session.batches(rows)  # as far as they are frozen
    now = replace(session, rows=changed)
    if "elsewhere" in session.record and not session.record["ledger"] and how.method != "retrain":
        _compare_with_base(session)
    started = {} if how.method == "retrain" else _losses(session, before, after)
    if how.method == "influence":
        exact = session.at_rest and how.solver != "ekfac"
        how = replace(how, curvature=how.curvature or ("hessian" if exact else "gauss-newton"))
        factored = ekfac.factors_of(session)[1] if how.solver == "ekfac" else 0.0  # once for an adapter: no cost of this
        slope = {} if session.at_rest else {"gradient": relative_gradient(session)}
        cost, found = _metered(lambda: unlearn(session, before, after, how), place.compute)
        found |= {"curvature": how.curvature} | slope | ({"factors_seconds": factored} if factored else {})
    else:
        cost, found = _metered(lambda: CONTROLS[how.method](now, before, after), place.compute)
    by_rest = session.at_rest and how.curvature == "hessian"  # the objective chooses
    left = _left_open(how, removed=not after) if how.method == "influence" and not by_rest else []
    if "gradient" in found and not place.compute.quiet:
        length = f"the gradient of its objective is {found['gradient']:.2g} times as long as a row's"
        chosen = f": unseen rows choose {' and '.join(left)}" if left and session.validation else ""
        say(f"the adapter isn't at rest: {length}, and the formula is exact at 0{chosen}")
    ended = _losses(session, before, after)
    found |= {f"{name}_before": value for name, value in started.items()} | ended
    if started and not place.compute.quiet:
        _say_effect(started, ended, not after, [] if session.validation else left)
    return cost, found


def _left_open(how: How, removed: bool) -> list[str]:
    """What unseen rows choose, of what the flags don't say: the damping, and after a removal the step's length."""
    return ["damping"] * (how.damping is None) + ["length"] * (removed and how.length is None)


def _at_the_end(now: Session, found: dict[str, Any], method: str) -> dict[str, float]:
    """How far from rest an answer has left the objective, which a later request asks, where the adapter was trained to come
    to rest. Raises RunFailed where what it has found isn't finite."""
    if odd := [key for key, value in found.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise RunFailed(f"--method {method}: its {odd[0]} is {found[odd[0]]}: nothing is written")
    if now.record["training"]["optimizer"] != "lbfgs":
        return {}
    gradient = relative_gradient(now)
    if method == "retrain":
        _say_if_not_at_rest(gradient, found["passes"])
    return {"gradient": gradient}


def _losses(session: Session, before: Rows, after: Rows) -> dict[str, float]:
    """Mean losses on the asked rows as they were and as they should be, and on rows that were never seen, where there are
    some."""
    kinds = {"asked_loss": before, "wanted_loss": after, "unseen_loss": session.validation}
    return {name: session.losses_of(rows).mean().item() for name, rows in kinds.items() if rows}


def _compare_with_base(session: Session) -> None:
    """Say in which form rows are put to an adapter from elsewhere, where nobody said it, and warn where another form, or the
    base alone, has less loss on them: they were hardly what it was trained on."""
    some = [row for row in session.rows if row is not None][:COMPARED]
    own = session.losses_of(some).mean().item()
    _compare_forms(session, some, own)
    with session.peft_model.disable_adapter():
        base = session.losses_of(some).mean().item()
    if not own < base:
        say(
            f"on these rows the adapter has a loss of {own:.3f} and the base without it {base:.3f}: was it trained on this "
            f"--train, put to it as --prompt {session.record['prompt']} does?"
        )


def _compare_forms(session: Session, rows: Rows, own: float) -> None:
    """As `_compare_with_base`, of forms alone. own: the loss in the form that rows are put in."""
    form = session.record["prompt"]
    losses = {form: own}
    whole = Forward(session.peft_model, way=WHOLE, pixels=session.forward.pixels)
    for other in [name for name in FORMS if name != form]:
        try:
            tokens = encode(session.processor, rows, other, session.places, session.known)
        except UserError:  # a form that the base hasn't, or that these rows are too long for
            continue
        with torch.no_grad():
            losses[other] = torch.cat([whole.losses(b) for b in batches_of(tokens, whole.device)]).mean().item()
    best = min(losses, key=lambda name: losses[name])
    if losses[best] < FITS * losses[form]:
        put = f"put as --prompt {form} does these rows have a loss of {losses[form]:.3f}"
        way = "give the form that the adapter was trained with"
        say(f"warning: {put}, as --prompt {best} of {losses[best]:.3f}: {way}")
    elif session.record["prompt_flag"] == "auto" and not session.quiet:
        say(f"rows are put to the model as --prompt {form} does")


def _say_effect(started: dict[str, float], ended: dict[str, float], removed: bool, untold: Sequence[str]) -> None:
    """Say what a request did to losses, and where a removal did almost nothing. untold: of damping and length what unseen
    rows would have chosen, and there were none."""
    line = f"loss on these rows as they were {started['asked_loss']:.3f} -> {ended['asked_loss']:.3f}"
    if "wanted_loss" in ended:
        line += f", as they should be {started['wanted_loss']:.3f} -> {ended['wanted_loss']:.3f}"
    if "unseen_loss" in ended:
        line += f", on unseen rows {started['unseen_loss']:.3f} -> {ended['unseen_loss']:.3f}"
        way = ended["unseen_loss"] - started["asked_loss"]
        if removed and way > 0 and ended["asked_loss"] - started["asked_loss"] < FAINT * way:
            line += ": this has almost no effect; a smaller --damping or a larger --length goes further"
    elif untold:
        taken = " and ".join({"damping": "the largest damping", "length": "the formula's length"}[what] for what in untold)
        line += f"; no --validation rows, so {taken} {'were' if len(untold) > 1 else 'was'} taken"
    say(line)


def _files(args: argparse.Namespace, place: Place) -> dict[str, Path]:
    """The files of rows that the flags name, a built-in task's made where they aren't there yet: by kind, absolute."""
    given = given_files(args)
    if args.task and "train" in given:
        raise UserError("--task brings rows of its own: give it or --train")
    made = {} if "train" in given else task_files(args.task or DEFAULT, place.data_dir, place.compute.quiet)
    return {kind: Path(file).resolve() for kind, file in (made | given).items()}


def _training(args: argparse.Namespace, trainer: Parser) -> dict[str, Any]:
    """How to train, of what the flags say. Raises UserError for one that says nothing to the optimizer."""
    for other, keys in READ.items():
        if other != args.optimizer and (odd := [key for key in keys if getattr(args, key) != trainer.get_default(key)]):
            what = f"--{odd[0].replace('_', '-')} has no effect on --optimizer {args.optimizer}"
            raise UserError(f"{what}: leave it out, or give --optimizer {other}")
    return {"optimizer": args.optimizer} | {key: getattr(args, key) for key in READ[args.optimizer]}


def _write(session: Session, output: Path, record: dict[str, Any]) -> None:
    write_adapter(session.peft_model, output, record, cards.adapter(record, output.name))


def _metered(work: Callable[[], Any], compute: Compute) -> tuple[dict[str, float], Any]:
    """What work() costs and returns: ({"seconds", "memory_mib"}, result)."""
    reset_peak_memory(compute.device)
    started = clock(compute.device)
    result = work()
    return {"seconds": clock(compute.device) - started, "memory_mib": peak_memory_mib(compute.device)}, result


def _provenance(command: str, compute: Compute) -> dict[str, Any]:
    return provenance(command, device_name(compute.device))


def run(args: argparse.Namespace, command: str, unlearn: Step, shared: Workspace | None = None) -> Path | None:
    """Carry out the command line's action; of those that write an adapter the folder is returned."""
    again = args.action != "evaluate" and args.checkpointing  # there is no backward pass in scoring
    place = Place(args.data_dir, args.weights, Compute.from_flags(args), shared or Workspace(), again)
    if args.action == "evaluate":
        print(scores.table(args, place))
        return None
    return finetune(args, command, place) if args.action == "finetune" else answer(args, command, place, unlearn)
