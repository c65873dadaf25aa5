"""A language model's logits where a row is answered, by its own forward pass; what is frozen is computed once.

An adapter sits in some of the model's blocks. What lies below the first of them is frozen and has no dropout, so its output
is computed once a row and kept. Afterwards the *whole* model runs with its own code, but the frozen blocks hand out what was
kept in place of computing it: masks, positions, scalings and the output layer stay what the model's authors wrote. Whether
that gives the whole model's logits is measured on a few rows before anything is trained (`check_short_way`).
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from unlearning.core import content
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import being_replaced, read_torch, write_torch
from unlearning.core.locks import locked, settle
from unlearning.core.words import first_line, say
from unlearning.language.batches import TOKENS, Batch, Tokens, batch_of, batches_of, row_means, token_log_likelihoods
from unlearning.language.blocks import attention_of, blocks_of, first_adapted, is_trained

CLOSE = 1e-4  # of the logits' spread: what rounding in fp32 makes of another order of the same sums
CHECKED = 4  # rows on which the short way is compared with the whole model
WHOLE, BLOCKS, ANSWERS = "whole", "blocks", "answers"  # how much of a model is computed each time
States = dict[str, list[torch.Tensor]]  # the frozen part's output, by Tokens.key
Pixels = Callable[[Sequence[Tokens]], dict[str, torch.Tensor]]


class Forward:
    """A causal language model with an adapter as a function from batches to logits at what is answered.

    model: of transformers, its adapted parameters the only ones with a gradient. way: WHOLE computes everything each time;
    without it the most is saved that the adapter allows. pixels: function of rows, giving what the model takes beside their
    ids, of one that sees images. checkpointing: keep only what the blocks are given, and compute them again in each backward
    pass (Chen et al. 2016): the same bits in less memory. store: a file for the frozen part's output, or None, which the
    way WHOLE doesn't write, but forgets what others beside it keep; kept: what it holds, by Tokens.key. read: what prompts
    that are answered together leave in the model's cache, by their rows' keys.
    """

    def __init__(self, model: Any, way: str | None = None, pixels: Pixels | None = None) -> None:
        self.checkpointing = False
        self.store: Path | None = None
        self.model, self.pixels = model, pixels or (lambda rows: {})
        self.blocks = blocks_of(model)
        first = first_adapted(model, self.blocks)
        self.frozen = self.blocks[:first]
        last = list(self.blocks[-1:]) if first == len(self.blocks) - 1 else []
        self.attention = next((a for block in last if (a := attention_of(block)) and not is_trained(a)), None)
        # In the last block what follows attention looks at each place by itself: only answered places are needed.
        answers = first == len(self.blocks) or self.attention is not None
        self.way = way or (WHOLE if first == 0 else ANSWERS if answers else BLOCKS)
        self.kept: States = {}
        self.read: dict[tuple[str, ...], Any] = {}
        self.forms: list[Callable[[torch.Tensor], Any]] = []

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def _handing(self) -> list[nn.Module]:
        """The frozen modules that hand a state on to what is computed each time."""
        return [*self.frozen[-1:], *([self.attention] if self.attention and self.way == ANSWERS else [])]

    @property
    def _recomputed(self) -> Sequence[nn.Module]:
        """The blocks that are computed again in a backward pass. A single one above kept attention isn't: by then its
        attention hands nothing out any more, and little would be saved."""
        alone = not self.checkpointing or self.way == ANSWERS
        return [] if alone else self.blocks if self.way == WHOLE else self.blocks[len(self.frozen) :]

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits float32 (tokens, V) of every answered token, in the order of batch.targets[batch.asked]."""
        if self.way == WHOLE:
            with _computed_again(self._recomputed):
                return self._run(batch.ids, batch.mask, batch.asked, self.pixels(batch.rows))
        self.keep(batch.rows)
        asked = batch.asked
        if self.way == ANSWERS:
            kept = [torch.cat(parts)[:, None] for parts in zip(*(self.kept[row.key] for row in batch.rows), strict=True)]
            ids = batch.ids[asked][:, None]  # a sequence of one token each: nothing looks at another place
            mask, asked = torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool)
        else:
            states = [self.kept[row.key][0] for row in batch.rows]
            kept = [nn.utils.rnn.pad_sequence(states, batch_first=True)]
            ids, mask = batch.ids, batch.mask
        given = dict(zip(self._handing, kept, strict=True))
        with _handing_out(self.frozen, given, self.forms, self.device), _computed_again(self._recomputed):
            return self._run(ids, mask, asked)

    def graph_bytes(self, batches: Sequence[Batch]) -> float:
        """About how many bytes the graphs of gradients of these batches' losses take together, where answered places alone
        are computed: of each the logits and what comes of them in two passes. Infinity where it is whole sequences."""
        if self.way != ANSWERS:
            return math.inf
        answered = sum(int(batch.asked.sum()) for batch in batches)
        return 3 * 4 * answered * self.model.get_output_embeddings().weight.shape[0]

    def losses(self, batch: Batch) -> torch.Tensor:
        """The loss of each row, float32 (N,): cross-entropy in nats, mean over the answer's tokens."""
        return row_means(batch, -token_log_likelihoods(self.logits(batch), batch))

    def keep(self, rows: Sequence[Tokens], quiet: bool = True) -> None:
        """Compute the frozen part's output of rows of which it isn't kept yet."""
        missing = list({row.key: row for row in rows if row.key not in self.kept}.values())
        new = missing
        if not rows or (self.forms and not missing) or self.way == WHOLE:
            return
        if not missing:  # read from the file: how the frozen part hands its states on is still to be seen
            self._states(batch_of(rows[:1], self.device))
            return
        bar = tqdm(total=len(missing), desc="frozen part", unit=" rows", leave=False, disable=quiet or None)
        for several in self._of_one_prompt(missing):
            read, left = self._read(several[0].prompt), iter(several)
            for tails in batches_of(_tails(several), self.device, max(1, TOKENS // len(several[0].prompt))):
                rows = [next(left) for _ in tails.rows]
                self._keep_states(rows, tails.asked, self._states_of_tails(tails, read))
                bar.update(len(rows))
        missing = [row for row in missing if row.key not in self.kept]
        missing.sort(key=lambda row: -len(row.prompt) - len(row.response))
        for batch in batches_of(missing, self.device):
            self._keep_states(batch.rows, batch.asked if self.way == ANSWERS else batch.mask, self._states(batch))
            bar.update(len(batch.rows))
        bar.close()
        if self.store:
            _rewrite(self.store, {_name(row): self.kept[row.key] for row in new}, set())

    @contextlib.contextmanager
    def unwritten(self) -> Iterator[None]:
        """While the context lasts what is computed is kept in memory alone: rows that were removed are scored so, of which
        nothing is to lie in a file, even where scoring is stopped."""
        store, self.store = self.store, None
        try:
            yield
        finally:
            self.store = store

    def forget(self, rows: Sequence[Tokens]) -> None:
        """Remove what is kept of rows: in the store and in the files beside it too, which are of other bases, precisions and
        adapters, and whatever tokens the rows were then; and what killed processes have left of such files. A file that
        can't be cleared is named in a warning."""
        keys = {row.key for row in rows}
        for key in keys & self.kept.keys():
            del self.kept[key]
        folder = self.store.parent if self.store else None
        beside = {*folder.glob("*.pth"), *being_replaced(folder)} if folder else set()
        for file in sorted(file for file in beside if file.suffix == ".pth" and not file.name.startswith(".")):
            try:
                _rewrite(file, {}, keys | {row.of for row in rows if row.of})
            except (UserError, RunFailed) as error:
                say(f"warning: what it may keep of removed rows stays in {file}: delete it ({first_line(error)})")

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor, asked: torch.Tensor, pixels: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The model's own logits, float32 (tokens, V), at the places asked for: the output layer sees no others."""

        def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0][asked][:, None], *inputs[1:])  # each a row by itself, as EK-FAC takes them

        hook = self.model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            return (
                self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False, **pixels or {}).logits[:, 0].float()
            )
        finally:
            hook.remove()

    def _keep_states(self, rows: Sequence[Tokens], places: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
        """Keep the states, float (N, T, D) of each module, of rows at places, bool (N, T)."""
        for i, row in enumerate(rows):
            self.kept[row.key] = [state[i][places[i]].cpu().clone() for state in states]

    def _of_one_prompt(self, rows: Sequence[Tokens]) -> list[list[Tokens]]:
        """Of rows those that share their prompt with others, as candidates do, where answered places alone are kept; none
        where the model goes on from its cache otherwise than it reads the whole."""
        groups: dict[tuple[int, ...], list[Tokens]] = {}
        for row in rows if self.way == ANSWERS else ():
            if len(row.prompt) > 1 and not row.image:
                groups.setdefault(row.prompt, []).append(row)
        found = [group for group in groups.values() if len(group) > 1]
        return found if found and self._goes_on_alike(found[0]) else []

    def _goes_on_alike(self, rows: Sequence[Tokens]) -> bool:
        """True if the states of rows of one prompt are those of whole rows: to CLOSE of their spread, or, in bf16, to what a
        row's differ by between batches."""
        batch, tails = batch_of(rows[:2], self.device), batch_of(_tails(rows[:2]), self.device)
        try:
            found = self._states_of_tails(tails, self._read(rows[0].prompt))
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return False  # a model whose cache is of another kind
        exact = [state.float() for state in self._states(batch)]
        might = [CLOSE * whole[batch.asked].std() for whole in exact]
        if self.model.dtype != torch.float32:
            alone = batch_of(rows[:1], self.device)
            length, states = alone.ids.shape[1], self._states(alone)
            off = [(whole[0, :length] - one[0].float())[alone.asked[0]] for whole, one in zip(exact, states, strict=True)]
            might = [torch.maximum(least, noise.abs().max()) for least, noise in zip(might, off, strict=True)]
        differ = [(f[tails.asked].float() - e[batch.asked]).abs().max() for f, e in zip(found, exact, strict=True)]
        return all(bool(off <= most) for off, most in zip(differ, might, strict=True))

    def _read(self, prompt: Sequence[int]) -> Any:
        """The model's cache (keys and values of its attention) after a prompt but for its last token."""
        from transformers import DynamicCache

        read = DynamicCache(config=self.model.config)
        ids = torch.tensor([prompt[:-1]], device=self.device)
        self._watched({"input_ids": ids, "use_cache": True, name_of_cache(): read})
        return read

    def _states_of_tails(self, tails: Batch, read: Any) -> list[torch.Tensor]:
        """As `_states`, of rows from the last token of their one prompt on. read: of `_read`, which stays as it is."""
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(tails.rows))
        mask = nn.functional.pad(tails.mask.long(), (cache.get_seq_length(), 0), value=1)
        return self._watched({"input_ids": tails.ids, "attention_mask": mask, "use_cache": True, name_of_cache(): cache})

    def _states(self, batch: Batch) -> list[torch.Tensor]:
        """What the frozen part gives, of each module that hands it on, float (N, T, D)."""
        with torch.no_grad():
            pixels = self.pixels(batch.rows)
        return self._watched({"input_ids": batch.ids, "attention_mask": batch.mask.long(), "use_cache": False, **pixels})

    def _watched(self, given: dict[str, Any]) -> list[torch.Tensor]:
        """What the modules that hand a state on give when the model is given this."""
        modules, found = self._handing, []
        forms: list[Callable[[torch.Tensor], Any]] = []

        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            forms.append(_like(output))
            if len(found) == len(modules):
                raise _Reached

        hooks = [module.register_forward_hook(watch) for module in modules]
        try:
            with torch.no_grad(), contextlib.suppress(_Reached):
                self.model(**given)
        finally:
            for hook in hooks:
                hook.remove()
        self.forms = forms
        return found


