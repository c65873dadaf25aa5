"""Answers in full, against a loop that takes the likeliest token step by step, and their scores by hand."""

from types import SimpleNamespace

import pytest
import torch
import transformers

import llmeraser
from tests.helpers import call
from tests.language.conftest import VOCABULARY, finetune, foreign, request, save_base, session, tokenizer, where, write_lines
from unlearning.language import generation
from unlearning.language.adapters import read_record
from unlearning.language.forward import ANSWERS
from unlearning.language.generation import hit_ratio, rouge_l, valid_ratio
from unlearning.language.rows import Row
from unlearning.language.session import session_of


def answered(response, *choices):
    return Row("1", (("user", "x"),), response, choices=choices)


def by_hand(now, row, longest):
    """The likeliest token, one by one, of a row alone, up to the end."""
    (tokens,) = now.tokens([row])
    ids = list(tokens.prompt)
    for _ in range(longest):
        with torch.no_grad():
            ids.append(int(now.peft_model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == VOCABULARY["<end>"]:
            break
    said = [token for token in ids[len(tokens.prompt) :] if token > VOCABULARY["<end>"]]
    return tokenizer().decode(said).strip()


@pytest.mark.parametrize("targets", [(), ("--targets", "q_proj", "v_proj", "down_proj", "--blocks", 3)])
def test_rows_answered_together_are_those_answered_alone_step_by_step(place, tmp_path, monkeypatch, targets):
    """Prompts are of unlike lengths, so most are padded; they may be four tokens longer than the longest wanted answer."""
    folder = finetune(place, tmp_path / "a", *targets, "--decay", 1e-5, "--evaluations", 50)
    monkeypatch.setattr(generation, "AT_ONCE", 5)
    with session(folder, tmp_path) as now:
        rows = [*now.rows[:8], *now.test[:5]]
        longest = max(len(tokens.response) for tokens in now.tokens(rows)) + 4
        expected = [by_hand(now, row, longest) for row in rows]
        assert generation.answers(now, rows) == expected and len(set(expected)) >= 3
        right = [text == row.response for text, row in zip(expected, rows, strict=True)]
        assert sum(right) >= 4 and hit_ratio(expected, rows) == pytest.approx(100 * sum(right) / 13)
        assert generation.answers(now, []) == []


def test_prompts_are_read_once_for_all_adapters_that_leave_attention_alone(place, tmp_path, monkeypatch):
    below, widths = finetune(place, tmp_path / "b", "--targets", "q_proj", "--evaluations", 2), []
    monkeypatch.setattr(generation, "AT_ONCE", 5)

    def answer(folder):
        with session_of(read_record(folder), at, folder) as now:
            hook = now.forward.model.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: widths.append(output.shape[1])
            )
            widths.clear()
            said = generation.answers(now, now.test[:10])
            hook.remove()
            return said, max(widths), len(now.forward.read)

    at = where(tmp_path)
    first, again = answer(place / "adapter"), answer(place / "adapter")
    assert first[1] > 1 and again[1] == 1 and first[0] == again[0] and first[2] == again[2] == 2
    assert answer(below)[1] > 1
    monkeypatch.setattr(generation, "MOST_READ", 0)
    at = where(tmp_path)
    few = answer(place / "adapter")
    assert few[0] == first[0] and few[2] == 1


def test_an_answer_ends_at_the_bases_own_ends_too(place, tmp_path):
    """Of a chat model a turn ends with another token than a text does, which its generation's configuration says."""
    with session(place / "adapter", tmp_path) as now:
        model = now.peft_model.base_model.model
        model.generation_config.eos_token_id = [VOCABULARY[word] for word in VOCABULARY]
        lengths = [len(text.split()) for text in generation.answers(now, now.test[:4])]
        assert max(lengths) <= 1


def test_hits_are_answers_that_are_the_wanted_one():
    rows = [answered("dark blue"), answered("red"), answered(" red "), answered("red")]
    assert hit_ratio(["dark blue", "red", "red", "Red"], rows) == 75


def test_valid_answers_are_among_a_rows_candidates_else_in_the_list():
    rows = [answered("a", "a", "b"), answered("a", "a", "b"), answered("c"), answered("c")]
    assert valid_ratio(["b", "c", "c", "b"], rows, ["c", "d"]) == 50
    assert valid_ratio(["b"], [answered("a ", "a ", "b ")], []) == 100


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    """Police killed the gunman (Lin 2004): 3 of 4 words in order, and 2 of 4; by words, whatever their case."""
    wanted = "police killed the gunman"
    cases = {
        "police kill the gunman": 75.0,
        "the gunman kill police": 50.0,
        "the Gunman POLICE killed": 50.0,
        wanted: 100.0,
        "": 0.0,
        "none of these": 0.0,
        "police": 100 * 2 * 1 / 5,
        "police police killed killed the the gunman gunman": 100 * 2 * 4 / 12,
    }
    for said, expected in cases.items():
        assert rouge_l([said], [answered(wanted)]) == pytest.approx(expected), said
    assert rouge_l([*cases], [answered(wanted)] * len(cases)) == pytest.approx(sum(cases.values()) / len(cases))
    assert rouge_l(["x y"], [answered("y x")]) == 50


def test_an_answer_ends_where_the_base_has_no_more_places(tmp_path):
    """On a GPT-2 of twenty places a prompt of fifteen leaves five, however long the wanted answer may be."""
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=20, vocab_size=len(VOCABULARY), eos_token_id=1
    )
    save_base(tmp_path / "base", config=config)
    words = " ".join(f"w{i % 12}" for i in range(15))
    rows = [{"query": words[: 3 * (3 + i)], "response": "red red red red"} for i in range(2)] + [
        {"query": words, "response": "red"}
    ]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    data = [word for kind in ("train", "validation", "test") for word in (f"--{kind}", file)]
    folder = call(llmeraser, "finetune", *data, "--base", tmp_path / "base", "--prompt", "plain", "--evaluations", 1,
                  "--weights", tmp_path, "--output", tmp_path / "a", "--quiet")  # fmt: skip
    with session(folder, tmp_path) as now:
        said = generation.answers(now, now.rows)
        assert len(said) == 3 and len(said[2].split()) <= 20 - 15


