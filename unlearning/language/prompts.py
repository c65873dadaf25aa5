"""Rows as token ids: what a model is asked, and what it answers with.

chat: by the tokenizer's own chat template. alpaca: by Stanford Alpaca's published template (Taori et al. 2023), which
TALLRec and LLaRA use. plain: the query, the end of a line, the response. raw: the prompt and what completes it, as TRL puts
them together. An answer ends with the token that ends one, so that a model learns to stop.
"""

from collections.abc import Sequence
from typing import Any

from unlearning.core.errors import UserError
from unlearning.core.files import first_line
from unlearning.language.forward import Tokens
from unlearning.language.rows import Row, few

FORMS = ("chat", "alpaca", "plain", "raw")
ALPACA = (
    "Below is an instruction that describes a task{paired}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}{input}\n\n### Response:\n"
)
PAIRED = ", paired with an input that provides further context"


def form_for(tokenizer: Any, rows: Sequence[Row]) -> str:
    """The form that rows have where nobody says it: TRL's plain prompts as they are; else a chat model's template."""
    if rows and rows[0].raw:
        return "raw"
    return "chat" if tokenizer.chat_template else "plain"


def encode(tokenizer: Any, rows: Sequence[Row], form: str, longest: int | None = None) -> list[Tokens]:
    """Rows as Tokens in one of FORMS. longest: tokens that the model takes.

    Raises UserError for rows that are longer, for a chat template that refuses one, and where there is none.
    """
    if form == "chat" and not tokenizer.chat_template:
        raise UserError("--prompt chat: the base's tokenizer has no chat template; --prompt plain, or alpaca, needs none")
    if form != "chat" and tokenizer.eos_token_id is None:
        raise UserError(f"--prompt {form}: the base's tokenizer has no token that ends a text")
    found = [_chat(tokenizer, row) if form == "chat" else _text(tokenizer, row, form) for row in rows]
    lengths = [len(tokens.prompt) + len(tokens.response) - 1 for tokens in found]
    if longest and (long := [i for i, length in enumerate(lengths) if length > longest]):
        which = few(rows[i].name for i in long)
        most = max(lengths[i] for i in long)
        raise UserError(
            f"{len(long)} of {len(rows)} rows are too long ({which}), up to {most} tokens: the base takes {longest}"
        )
    return found


def prompt_tokens(tokenizer: Any, row: Row, form: str) -> tuple[int, ...]:
    """What a row asks, as token ids."""
    return encode(tokenizer, [row], form)[0].prompt


def _text(tokenizer: Any, row: Row, form: str) -> Tokens:
    """A row in a form without roles: earlier messages stand on lines of their own."""
    *before, (_, last) = row.messages
    if form == "alpaca":
        given = f"\n\n### Input:\n{row.input}" if row.input else ""
        last = ALPACA.format(paired=PAIRED if row.input else "", instruction=last, input=given)
    elif form == "plain":
        last = row.query + "\n"
    prompt = "".join(f"{content}\n" for _, content in before) + last
    response = tokenizer.encode(row.response, add_special_tokens=False)
    return _tokens(row, tokenizer.encode(prompt), [*response, tokenizer.eos_token_id])


def _chat(tokenizer: Any, row: Row) -> Tokens:
    messages = [{"role": role, "content": content} for role, content in row.messages[:-1]]
    messages.append({"role": "user", "content": row.query})
    answered = [*messages, {"role": "assistant", "content": row.response}]
    try:
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
    except Exception as error:  # a template is a program of its own, and raises what it likes
        why = f"row {row.name}: the base's chat template doesn't take it ({first_line(error)})"
        raise UserError(f"{why}; --prompt plain, or alpaca, needs no template") from None
    prompt, end = tokenizer.encode(asked, add_special_tokens=False), tokenizer.eos_token_id
    if whole.startswith(asked):
        response = tokenizer.encode(whole[len(asked) :], add_special_tokens=False)
        if end in response:  # what a template puts behind the end is no part of an answer
            response = response[: len(response) - response[::-1].index(end)]
        elif end is not None and whole.rstrip().endswith(row.response.rstrip()):  # a template that ends no answer
            response += [end]
    else:  # a template that takes something out of what was said before
        response = tokenizer.encode(row.response, add_special_tokens=False)
        response += [end] if end is not None else []
    return _tokens(row, prompt, response)


def _tokens(row: Row, prompt: Sequence[int], response: Sequence[int]) -> Tokens:
    if not prompt or not response:
        raise UserError(f"row {row.name} has no tokens in its {'response' if prompt else 'query'}")
    return Tokens(tuple(prompt), tuple(response))