def _tails(rows: Sequence[Tokens]) -> list[Tokens]:
    """Rows from the last token of their prompt on: all of it is where something is answered."""
    return [Tokens(row.prompt[-1:], row.response) for row in rows]


def name_of_cache() -> str:
    """What transformers calls a model's cache; it warns of the name of before 5.24."""
    import transformers
    from packaging.version import Version

    return "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"


def read_states(store: Path) -> States:
    """The frozen part's output as a file has it; none where there is no file. Raises UserError for a damaged one."""
    settle(store)
    return {name.partition("-")[0]: states for name, states in _read(store).items()}


def _name(row: Tokens) -> str:
    """What a row's states are called in a file: by their tokens, and, where it is known, by the row that these are of."""
    return f"{row.key}-{row.of}" if row.of else row.key


def _rewrite(store: Path, new: States, gone: set[str]) -> None:
    """Put what is new into a file, by `_name`, and take out what has a part of its name in `gone`. The rest is left as other
    processes have it: what they have forgotten meanwhile doesn't come back. Errors are those of `locked` and `_read`."""
    if not (new or store.exists() or store in being_replaced(store.parent)):
        return
    with locked(store):  # which clears what a killed process has left of it
        there = _read(store)
        left = {name: states for name, states in there.items() if not gone & set(name.split("-"))}
        if new or len(left) < len(there):
            write_torch(store, left | new)


