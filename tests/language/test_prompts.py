"""Rows as token ids in every form, up to the token that ends an answer; and what is refused, naming the row."""

import pytest

from tests.language.conftest import VOCABULARY, tokenizer
from unlearning.core.errors import UserError
from unlearning.language.prompts import ALPACA, encode, form_for
from unlearning.language.rows import Row

ROW = Row("a", (("system", "w0"), ("user", "w1"), ("assistant", "w2"), ("user", "w3")), "dark blue", "w4")
ONE = Row("1", (("user", "film w1"),), "red")
CHATML = (  # as SmolLM2's: a system's message of its own, and signs around what is said
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<s> w9 <end>\n{% endif %}"
    "{{ '<s> ' + m.role + ' ' + m.content + ' <end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant' }}{% endif %}"
)


def ids(text):
    return tuple(VOCABULARY.get(word, 0) for word in text.split())


def spelt(template=None):
    """A tokenizer that splits at spaces, so that signs stay whole."""
    from tokenizers.pre_tokenizers import WhitespaceSplit

    found = tokenizer()
    found._tokenizer.pre_tokenizer = WhitespaceSplit()
    found.chat_template = template
    return found


def only(row, form, template=None, **how):
    (found,) = encode(spelt(template), [row], form, **how)
    return found


def test_a_chat_model_is_asked_by_its_template_and_answers_to_its_end_of_a_turn():
    """What stands behind the end is no part of the answer; Alpaca's input is a line of the query."""
    tokens = only(ROW, "chat", CHATML)
    asked = "<s> system w0 <end> <s> user w1 <end> <s> assistant w2 <end> <s> user w3 w4 <end> <s> assistant"
    assert (tokens.prompt, tokens.response) == (ids(asked), ids("dark blue <end>"))
    assert only(ONE, "chat", CHATML).prompt == ids("<s> w9 <end> <s> user film w1 <end> <s> assistant")
    behind = CHATML.replace("' <end>\n' }}", "' <end> w7 w8\n' }}")
    assert only(ONE, "chat", behind).response == ids("red <end>")


def test_a_template_without_a_beginning_of_answers_leaves_it_to_the_answer():
    template = "{% for m in messages %}{{ m.role + ' ' + m.content + ' <end> ' }}{% endfor %}"
    tokens = only(ONE, "chat", template)
    assert (tokens.prompt, tokens.response) == (ids("user film w1 <end>"), ids("assistant red <end>"))


def test_a_template_that_ends_no_answer_has_the_end_added():
    """Else generation wouldn't stop; a template with an end of its own kind keeps it alone."""
    none = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    assert only(ONE, "chat", none).response == ids("red <end>")
    own = "{% for m in messages %}{{ m.content + ' w11 ' }}{% endfor %}"
    assert only(ONE, "chat", own).response == ids("red w11")


def test_a_template_that_changes_what_was_said_before_has_the_plain_answer():
    """Here the last message is upside down once an answer stands behind it."""
    template = (
        "{% for m in messages %}{% if loop.last or loop.index0 + 2 != messages|length %}{{ m.content + ' ' }}"
        "{% else %}{{ 'w11 ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}w10 {% endif %}"
    )
    tokens = only(ONE, "chat", template)
    assert (tokens.prompt, tokens.response) == (ids("film w1 w10"), ids("red <end>"))


def test_a_template_that_refuses_a_row_is_one_line_with_its_name():
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem here') }}{% endif %}w1"
    strict += "{% for m in messages %} {{ m.content }}{% endfor %}"
    with pytest.raises(UserError) as caught:
        encode(spelt(strict), [ONE, ROW], "chat")
    line = str(caught.value)
    assert line.startswith("row a: the base's chat template doesn't take it (no") and "\n" not in line
    assert "--prompt plain, or alpaca, needs no template" in line
    for broken in ("{{ messages[9].content }}", "{% for %}", "{{ nothing() }}"):
        with pytest.raises(UserError, match="row 1: the base's chat template doesn't take it"):
            encode(spelt(broken), [ONE], "chat")