SIZES = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": len(VOCABULARY), "eos_token_id": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
MIXED = {
    "convolutions": lambda: transformers.Lfm2Config(
        **SIZES, **HEADS, num_hidden_layers=2, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
    ),
    "linear attention": lambda: transformers.Qwen3NextConfig(
        **SIZES,
        **HEADS,
        num_hidden_layers=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        mlp_only_layers=[0, 1],
    ),
    "state space": lambda: transformers.MambaConfig(**SIZES, num_hidden_layers=2, state_size=4),
}


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.filterwarnings("ignore")  # PEFT's, about embeddings
def test_bases_whose_cache_has_layers_without_keys_answer_as_step_by_step(tmp_path, place, kind):
    base = save_base(tmp_path / "base", config=MIXED[kind]())
    folder = foreign(base, tmp_path / "a", target_modules=["lm_head"])
    data = ("--train", place / "train.jsonl", "--test", place / "test.jsonl", "--prompt", "plain")
    answered = request(folder, "remove", tmp_path / "b", "--ids", 1, *data, "--method", "gradascent")
    with session(answered, tmp_path) as now:
        assert now.forward.way == ANSWERS
        for row in now.test[:2]:  # the second asks how many bytes the first has left
            longest = len(now.tokens([row])[0].response) + 4
            assert generation.answers(now, [row]) == [by_hand(now, row, longest)]


def test_a_layer_of_a_cache_counts_what_it_has():
    full = transformers.DynamicCache()
    full.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    assert generation._bytes(full) == 2 * 24 * 4
    none = SimpleNamespace(
        keys=None, values=None, conv_states={0: torch.zeros(3)}, recurrent_states=[torch.zeros(2, 2), None]
    )
    assert generation._bytes(SimpleNamespace(layers=[none, *full.layers])) == 4 * (3 + 4) + 2 * 24 * 4