def _read(store: Path) -> States:
    """As `read_states`, by `_name`, of a file whose lock is held."""
    kept = read_torch(store) if store.exists() else {}
    content.check(kept, content.map_of(content.list_of(_state, 1)), str(store))
    return kept


def _state(value: Any) -> None:
    """The rule for what is kept of a row from one module: a number for each place and feature."""
    content.dense(value)
    content.require(value.dim() == 2 and value.is_floating_point(), "", f"is {content.shown(value)}")


class _Reached(Exception):
    """The frozen part has been computed: what lies above it isn't needed."""


def _like(output: Any) -> Callable[[torch.Tensor], Any]:
    """A function that gives a state in the form in which a module gave it: alone, or first of a tuple."""
    rest = (None,) * (len(output) - 1) if isinstance(output, tuple) else None
    return lambda state: state if rest is None else (state, *rest)


@contextlib.contextmanager
def _handing_out(
    frozen: Sequence[nn.Module],
    given: dict[nn.Module, torch.Tensor],
    forms: Sequence[Callable[[torch.Tensor], Any]],
    device: torch.device,
) -> Iterator[None]:
    """While the context lasts the frozen blocks compute nothing, and those of `given` hand out its states in their forms.

    Their forward methods are replaced, not they themselves: models read attributes of their blocks.
    """

    def hand_on(block: nn.Module, as_given: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
        state = given[block].to(device) if block in given else None

        def forward(*args: Any, **kwargs: Any) -> Any:
            if state is not None:
                return as_given(state)
            return as_given(args[0] if args else kwargs["hidden_states"])

        return forward

    form_of = dict(zip(given, forms, strict=True))
    modules = list(dict.fromkeys([*frozen, *given]))
    try:
        for module in modules:
            module.forward = hand_on(module, form_of.get(module, forms[0]))  # blocks are of one kind: of one form
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


@contextlib.contextmanager
def _computed_again(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """While the context lasts, blocks keep for a backward pass what they are given alone, and are computed again there.

    transformers' own checkpointing does so in training mode alone, which would turn dropout on.
    """
    try:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # else: no second derivative
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def check_short_way(forward: Forward, rows: Sequence[Tokens]) -> tuple[Forward, float, float]:
    """(The Forward to go on with, how far it is from the whole model, how far it may be), in shares of the logits' spread.

    Compared on a few rows, of unlike lengths. Where it is farther than CLOSE, or, in bf16, than the whole model is from
    itself between a row alone and a batch of all, the whole model is gone on with.
    """
    if forward.way == WHOLE:
        return forward, 0.0, CLOSE
    by_length = sorted(rows, key=lambda row: len(row.prompt) + len(row.response))
    some = [by_length[i * (len(by_length) - 1) // max(1, CHECKED - 1)] for i in range(min(CHECKED, len(by_length)))]
    batch, whole = batch_of(some, forward.device), Forward(forward.model, way=WHOLE, pixels=forward.pixels)
    whole.checkpointing = forward.checkpointing
    with torch.no_grad():
        exact, found = whole.logits(batch), forward.logits(batch)
        spread = float(exact.std())
        might = CLOSE
        if forward.model.dtype != torch.float32:
            alone = torch.cat([whole.logits(batch_of([row], forward.device)) for row in some])
            might = max(might, float((alone - exact).abs().max()) / spread)
    differs = float((found - exact).abs().max()) / spread
    if differs <= might:
        return forward, differs, might
    forward.kept.clear()
    if forward.store:  # nobody asks for these any more
        _rewrite(forward.store, {}, {row.key for row in some})
    whole.store = forward.store
    return whole, differs, might
