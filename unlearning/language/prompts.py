"""Rows as token ids: what a model is asked, and what it answers with; and images that it is asked about.

chat: by the tokenizer's own chat template. alpaca: by Stanford Alpaca's published template (Taori et al. 2023), which
TALLRec and LLaRA use. plain: the query, the end of a line, the response. raw: the prompt and what completes it, as TRL puts
them together. An answer ends with the token that ends one, so that a model learns to stop.

Prompt and answer are tokenized together and then cut, as trainers do it (TRL, alpaca-lora, TALLRec): an answer by itself may
be other tokens, as with SentencePiece, which puts a space before the first word of a text. See `_cut`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.files import sha256
from unlearning.core.words import first_line
from unlearning.language.batches import Tokens
from unlearning.language.rows import Row, digest, few

FORMS = ("chat", "alpaca", "plain", "raw")
ALPACA = (
    "Below is an instruction that describes a task{paired}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}{input}\n\n### Response:\n"
)
PAIRED = ", paired with an input that provides further context"


def form_for(processor: Any, rows: Sequence[Row]) -> str:
    """The form that rows have where nobody says it: TRL's plain prompts as they are; else a chat model's template."""
    if rows and rows[0].raw:
        return "raw"
    return "chat" if text_part(processor).chat_template else "plain"


def text_part(processor: Any) -> Any:
    """The tokenizer of a processor; of a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def _with_image(processor: Any, row: Row, tokens: Tokens) -> Tokens:
    """The same, with as many places for the row's image in its prompt as the processor gives it. Raises UserError for a base
    that sees none, and for images that can't be read."""
    if not hasattr(processor, "image_processor"):
        raise UserError(f"row {row.name} is about an image: the base sees none")
    path, sign = Path(row.folder, row.image).resolve(), processor.image_token_id
    given = {"text": processor.image_token, "images": read_image(path)}
    alone = processor(**given, return_tensors="pt").input_ids
    if (count := tokens.prompt.count(sign)) != 1:
        raise UserError(f"row {row.name}: its prompt has {count} places for its one image ({processor.image_token})")
    at = tokens.prompt.index(sign)
    spread = (sign,) * int((alone == sign).sum())
    prompt = (*tokens.prompt[:at], *spread, *tokens.prompt[at + 1 :])
    return replace(tokens, prompt=prompt, image=str(path), shown=sha256(path))


