"""Adapters at work: a session puts an adapter on its base with the rows that it was trained on."""

import argparse
import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.files import sha256
from unlearning.core.paths import stamp
from unlearning.core.words import say, silent
from unlearning.language import adapters, prompts
from unlearning.language.base import base_fingerprint, load_base
from unlearning.language.batches import Batch, Tokens, batches_of, row_means, token_log_likelihoods
from unlearning.language.forward import WHOLE, Forward, check_short_way, read_states
from unlearning.language.requests import edited
from unlearning.language.rows import Row, as_recorded, digest, read_rows

Rows = Sequence[Row]
FEW = 0.1  # share of unseen rows that may be like a training row by chance
UNSEEN = ("validation", "test")  # files of rows that an adapter wasn't trained on
REST = 0.05  # times a row's gradient: how long the objective's may be where training is said to have come to rest


class Workspace:
    """What several runs in one process hand on to each other: the base, its frozen part's output, what prompts
    leave in its cache, and the rows read last."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, Any]] = {}

    def last(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns; the last of its kind is kept for as long as it is asked for by the same key."""
        if kind not in self._last or self._last[kind][0] != key:
            self._last.pop(kind, None)  # before the next one is made, so that only one at a time takes memory
            self._last[kind] = key, make()
        return self._last[kind][1]


@dataclass(frozen=True)
class Place:
    """Where data and adapters lie, where to compute, and what runs hand on to each other. checkpointing: as Forward's."""

    data_dir: Path
    weights: Path
    compute: Compute
    workspace: Workspace
    checkpointing: bool = False

    def rows(self, file: str | Path, flag: str) -> list[Row]:
        """The rows of a file, read once as long as it stays as it is."""
        path = Path(file)
        tell = silent if self.compute.quiet else say
        return self.workspace.last(f"rows {flag}", (path, stamp(path)), lambda: read_rows(path, flag, tell))

    def base(self, name: str, precision: str) -> tuple[Any, Any, str, str]:
        """A base with its tokenizer, or processor, and the SHA-256 of its weights and of its configuration."""

        def load() -> tuple[Any, Any, str, str]:
            model, processor, config = load_base(name, self.data_dir, self.compute.device, precision, self.compute.quiet)
            return model, processor, base_fingerprint(model), config

        return self.workspace.last("base", (name, precision, self.data_dir, self.compute.device), load)


