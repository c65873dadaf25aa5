"""Answers in full: what an adapter says in plain generation, and how like the wanted one that is."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from unlearning.language import prompts
from unlearning.language.batches import Tokens
from unlearning.language.forward import ANSWERS, name_of_cache
from unlearning.language.rows import Row
from unlearning.language.session import Session

AT_ONCE = 8  # rows that are answered together
MARGIN = 4  # tokens that an answer may be longer than the longest wanted one
MOST_READ = 2**31  # bytes of what prompts leave in a model's cache


def answers(session: Session, rows: Sequence[Row]) -> list[str]:
    """What the adapter answers to each row, greedily, up to the token that ends an answer, or to the base's last place."""
    found: list[str] = []
    every = session.tokens(rows)
    longest, places = max((len(tokens.response) for tokens in every), default=0) + MARGIN, session.places
    for i in range(0, len(every), AT_ONCE):
        some = every[i : i + AT_ONCE]
        left = places - max(len(tokens.prompt) for tokens in some) if places else longest
        found += _answered(session, some, max(1, min(longest, left)))
    return found


def _answered(session: Session, rows: Sequence[Tokens], longest: int) -> list[str]:
    asked = [row.prompt for row in rows]
    width, device = max(map(len, asked)), session.forward.device
    ids = torch.tensor([(0,) * (width - len(tokens)) + tokens for tokens in asked], device=device)
    mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in asked], device=device)
    tokenizer, ends = prompts.text_part(session.processor), _ends(session)
    greedy: dict[str, Any] = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "eos_token_id": ends or None,
    }
    greedy |= {"pad_token_id": ends[0] if ends else 0}
    with torch.no_grad():
        if pixels := session.forward.pixels(rows):
            greedy |= pixels
        elif read := _read(session, rows, ids, mask, greedy):
            greedy[name_of_cache()] = read
        out = session.peft_model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, **greedy)
    texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _read(session: Session, rows: Sequence[Tokens], ids: torch.Tensor, mask: torch.Tensor, how: dict[str, Any]) -> Any:
    """A copy of the model's cache (keys and values of its attention) after all tokens of prompts but the last, where an
    adapter lies above every attention and so leaves it as it is: it is computed once for all adapters. Else None, as where
    the cache doesn't say how far it has read."""
    forward, key = session.forward, tuple(row.key for row in rows)
    if forward.way != ANSWERS or ids.shape[1] < 2:
        return None
    if key not in forward.read:
        how = how | {"max_new_tokens": 1, "return_dict_in_generate": True}
        found = session.peft_model.generate(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], **how)[name_of_cache()]
        if _length(found) != ids.shape[1] - 1:  # generation would read all of the prompt once more
            return None
        while forward.read and sum(map(_bytes, [found, *forward.read.values()])) > MOST_READ:
            del forward.read[next(iter(forward.read))]  # the oldest
        forward.read[key] = found
    return copy.deepcopy(forward.read[key])


def _length(cache: Any) -> int:
    """How many tokens a model's cache says it has read: 0 where none of its layers counts them, as in state space models."""
    try:
        return cache.get_seq_length()
    except ValueError:
        return 0


def _bytes(cache: Any) -> int:
    """Bytes of all tensors of a model's cache: keys and values, or what layers of another kind keep, as linear attention."""
    return sum(_bytes_within(value) for layer in cache.layers for value in vars(layer).values())


def _bytes_within(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_bytes_within, parts))


def _ends(session: Session) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the base's own generation, as a turn's end of a chat."""
    own: Any = session.peft_model.generation_config.eos_token_id
    every = [prompts.text_part(session.processor).eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in every if token is not None))


def hit_ratio(said: Sequence[str], rows: Sequence[Row]) -> float:
    """How many answers are the wanted one, in percent: LLaRA's HitRatio@1 (Liao et al. 2024) where rows have candidates."""
    return 100 * sum(text == row.response.strip() for text, row in zip(said, rows, strict=True)) / len(rows)


def valid_ratio(said: Sequence[str], rows: Sequence[Row], listed: Sequence[str]) -> float:
    """How many answers are one of the row's candidates, else of `listed`, in percent: LLaRA's ValidRatio."""
    valid = [text in {choice.strip() for choice in row.choices or listed} for text, row in zip(said, rows, strict=True)]
    return 100 * sum(valid) / len(rows)


def rouge_l(said: Sequence[str], rows: Sequence[Row]) -> float:
    """The mean F-measure of ROUGE-L (Lin 2004) of answers against the rows' own, in percent: by words, without case."""
    return 100 * sum(_rouge_l(text, row.response) for text, row in zip(said, rows, strict=True)) / len(rows)


def _rouge_l(text: str, wanted: str) -> float:
    a, b = text.lower().split(), wanted.lower().split()
    lengths = [0] * (len(b) + 1)  # of the longest common subsequence with each beginning of b
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, lengths[j] = lengths[j], before + 1 if word == other else max(lengths[j], lengths[j - 1])
    return 2 * lengths[-1] / (len(a) + len(b)) if a and b else 0.0