def pixels_of(processor: Any, device: Any) -> Callable[[Sequence[Tokens]], dict[str, torch.Tensor]]:
    """A function of rows, giving what a model that sees images takes beside their ids."""

    def pixels(rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        images = [read_image(Path(row.image)) for row in rows if row.image]
        if not images:
            return {}
        made = processor.image_processor(images=images, return_tensors="pt")
        return {name: value.to(device) for name, value in made.items() if isinstance(value, torch.Tensor)}

    return pixels


def read_image(path: Path) -> Any:
    """An image of PIL's in RGB. Raises UserError for one that can't be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read ({first_line(error)})") from None


def encode(
    processor: Any, rows: Sequence[Row], form: str, longest: int | None = None, known: int | None = None
) -> list[Tokens]:
    """Rows as Tokens in one of FORMS. processor: or a tokenizer, of a base that sees none. longest: tokens that it takes.
    known: different ones that it has embeddings of.

    Raises UserError for rows that are longer, have no tokens, or such as the base doesn't know, for a chat template that
    refuses one, and where none is.
    """
    tokenizer = text_part(processor)
    if form == "chat" and not tokenizer.chat_template:
        raise UserError("--prompt chat: the base's tokenizer has no chat template; --prompt plain, or alpaca, needs none")
    if form != "chat" and tokenizer.eos_token_id is None:
        raise UserError(f"--prompt {form}: the base's tokenizer has no token that ends a text")
    sign, found = getattr(processor, "image_token", ""), []
    for row in rows:
        said = any(sign in content for _, content in row.messages)  # as in LLaVA's files
        above = sign + "\n" if row.image and not said else ""
        tokens = _chat(tokenizer, row, above) if form == "chat" else _text(tokenizer, row, form, above)
        if not tokens.prompt or not tokens.response:
            raise UserError(f"row {row.name} has no tokens in its {'response' if tokens.prompt else 'query'}")
        if sign and said and not row.image:
            raise UserError(f"row {row.name} has a place for an image ({sign}), and no image")
        tokens = _with_image(processor, row, tokens) if row.image else tokens
        found.append(replace(tokens, of=digest(row)))
    if known:
        _check_known(processor, rows, found, known)
    lengths = [len(tokens.prompt) + len(tokens.response) - 1 for tokens in found]
    if longest and (long := [i for i, length in enumerate(lengths) if length > longest]):
        which, most = few(rows[i].name for i in long), max(lengths[i] for i in long)
        why = f"up to {most} tokens: the base takes {longest}"
        raise UserError(f"{len(long)} of {len(rows)} rows are too long ({which}), {why}")
    return found


def _check_known(processor: Any, rows: Sequence[Row], every: Sequence[Tokens], known: int) -> None:
    """Raise UserError for rows with tokens beyond the base's embeddings, as of a tokenizer to which some were added."""
    of_images = {getattr(processor, "image_token_id", None)}  # whose places are filled with something else
    odd = [row.name for row, tokens in zip(rows, every, strict=True)
           if max({*tokens.prompt, *tokens.response} - of_images, default=0) >= known]  # fmt: skip
    if odd:
        what = f"tokens that the base, which knows {known:,}, has no embeddings of: its tokenizer is another's"
        raise UserError(f"{len(odd)} of {len(rows)} rows have {what} ({few(odd)})")


def _text(tokenizer: Any, row: Row, form: str, above: str) -> Tokens:
    """A row in a form without roles: earlier messages stand on lines of their own. above: what stands above the query."""
    *before, (_, last) = row.messages
    if form == "alpaca":
        given = f"\n\n### Input:\n{row.input}" if row.input else ""
        last = ALPACA.format(paired=PAIRED if row.input else "", instruction=above + last, input=given)
    else:
        last = above + (row.query + "\n" if form == "plain" else last)
    prompt = "".join(f"{content}\n" for _, content in before) + last
    end, tokens = tokenizer.eos_token_id, _cut(tokenizer, prompt, row.response, special=True)
    return tokens if tokens.response[-1:] == (end,) else replace(tokens, response=(*tokens.response, end))


def _cut(tokenizer: Any, asked: str, answer: str, special: bool) -> Tokens:
    """The tokens of both texts together, cut where the prompt's end. special: with what the tokenizer puts around a text.

    Where the prompt by itself ends in other tokens than it does with the answer behind it, the cut is before the first that
    differs: what holds a part of the answer is answered. Where nothing would be left of the prompt, each is by itself.
    """
    prompt, both = (tokenizer.encode(text, add_special_tokens=special) for text in (asked, asked + answer))
    alike = next((i for i, (a, b) in enumerate(zip(prompt, both, strict=False)) if a != b), min(len(prompt), len(both)))
    ended = special and prompt[alike:] == [tokenizer.eos_token_id]  # the tokenizer ends each text: no part of a prompt
    response = both[alike:] if alike else tokenizer.encode(answer, add_special_tokens=False)
    prompt, merged = (both[:alike], alike < len(prompt) and not ended) if alike else (prompt, False)
    return Tokens(tuple(prompt), tuple(response), merged=merged)


def _chat(tokenizer: Any, row: Row, above: str) -> Tokens:
    messages = [{"role": role, "content": content} for role, content in row.messages[:-1]]
    messages.append({"role": "user", "content": above + row.query})
    answered = [*messages, {"role": "assistant", "content": row.response}]
    try:
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
    except Exception as error:  # a template is a program of its own, and raises what it likes
        why = f"row {row.name}: the base's chat template doesn't take it ({first_line(error)})"
        raise UserError(f"{why}; --prompt plain, or alpaca, needs no template") from None
    end, goes_on = tokenizer.eos_token_id, whole.startswith(asked)  # else it takes something out of what was said before
    tokens = _cut(tokenizer, asked, whole[len(asked) :] if goes_on else row.response, special=False)
    response = list(tokens.response)
    if goes_on and end in response:  # what a template puts behind the end is no part of an answer
        response = response[: len(response) - response[::-1].index(end)]
    elif end is not None and (not goes_on or whole.rstrip().endswith(row.response.rstrip())):  # a template that ends none
        response.append(end)
    return replace(tokens, response=tuple(response))