@dataclass(frozen=True)
class Session:
    """An adapter at work.

    record: what it was trained on, completed by the base's digest. rows: as they are now, None where removed. decay:
    the weight of |Theta|^2 / 2. processor: the base's tokenizer, or what holds it of one that sees images. allowed:
    of a closed choice, which tokens answers are made of, bool (V,); None for all. source: the adapter's folder; None for
    a new one. quiet: show no progress. encoded: Tokens of the rows that were asked for, by row and folder, which tells where
    its image lies.
    """

    record: dict[str, Any]
    processor: Any
    peft_model: Any
    forward: Forward
    parameters: list[nn.Parameter]
    rows: list[Row | None]
    validation: list[Row]
    test: list[Row]
    allowed: torch.Tensor | None
    source: Path | None = None
    quiet: bool = True
    encoded: dict[tuple[Row, str], Tokens] = field(default_factory=dict)

    @property
    def decay(self) -> float:
        """The weight of |Theta|^2 / 2 in the training objective, and so in its Hessian."""
        return self.record["decay"]

    @property
    def without_checkpointing(self) -> "Session":
        """The same, for what checkpointing saves no memory or computes wrongly: products with Gauss-Newton keep the graph of
        their gradient, in which all is computed again; and curvlinops counts what passes a layer twice."""
        forward = copy.copy(self.forward)
        forward.checkpointing = False
        return replace(self, forward=forward)

    @property
    def at_rest(self) -> bool:
        """True where the training ended with the objective's gradient near zero, as the formula presumes it."""
        return self.record["training"]["optimizer"] == "lbfgs" and self.record.get("gradient", 0.0) <= REST

    @property
    def places(self) -> int | None:
        """How many tokens the base takes; None where its configuration doesn't say."""
        return getattr(self.forward.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def known(self) -> int:
        """How many different tokens the base has embeddings of."""
        return self.forward.model.get_input_embeddings().weight.shape[0]

    def tokens(self, rows: Sequence[Row | None]) -> list[Tokens]:
        """Rows, but for the removed ones, as Tokens, each made once a session."""
        there = [(row, row.folder) for row in rows if row is not None]
        new = [key for key in dict.fromkeys(there) if key not in self.encoded]
        made = prompts.encode(self.processor, [row for row, _ in new], self.record["prompt"], self.places, self.known)
        self.encoded.update(zip(new, made, strict=True))
        return [self.encoded[key] for key in there]

    def batches(self, rows: Sequence[Row | None], most: int | None = None) -> list[Batch]:
        """Rows, but for the removed ones, as batches with their frozen part computed. most: rows of a batch."""
        tokens = self.tokens(rows)
        self.forward.keep(tokens, self.quiet)
        return batches_of(tokens, self.forward.device, most)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits float32 (tokens, V) of the answered tokens; of a closed choice -inf where no answer has a token."""
        logits = self.forward.logits(batch)
        return logits if self.allowed is None else logits.masked_fill(~self.allowed, -torch.inf)

    def losses(self, batch: Batch) -> torch.Tensor:
        """The loss of each row, float32 (N,): cross-entropy in nats, mean over its answer's tokens."""
        return row_means(batch, -token_log_likelihoods(self.logits(batch), batch))

    def check_choice(self, rows: Sequence[Row]) -> None:
        """Raise UserError for a row whose response has tokens that no answer had when --loss choice was fixed."""
        if self.allowed is None:
            return
        for row, tokens in zip(rows, self.tokens(rows), strict=True):
            if not bool(self.allowed[list(tokens.response)].all()):
                raise UserError(
                    f"row {row.name}: its response is made of other tokens than the answers that --loss choice knows"
                )

    def losses_of(self, rows: Sequence[Row | None]) -> torch.Tensor:
        """The loss of each row, float32 (N,), without a gradient."""
        with torch.no_grad():
            return torch.cat([self.losses(batch) for batch in self.batches(rows)])


def given_files(args: argparse.Namespace) -> dict[str, str]:
    """The files of rows that flags name, by kind, absolute."""
    return {kind: str(Path(file).resolve()) for kind in ("train", *UNSEEN) if (file := getattr(args, kind))}


@contextlib.contextmanager
def session_of(record: dict[str, Any], place: Place, source: Path | None = None, afresh: bool = False) -> Iterator[Session]:
    """A Session on what an adapter's record says, while the context lasts.

    source: its folder; None: a new one, as the record's `lora` says. afresh: one of the same shape at its start. Raises
    UserError when the base or the rows aren't those that the adapter was trained on.
    """
    model, processor, weights, config = place.base(record["base"], record["precision"])
    for known, now, what in (("base_sha256", weights, "weights"), ("config_sha256", config, "config.json")):
        if record.get(known, now) != now:
            which = f"another base than this {record['base']}"
            raise UserError(f"{source} is an adapter of {which}: the fingerprints of their {what} differ")
    rows = current_rows(record, place)
    others: Any = {
        kind: place.rows(record["files"][kind], f"--{kind}") if record["files"].get(kind) else [] for kind in UNSEEN
    }
    for kind, unseen in others.items():
        if (seen := _seen(unseen, rows)) > FEW * len(unseen):
            say(f"warning: {seen} of {len(unseen)} rows of --{kind} are training rows, of which nothing unseen can be read")
    start: Any = source
    if source is None or afresh:
        start = adapters.lora_config(model, **record["lora"]) if source is None else adapters.start_of(source)
        torch.manual_seed(record["seed"])
    with adapters.adapted(model, start) as peft_model:
        complete = record | {"base_sha256": weights, "config_sha256": config}
        if record["prompt"] == "auto":
            complete["prompt"] = prompts.form_for(processor, [row for row in rows if row])
        forward = _forward(peft_model, place, f"{weights[:12]}-{config[:8]}-{complete['precision']}")
        if hasattr(processor, "image_processor"):
            forward.pixels = prompts.pixels_of(processor, forward.device)
        session = Session(
            complete,
            processor,
            peft_model,
            forward,
            adapters.trainable(peft_model),
            rows,
            **others,
            allowed=None,
            source=source,
            quiet=place.compute.quiet,
        )
        forward = _checked(session, place)
        if record.get("tokens_sha256") and record["tokens_sha256"] != tokens_digest(session, rows):
            why = "the base's tokenizer or chat template has changed, the template states the date, or it was written when "
            why += "answers were tokenized apart from their prompts"
            say(f"warning: rows are other tokens than when {source} was written: {why}")
        yield replace(session, forward=forward, allowed=_allowed(session) if record["loss"] == "choice" else None)


def _seen(unseen: Sequence[Row], rows: Sequence[Row | None]) -> int:
    """How many rows are, but for their names, among those that are trained on."""
    known = {replace(row, name="") for row in rows if row}
    return sum(replace(row, name="") in known for row in unseen)


def current_rows(record: dict[str, Any], place: Place) -> list[Row | None]:
    """The rows that an adapter stands for, out of its file and as its edits have left them; removed ones are None, in the
    file or not. Raises UserError for others that changed or are gone."""
    removed = {edit["id"] for edit in record["edits"] if "remove" in edit}
    wanted = {name: content for name, content in record["rows"] if name not in removed}
    rows = [row for row in place.rows(record["files"]["train"], "--train") if row.name not in removed]
    tell = silent if place.compute.quiet else say
    there = {row.name: row for row in as_recorded(wanted, rows, f"--train {record['files']['train']}", tell)[0]}
    edits = [edit for edit in record["edits"] if edit["id"] not in removed]
    return edited([there.get(name) for name, _ in record["rows"]], edits)


def versions(record: dict[str, Any], names: Sequence[str], place: Place) -> list[Row]:
    """Rows of these names as they were trained on first, and as each edit has left them, as far as that is still known; none
    of one that the file has no more, or has blackened."""
    trained = {name: content for name, content in record["rows"] if name in names}
    found = [row for row in place.rows(record["files"]["train"], "--train") if row.name in trained]
    found = [row for row in found if digest(row) == trained[row.name]]
    now = {row.name: row for row in found}
    for edit in record["edits"]:
        if edit["id"] in now and (row := edited([now[edit["id"]]], [edit])[0]):
            now[row.name] = row
            found.append(row)
    return found


def _forward(peft_model: Any, place: Place, base: str) -> Forward:
    """The short way through a model, with what is kept of its frozen part."""
    way = Forward(peft_model)
    way.checkpointing = place.checkpointing
    way.store = store = place.weights / "frozen" / f"{base}-{len(way.frozen)}-{way.way}.pth"
    if way.way == WHOLE:  # nothing is kept, but other adapters' files may have rows that are to be forgotten
        return way
    key = store, id(peft_model.get_base_model())
    way.kept = place.workspace.last("frozen", key, lambda: read_states(store))
    way.read = place.workspace.last("read", key, dict)
    return way


def _checked(session: Session, place: Place) -> Forward:
    """The Forward to compute with: the short way, where it gives the whole model's logits on some of the rows."""
    some = session.tokens([row for row in session.rows if row is not None][:64])
    if merged := sum(row.merged for row in some):
        place.workspace.last("merged", [row.key for row in some], lambda: _say_merged(merged, len(some)))
    forward, differs, might = check_short_way(session.forward, some)
    if forward is not session.forward:
        say(
            f"the frozen part can't be kept on this model: logits would differ by {differs:.1g} of their spread, and may by "
            f"{might:.1g}; the whole model is computed each time"
        )
    return forward


def _say_merged(merged: int, of: int) -> None:
    cut = "the end of the prompt and the beginning of the response are one token, which is taken as answered"
    say(f"note: in {merged} of {of} rows that were looked at {cut}")


def _allowed(session: Session) -> torch.Tensor:
    """Which tokens the answers to the session's rows are made of, bool (V,)."""
    size = session.forward.model.get_output_embeddings().weight.shape[0]
    allowed = torch.zeros(size, dtype=torch.bool, device=session.forward.device)
    if "choice" in session.record:  # as it was when the adapter was trained, whatever has become of its rows since
        allowed[session.record["choice"]] = True
        return allowed
    for tokens in session.tokens([*session.rows, *session.validation, *session.test]):
        allowed[list(tokens.response)] = True
    return allowed


def tokens_digest(session: Session, rows: Sequence[Row | None]) -> str:
    """A SHA-256 of what rows are as tokens: another tokenizer or chat template makes others of the same rows."""
    return hashlib.sha256(repr([tokens.key for tokens in session.tokens(rows)]).encode()).hexdigest()


def digest_of(folder: Path) -> str:
    """A SHA-256 of an adapter's weights and of what PEFT says of them. Raises UserError where there are none."""
    for name in (adapters.ADAPTER, "adapter_model.bin"):
        if (folder / name).is_file():
            return hashlib.sha256(f"{sha256(folder / name)} {sha256(folder / adapters.CONFIG)}".encode()).hexdigest()
    raise UserError(f"{folder} has no weights: neither {adapters.ADAPTER} nor adapter_model.bin is there")


def short_digest(value: object) -> str:
    """Eight hex digits of a value's text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