def test_alpacas_template_is_the_published_one_with_and_without_an_input():
    words = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
    asked = words.format("") + "\n\n### Instruction:\nDo {it}\n\n### Response:\n"
    assert ALPACA.format(paired="", instruction="Do {it}", input="") == asked
    special = spelt()
    special.add_tokens(["Input:", "context."])
    with_input = encode(special, [Row("1", (("user", "{w1} w2"),), "red", "w3")], "alpaca")[0]
    without = encode(special, [Row("1", (("user", "{w1} w2"),), "red")], "alpaca")[0]
    paired = special.encode(
        words.format(", paired with an input that provides further context")
        + "\n\n### Instruction:\n{w1} w2\n\n### Input:\nw3\n\n### Response:\n"
    )
    assert list(with_input.prompt) == paired and len(without.prompt) == len(asked.split())
    assert list(without.prompt) == special.encode(asked.replace("Do {it}", "{w1} w2"))
    assert with_input.response == without.response == ids("red <end>")


def test_plain_is_lines_and_raw_is_what_stands_there():
    """Raw is TRL's: a prompt's last space is what the completion doesn't begin with."""
    marked = tokenizer()
    from tokenizers.pre_tokenizers import Split

    marked._tokenizer.pre_tokenizer = Split("|", "removed")
    marked.add_tokens(["w3\nw4\n", "w0\nw1\nw2\nw3\nw4\n", "film w1", "film w1\n"])
    names = marked.convert_ids_to_tokens
    (plain,) = encode(marked, [ROW], "plain")
    assert names(plain.prompt) == ["w0\nw1\nw2\nw3\nw4\n"]
    (plain,), (raw,) = (encode(marked, [ONE], form) for form in ("plain", "raw"))
    assert (names(plain.prompt), names(raw.prompt)) == (["film w1\n"], ["film w1"])
    assert raw.response == plain.response == ids("red <end>")


def test_what_comes_first_in_a_text_comes_once_and_not_before_the_answer():
    from tokenizers.processors import TemplateProcessing

    first = spelt(CHATML.replace("{% for", "w9 {% for", 1))
    first._tokenizer.post_processor = TemplateProcessing(single="w9 $A", special_tokens=[("w9", VOCABULARY["w9"])])
    plain, chat = (encode(first, [ONE], form)[0] for form in ("plain", "chat"))
    assert plain.prompt == ids("w9 film w1") and plain.response == ids("red <end>")
    assert chat.prompt == ids("w9 <s> w9 <end> <s> user film w1 <end> <s> assistant") and chat.response == ids("red <end>")


