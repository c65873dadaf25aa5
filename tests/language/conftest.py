"""A tiny random Llama with a tokenizer of whole words, rows that words decide, and an adapter that was trained on them."""

import copy
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import llmeraser
from tests.helpers import built_once, call, files
from unlearning.core.device import Compute
from unlearning.core.paths import stamp
from unlearning.core.words import silent
from unlearning.language import influence
from unlearning.language import session as session_module
from unlearning.language.adapters import read_record
from unlearning.language.base import _no_progress_bars
from unlearning.language.batches import batch_of
from unlearning.language.prompts import encode
from unlearning.language.rows import read_rows
from unlearning.language.session import Place, Workspace, session_of

COLOURS = ("red", "green", "dark blue")  # the last has two tokens
WORDS = [f"w{i}" for i in range(12)]
VOCABULARY = {word: i for i, word in enumerate(["<unk>", "<end>", *WORDS, "film", "red", "green", "dark", "blue"])}
SIZES = {"train": 60, "validation": 20, "test": 20}


def tokenizer(**more):
    """A tokenizer of the words above."""
    of_words = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    of_words.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=of_words, unk_token="<unk>", eos_token="<end>", **more)


def save_base(folder, seed=0, config=None):
    """Write a tiny random causal language model, a Llama if not another, and its tokenizer."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(VOCABULARY)}
    torch.manual_seed(seed)
    config = config or transformers.LlamaConfig(eos_token_id=1, **sizes, **heads)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with _no_progress_bars():
        model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_lines(file, lines):
    """Write objects as JSONL."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def lines_of_rows(count, seed):
    """Rows as objects: the answer is the colour of the last word."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        chosen = [int(i) for i in rng.integers(12, size=rng.integers(2, 6))]
        yield {"query": "film " + " ".join(WORDS[i] for i in chosen), "response": COLOURS[chosen[-1] % 3]}


@pytest.fixture(scope="session", autouse=True)
def bases_read_once():
    """A base is read once a process, as long as its files stay as they are: each session has a copy of its own."""
    known, load = {}, session_module.load_base

    def loaded(name, data_dir, *how):
        there = sorted((file.name, *stamp(file)) for file in Path(name).glob("*"))
        key = repr((name, how, there))
        if not there or key not in known:
            known[key] = load(name, data_dir, *how)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "load_base", loaded)
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with base/, other/ of other weights, train.jsonl and its like, and adapter/, trained on them to rest."""

    def build(folder):
        save_base(folder / "base")
        save_base(folder / "other", 1)
        for seed, (kind, count) in enumerate(SIZES.items()):
            write_lines(folder / f"{kind}.jsonl", lines_of_rows(count, seed))
        finetune(folder, folder / "adapter")

    return built_once(tmp_path_factory, "llm", build)


def finetune(place, output, *flags, **how):
    """Train an adapter on the rows of `place`; what is frozen lies beside the folder that is written."""
    data = [word for kind in SIZES for word in (f"--{kind}", place / f"{kind}.jsonl")]
    usual = ("--base", place / "base", "--decay", 0.05, "--weights", output.parent, "--quiet")
    return call(llmeraser, "finetune", *data, *usual, "--output", output, *flags, **how)


def request(adapter, kind, output, *flags, **how):
    """Answer a request about an adapter's rows."""
    return call(llmeraser, kind, adapter, "--weights", output.parent, "--output", output, "--quiet", *flags, **how)


def foreign(base, folder, rows=None, **config):
    """Write an adapter as PEFT does, its weights random. rows: a file of rows to train it on as TRL does, by AdamW with
    dropout. The same one is made once a process."""
    folder.mkdir(exist_ok=True)
    for name, content in _made(base, rows, json.dumps(config)).items():
        (folder / name).write_bytes(content)
    torch.manual_seed(0)  # whatever is drawn next doesn't depend on who made it
    return folder


@functools.cache
def _made(base, rows, config):
    """The files of `foreign`: {name: bytes}."""
    with _no_progress_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "lora_dropout": 0.05}
    peft_model = get_peft_model(model, LoraConfig(**usual | json.loads(config)))
    trained = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    if rows is None:
        for parameter in trained:
            torch.nn.init.normal_(parameter, std=0.1)
    else:
        known, optimizer = tokenizer(), torch.optim.AdamW(trained, lr=5e-3)
        batches = encode(known, read_rows(rows, tell=silent), "plain")
        for step in range(60):
            batch = batch_of(batches[8 * step % len(batches) :][:8])
            labels = torch.where(batch.asked, batch.targets, -100)
            logits = peft_model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    with tempfile.TemporaryDirectory() as place:
        peft_model.save_pretrained(place)
        return files(Path(place))


def where(folder):
    """Where a session finds its frozen part, alone."""
    return Place(folder, folder, Compute("cpu", None, folder, quiet=True), Workspace())


def session(adapter, folder, source=True, **changes):
    """A session of an adapter, or of a new one as its record says with changes."""
    record = read_record(adapter) | changes
    return session_of(record, where(folder), adapter if source is True else source)


def parameters(adapter, folder):
    """An adapter's parameters, float32 (p,)."""
    with session(adapter, folder) as now:
        return influence.flat(now.parameters).detach().clone()


@pytest.fixture
def small(place, tmp_path):
    """A session of a new adapter of rank 1, p = 80, at a place that isn't its start, decay 0.05; rows 4 and 5 of its 60 are
    gone."""
    lora = {"rank": 1, "alpha": 16, "targets": ["down_proj"], "blocks": 1}
    gone = [{"id": name, "remove": True} for name in ("4", "5")]
    with session(place / "adapter", tmp_path, None, lora=lora, edits=gone) as now:
        size = influence.flat(now.parameters).numel()
        assert size == 48 + 32
        influence.assign(now.parameters, 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(0)))
        yield now


def losses_of(now, rows):
    """The loss of each row, float32 (N,), with a gradient; by the whole model, one row after another."""
    found = []
    for row in rows:
        if row is not None:
            (tokens,) = now.tokens([row])
            logits = now.peft_model(input_ids=torch.tensor([tokens.prompt + tokens.response])).logits[0]
            at = logits[len(tokens.prompt) - 1 : -1].float()
            found.append(torch.nn.functional.cross_entropy(at, torch.tensor(tokens.response)))
    return torch.stack(found)


def with_hard_unseen_rows(now):
    """The session with those five of its validation rows that the adapter knows least, so that a removal has a way to go."""
    order = now.losses_of(now.validation).argsort(descending=True)
    return replace(now, validation=[now.validation[i] for i in order[:5]])


def record_of(folder):
    """An adapter's record as it stands in its file."""
    return json.loads(Path(folder, "record.json").read_text(encoding="utf-8"))