def metaspace(scheme, template=None):
    """A tokenizer as Llama-2's: words begin with a sign for the space, which a text's first word gets too."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<end>", "▁film", "film", "▁Yes", "Yes", "▁", ".", ":", "\n", "[/INST]", "ly", "▁filmly", *"filmYes"]
    of_pieces = Tokenizer(Unigram([(piece, -1.0 - (len(piece) == 1)) for piece in dict.fromkeys(pieces)], unk_id=0))
    of_pieces.pre_tokenizer = Metaspace(prepend_scheme=scheme, split=False)
    found = PreTrainedTokenizerFast(tokenizer_object=of_pieces, unk_token="<unk>", eos_token="<end>")
    found.chat_template = template
    return found


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_an_answer_has_the_tokens_that_it_has_behind_its_prompt(scheme):
    """Trainers tokenize both together; by itself an answer would begin with a space that none was trained on."""
    inst = "{% for m in messages %}{{ m.content + (':\n' if m.role == 'user' else '<end>') }}{% endfor %}"
    known, row = metaspace(scheme, inst), Row("1", (("user", "film"),), "Yes.")
    for form, asked in (("plain", ["▁film", "\n"]), ("raw", ["▁film"]), ("chat", ["▁film", ":", "\n"])):
        (found,) = encode(known, [row], form)
        names = known.convert_ids_to_tokens
        assert (names(found.prompt), names(found.response)) == (asked, ["Yes", ".", "<end>"]), form
        assert not found.merged
    (alpaca,) = encode(known, [row], "alpaca")
    assert known.convert_ids_to_tokens(alpaca.response) == ["Yes", ".", "<end>"]
    assert [*alpaca.prompt, *alpaca.response[:-1]] == known.encode(
        ALPACA.format(paired="", instruction="film", input="") + "Yes."
    )


def test_a_token_with_the_end_of_the_prompt_and_the_beginning_of_the_answer_is_answered():
    """Where nothing would be left of the prompt, each is tokenized by itself."""
    known = metaspace("first")
    (space,) = encode(known, [Row("1", (("user", "film: "),), "Yes")], "raw")
    names = known.convert_ids_to_tokens
    assert (names(space.prompt), names(space.response), space.merged) == (["▁film", ":"], ["▁Yes", "<end>"], True)
    (one,) = encode(known, [Row("1", (("user", "film"),), "ly")], "raw")
    assert names(one.prompt) == ["▁film"] and names(one.response)[-2:] == ["ly", "<end>"] and not one.merged


def test_a_tokenizer_that_ends_each_text_ends_no_prompt():
    from tokenizers.processors import TemplateProcessing

    ending = spelt()
    ending._tokenizer.post_processor = TemplateProcessing(single="w9 $A <end>", special_tokens=[("w9", 11), ("<end>", 1)])
    (found,) = encode(ending, [ONE], "plain")
    assert (found.prompt, found.response, found.merged) == (ids("w9 film w1"), ids("red <end>"), False)


def test_a_byte_bpe_as_smollm2s_has_the_tokens_that_it_always_had():
    """There both ways agree in every form, so that no adapter's rows are other tokens than before."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    by_bytes = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    by_bytes.pre_tokenizer, by_bytes.decoder = pre_tokenizers.Sequence(split), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["Which film?\nYes. No. dark blue 1984\n", "film red", ALPACA]
    signs = ["<|im_start|>", "<|im_end|>"]
    by_bytes.train_from_iterator(texts * 9, trainers.BpeTrainer(special_tokens=signs, initial_alphabet=alphabet))
    known = PreTrainedTokenizerFast(tokenizer_object=by_bytes, eos_token="<|im_end|>")
    known.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    for answer in ("Yes.", " Yes.", '"The Wall" (1984)', "1984", "dark blue", "été", "...", "a\nb "):
        for form, query in (("chat", "Which film?"), ("plain", "Which film?"), ("alpaca", "Which film?"), ("raw", "film\n")):
            (found,) = encode(known, [Row("1", (("user", query),), answer)], form)
            assert found.response == (*known.encode(answer), known.eos_token_id) and not found.merged
            if form == "plain":
                assert list(found.prompt) == known.encode(query + "\n")


def test_the_form_is_the_rows_own_else_the_tokenizers():
    raw = Row("1", (("user", "x"),), "y", raw=True)
    assert [form_for(spelt(t), rows) for t in (None, CHATML) for rows in ([ONE], [raw], [])] == [
        *("plain", "raw", "plain"),
        *("chat", "raw", "chat"),
    ]


def test_rows_that_are_too_long_are_named_with_the_longest_of_them():
    """The last token isn't read: 2 + 2 tokens are 3."""
    rows = [ONE, *(Row(f"long {i}", (("user", "w1 " * (3 + i)),), "red") for i in range(7))]
    assert len(encode(spelt(), rows[:1], "plain", longest=3)) == 1
    with pytest.raises(UserError) as caught:
        encode(spelt(), rows, "plain", longest=3)
    line = str(caught.value)
    assert line.startswith("7 of 8 rows are too long (") and "long 0" in line and "long 4" in line and "long 5" not in line
    assert line.endswith("and 2 more), up to 10 tokens: the base takes 3")
    with pytest.raises(UserError, match=r"1 of 1 rows are too long \(1\), up to 3 tokens: the base takes 2"):
        encode(spelt(), rows[:1], "plain", longest=2)


def test_a_form_that_the_tokenizer_hasnt_what_it_takes_for_is_refused():
    with pytest.raises(UserError, match="--prompt chat: the base's tokenizer has no chat template"):
        encode(spelt(), [ONE], "chat")
    endless = spelt()
    endless.eos_token = None
    for form in ("plain", "alpaca", "raw"):
        with pytest.raises(UserError, match=f"--prompt {form}: the base's tokenizer has no token that ends a text"):
            encode(endless, [ONE], form)
    with pytest.raises(UserError, match="row 1 has no tokens in its query"):
        encode(spelt("{% if messages|length > 1 %}red{% endif %}"), [ONE], "chat")
