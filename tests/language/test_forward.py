"""The short way through a model gives what the whole model gives, on every family; its kept states are used, and checked."""

import itertools
import shutil
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import llmeraser
from tests.helpers import call, killed_at, one_line
from tests.language.conftest import finetune, losses_of, save_base, session
from unlearning.core.errors import UserError
from unlearning.core.files import PART, write_torch
from unlearning.language import batches, forward, influence
from unlearning.language import session as session_module
from unlearning.language.adapters import linear_layers
from unlearning.language.base import _no_progress_bars, load_base
from unlearning.language.batches import Tokens, batch_of, batches_of, row_means, token_log_likelihoods
from unlearning.language.blocks import attention_of, blocks_of
from unlearning.language.forward import ANSWERS, BLOCKS, WHOLE, Forward, check_short_way, read_states

T = transformers
HEADS = {"vocab_size": 32, "num_attention_heads": 4}
SMALL = HEADS | {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
SMALL |= {"eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0}
WIDE = HEADS | {"hidden_size": 32, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0}
FAMILIES = {
    "llama": lambda n: T.LlamaConfig(**SMALL, num_hidden_layers=n),
    "mistral": lambda n: T.MistralConfig(**SMALL, num_hidden_layers=n, sliding_window=2),
    "qwen2": lambda n: T.Qwen2Config(**SMALL, num_hidden_layers=n),
    "qwen3": lambda n: T.Qwen3Config(**SMALL, num_hidden_layers=n, head_dim=8),
    "gemma": lambda n: T.GemmaConfig(**SMALL, num_hidden_layers=n, head_dim=8),
    "gemma3": lambda n: T.Gemma3TextConfig(
        **SMALL,
        num_hidden_layers=n,
        head_dim=8,
        sliding_window=2,
        layer_types=["sliding_attention", "full_attention", "full_attention"][:n],
    ),
    "phi3": lambda n: T.Phi3Config(**SMALL, num_hidden_layers=n),
    "gpt2": lambda n: T.GPT2Config(
        vocab_size=32, n_embd=32, n_layer=n, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1
    ),
    "opt": lambda n: T.OPTConfig(
        **WIDE, ffn_dim=48, num_hidden_layers=n, max_position_embeddings=64, word_embed_proj_dim=16
    ),
    "cohere": lambda n: T.CohereConfig(**SMALL, num_hidden_layers=n, logit_scale=0.25),
    "falcon": lambda n: T.FalconConfig(**WIDE, num_hidden_layers=n, ffn_hidden_size=48),
}
ATTENTION = {"phi3": "qkv_proj", "gpt2": "c_attn", "falcon": "query_key_value"}
ROWS = [
    Tokens((14, 2, 3, 4, 5, 6, 7), (15, 1)),
    Tokens((14, 9), (16, 1)),
    Tokens((14, 3, 3, 8, 2, 10, 11, 12, 13), (17, 18, 1)),
    Tokens((14, 4, 9), (17, 18, 1)),
]


def model_of(name, blocks=3):
    """A random model whose attention and norms matter."""
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(FAMILIES[name](blocks), attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def adapted(model, *targets, layers=None):
    """The model with trained LoRA on the layers whose names end so, of the blocks of these numbers."""
    of = [f".{layer}." for layer in layers] if layers else ["."]
    chosen = [name for name in linear_layers(model) if name.endswith(targets)]
    chosen = [name for name in chosen if any(part in f".{name}." for part in of) or "lm_head" in name]
    config = LoraConfig(r=2, lora_alpha=4, target_modules=chosen, fan_in_fan_out=model.config.model_type == "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(model, config).eval()
    for parameter in trained(peft_model):
        nn.init.normal_(parameter, std=0.3)
    return peft_model


def trained(peft_model):
    return [parameter for parameter in peft_model.parameters() if parameter.requires_grad]


def by_hand(peft_model, rows):
    """Logits at what is answered, one row after another, by nothing of this project."""
    found = []
    for row in rows:
        logits = peft_model(input_ids=torch.tensor([row.prompt + row.response])).logits[0].float()
        found.append(logits[len(row.prompt) - 1 : -1])
    return torch.cat(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_short_way_is_the_whole_model_with_its_gradient_and_curvature(name):
    """Logits of an adapter on attention of the second block and up, and on the last block's layers that follow attention."""
    model = model_of(name, 2)
    attention = ATTENTION.get(name, "q_proj")
    *_, last = linear_layers(blocks_of(model)[-1])
    for target, way in ((attention, BLOCKS), (last, ANSWERS)):
        peft_model = adapted(model, f".{target}", layers=(1,))
        short = Forward(peft_model)
        exact = by_hand(peft_model, ROWS)
        found = short.logits(batch_of(ROWS))
        assert short.way == way
        assert (found - exact).abs().max().item() < 1e-5 * max(1.0, exact.std().item())
        assert check_short_way(short, ROWS)[0] is short
        slopes = []
        for logits in (found, exact):
            loss = torch.nn.functional.cross_entropy(logits, batch_of(ROWS).targets[batch_of(ROWS).asked])
            first = torch.autograd.grad(loss, trained(peft_model), create_graph=True)
            second = torch.autograd.grad(sum((g**2).sum() for g in first), trained(peft_model))
            slopes.append(torch.cat([x.reshape(-1) for x in (*first, *second)]))
        assert (slopes[0] - slopes[1]).norm() < 1e-4 * slopes[1].norm() > 0
        peft_model.unload()


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(("blocks", "way"), [((0, 1, 2), WHOLE), ((1, 2), BLOCKS)])
def test_with_checkpointing_blocks_are_computed_again_and_slopes_and_products_stay(name, blocks, way):
    """Adapters in each block have the same gradient and Hessian, and a gradient computes each block twice, not once. OPT has
    dropout within its blocks, which must stay off."""
    peft_model = adapted(model_of(name), ATTENTION.get(name, "q_proj"), layers=blocks)
    computed, parameters, found = [], trained(peft_model), []
    for block in blocks_of(peft_model):
        attention_of(block).register_forward_hook(lambda module, *_: computed.append(module))
    batch = batch_of(ROWS)
    vector = torch.randn(influence.flat(parameters).numel(), generator=torch.Generator().manual_seed(0))
    for checkpointing in (False, True):
        short = Forward(peft_model)
        short.checkpointing = checkpointing
        short.keep(ROWS)

        def loss(batch, short=short):
            return short.losses(batch).sum()

        computed.clear()
        slope = influence.gradient(loss(batch), parameters)
        counts = [computed.count(attention_of(block)) for block in blocks_of(peft_model)]
        assert short.way == way and counts == [(1 + checkpointing) * (i in blocks) for i in range(3)]
        assert all(part.any() for part in slope.split([p.numel() for p in parameters]))
        found.append((slope, influence.hessian_product(loss, [batch], parameters)(vector)))
    for exact, again in zip(*found, strict=True):
        assert (again - exact).norm() <= 1e-5 * exact.norm() and exact.any()
    assert not any("forward" in vars(block) for block in blocks_of(peft_model))


def test_the_whole_model_that_is_gone_on_with_is_checkpointed_too_and_a_single_block_on_kept_attention_is_not():
    """When its backward pass begins, its attention computes what stands before it again, not what was kept."""
    short = Forward(adapted(with_skip(model_of("llama", 3)), "q_proj", layers=(2,)))
    short.checkpointing = True
    assert check_short_way(short, ROWS)[0].checkpointing
    last = Forward(adapted(model_of("llama"), "down_proj", layers=(2,)))
    slopes = []
    for last.checkpointing in (False, True):
        slopes.append(influence.gradient(last.losses(batch_of(ROWS)).sum(), trained(last.model)))
    assert last.way == ANSWERS and torch.equal(*slopes)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_read_once_for_all_its_candidates(name):
    """The states at answered places are those of whole rows, wherever a family goes on from its cache."""
    model = model_of(name)
    *_, last = linear_layers(blocks_of(model)[-1])
    peft_model = adapted(model, f".{last}", layers=(2,))
    prompts = [(3, 9, 4, 12, 5, 7, 7), (8, 2)]
    rows = [Tokens(prompt, answer) for prompt in prompts for answer in ((5, 1), (9, 11, 6, 1), (2,))]
    short, apart = Forward(peft_model), Forward(peft_model)
    for row in rows:
        apart.keep([row])
    seen = []
    hook = short.model.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[2].shape[:2].numel()))
    short.keep(rows)
    hook.remove()
    assert short.kept.keys() == apart.kept.keys()
    for key, states in apart.kept.items():
        for one, other in zip(short.kept[key], states, strict=True):
            assert one.shape == other.shape and (one - other).abs().max() < 1e-5 * max(1.0, other.std().item())
    compared = (6 + 2 * 4) + 2 * 10  # tokens of two rows' tails, and of both rows
    assert sum(seen) == compared + (6 + 3 * 4) + (1 + 3 * 4)


def test_a_model_that_goes_on_otherwise_reads_whole_rows(monkeypatch):
    peft_model = adapted(model_of("llama", 3), "down_proj", layers=(2,))
    rows = [Tokens((3, 9, 4, 12), answer) for answer in ((5, 1), (9, 11, 6, 1))]
    apart = Forward(peft_model)
    for row in rows:
        apart.keep([row])
    off = Forward._states_of_tails
    monkeypatch.setattr(Forward, "_states_of_tails", lambda *given: [1.001 * state for state in off(*given)])
    short = Forward(peft_model)
    short.keep(rows)
    for key, states in apart.kept.items():
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(short.kept[key], states, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_trained_and_answers_the_same_by_plain_peft(name, place, tmp_path):
    """On attention of the last block, from the command line and back."""
    base = save_base(tmp_path / "base", config=FAMILIES[name](2))
    if name == "qwen2":  # transformers reads no other tokenizer for it
        signs = {sign: i for i, sign in enumerate(["<unk>", "<end>", *"filmwredgnakbu0123456789ĠĊ"])}
        T.Qwen2Tokenizer(vocab=signs, merges=[], unk_token="<unk>", eos_token="<end>").save_pretrained(base)
    lines = (place / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:4]), encoding="utf-8")
    flags = ("--train", tmp_path / "few.jsonl", "--targets", ATTENTION.get(name, "q_proj"), "--evaluations", 4)
    where = ("--weights", tmp_path, "--output", tmp_path / "adapter", "--quiet")
    folder = call(llmeraser, "finetune", "--base", base, *flags, *where)
    with session(folder, tmp_path) as now, torch.no_grad():
        assert now.forward.way == BLOCKS
        rows = now.tokens(now.rows)
        found = now.logits(batch_of(rows))
    with _no_progress_bars():
        whole = PeftModel.from_pretrained(T.AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.no_grad():
        expected = by_hand(whole, rows)
        bare = by_hand(whole.unload(), rows)
    assert (found - expected).abs().max() < 1e-3 * float(expected.std())
    assert (bare - expected).abs().max() > 1e-2 * float(expected.std())  # it learned something


@pytest.mark.parametrize(
    ("targets", "layers", "way", "frozen"),
    [
        (("q_proj", "down_proj"), None, WHOLE, 0),
        (("q_proj",), (1,), BLOCKS, 1),
        (("q_proj",), (2,), BLOCKS, 2),
        (("up_proj", "down_proj"), (2,), ANSWERS, 2),
        (("up_proj",), (1,), BLOCKS, 1),
        (("lm_head",), None, ANSWERS, 3),
    ],
)
def test_as_much_is_frozen_as_the_adapter_leaves(targets, layers, way, frozen):
    peft_model = adapted(model_of("llama"), *targets, layers=layers)
    short = Forward(peft_model)
    assert (short.way, len(short.frozen)) == (way, frozen)
    assert (short.logits(batch_of(ROWS)) - by_hand(peft_model, ROWS)).abs().max() < 1e-4


def test_graphs_are_estimated_by_the_logits_of_all_batches_where_answers_alone_are_computed():
    answers, blocks = (Forward(adapted(model_of("llama"), "up_proj", layers=layers)) for layers in ((2,), (1,)))
    batches = [batch_of(ROWS), batch_of(ROWS[:1])]
    answered = sum(len(row.response) for row in [*ROWS, ROWS[0]])
    vocabulary = answers.model.config.vocab_size
    assert answers.graph_bytes(batches) == 3 * 4 * answered * vocabulary and blocks.graph_bytes(batches) == float("inf")


def test_an_adapter_below_the_blocks_leaves_nothing_frozen():
    peft_model = get_peft_model(model_of("llama"), LoraConfig(r=2, target_modules=["embed_tokens", "2.mlp.down_proj"]))
    assert Forward(peft_model).way == WHOLE


@pytest.mark.parametrize(("targets", "layers"), [(("q_proj",), (1,)), (("down_proj",), (2,))])
def test_neither_padding_nor_the_order_of_rows_nor_their_batch_changes_anything(targets, layers):
    short = Forward(adapted(model_of("llama"), *targets, layers=layers))
    alone = torch.cat([short.losses(batch_of([row])) for row in ROWS])
    torch.testing.assert_close(short.losses(batch_of(ROWS)), alone, rtol=1e-4, atol=1e-5)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(short.losses(batch_of([ROWS[i] for i in order])), alone[order], rtol=1e-4, atol=1e-5)


def test_a_batch_says_what_is_read_and_what_is_answered():
    batch = batch_of(ROWS[:2])
    assert batch.ids.tolist() == [[14, 2, 3, 4, 5, 6, 7, 15], [14, 9, 16, 0, 0, 0, 0, 0]]
    assert batch.mask.sum(1).tolist() == [8, 3]
    assert batch.targets.tolist() == [[-1] * 6 + [15, 1], [-1, 16, 1] + [-1] * 5]
    three = batch_of([Tokens((1, 2), (3, 4, 5)), Tokens((1,), (2,))])
    assert three.weights.tolist() == pytest.approx([1 / 3] * 3 + [1])
    assert row_means(three, torch.tensor([1.0, 2.0, 6.0, 5.0])).tolist() == pytest.approx([3, 5])
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]] * 4))
    targets = batch_of([Tokens((1, 2), (0, 1, 2)), Tokens((1,), (2,))])
    found = token_log_likelihoods(logits, targets).exp()
    assert found.tolist() == pytest.approx([0.1, 0.2, 0.7, 0.7])


def test_batches_keep_within_their_tokens_answers_and_rows(monkeypatch):
    monkeypatch.setattr(batches, "TOKENS", 24)
    assert [len(batch.rows) for batch in batches_of(ROWS)] == [2, 2]  # the longest has 9, 4, 12 and 6 tokens
    monkeypatch.setattr(batches, "TOKENS", 2)  # one row alone may have more
    assert [batch.rows for batch in batches_of(ROWS)] == [(row,) for row in ROWS]
    monkeypatch.setattr(batches, "TOKENS", 1000)
    monkeypatch.setattr(batches, "ANSWERED", 7)
    assert [len(batch.rows) for batch in batches_of(ROWS)] == [3, 1]
    assert [len(batch.rows) for batch in batches_of(ROWS, most=3)] == [3, 1]
    assert [len(batch.rows) for batch in batches_of(ROWS, most=1)] == [1] * 4
    assert batches_of([]) == []


def with_skip(model):
    """The model with its first block's output added to what its last block is given, as in a U-Net."""
    first, *_, last = blocks_of(model)
    seen = {}

    def watch(module, inputs, output):
        seen["first"] = output[0] if isinstance(output, tuple) else output

    first.register_forward_hook(watch)
    last.register_forward_pre_hook(lambda module, inputs: (inputs[0] + seen["first"], *inputs[1:]))
    return model


@pytest.mark.parametrize(("target", "way"), [("q_proj", BLOCKS), ("down_proj", ANSWERS)])
def test_where_the_short_way_is_another_model_the_whole_one_is_gone_on_with(target, way):
    """The first of two frozen blocks is passed by, and so is what the last one wants of it."""
    peft_model = adapted(with_skip(model_of("llama", 3)), target, layers=(2,))
    short = Forward(peft_model)
    gone_on_with, differs, might = check_short_way(short, ROWS)
    exact = by_hand(peft_model, ROWS)
    if way == BLOCKS:
        far = (short.logits(batch_of(ROWS)) - exact).abs().max() / exact.std()
        assert differs == pytest.approx(far.item(), rel=0.01) and differs > might == forward.CLOSE
        assert short.way == BLOCKS and gone_on_with.way == WHOLE
    assert (gone_on_with.logits(batch_of(ROWS)) - exact).abs().max() < 1e-4


def test_it_is_said_in_one_line_and_computed_with_the_whole_model(place, tmp_path, capsys, monkeypatch):
    def load(*arguments):
        model, *rest = load_base(*arguments)
        return with_skip(model), *rest

    monkeypatch.setattr(session_module, "load_base", load)
    folder = finetune(place, tmp_path / "adapter", "--targets", "q_proj", "--evaluations", 3)
    said = [line for line in capsys.readouterr().err.splitlines() if "frozen" in line]
    assert len(said) == 1 and "the whole model is computed each time" in said[0]
    with session(folder, tmp_path) as now, torch.no_grad():
        assert now.forward.way == WHOLE
        torch.testing.assert_close(now.losses_of(now.test), losses_of(now, now.test), rtol=1e-4, atol=1e-4)


def test_where_the_short_way_is_given_up_nothing_is_kept_and_a_removal_forgets_all_the_same(tmp_path):
    """The rows that were compared, and what another adapter's file has of those that are removed."""
    short = Forward(adapted(with_skip(model_of("llama", 3)), "q_proj", layers=(2,)))
    short.store, beside = tmp_path / "kept.pth", tmp_path / "beside.pth"
    other = Forward(adapted(model_of("llama", 3), "q_proj", layers=(2,)))
    other.store = beside
    other.keep(ROWS)
    whole, *_ = check_short_way(short, ROWS)
    assert whole.way == WHOLE and not read_states(short.store) and not short.kept
    whole.forget(ROWS[:1])
    assert read_states(beside).keys() == {row.key for row in ROWS[1:]}


def test_in_half_precision_the_short_way_may_differ_as_the_whole_model_does_from_itself():
    model = model_of("llama", 3).bfloat16()
    blocks_of(model)[0].register_forward_hook(lambda module, inputs, output: output * (1 + len(output) / 100))
    peft_model = adapted(model, "q_proj", layers=(2,))
    short = Forward(peft_model)
    gone_on_with, _, might = check_short_way(short, ROWS)
    assert gone_on_with is short and might > forward.CLOSE and short.logits(batch_of(ROWS)).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in trained(peft_model))
    batch = batch_of(sorted(ROWS, key=lambda row: len(row.prompt) + len(row.response)))
    alone = torch.cat([Forward(peft_model, way=WHOLE).logits(batch_of([row])) for row in batch.rows])
    exact = Forward(peft_model, way=WHOLE).logits(batch)
    assert might == pytest.approx(((alone - exact).abs().max() / exact.std()).item(), rel=1e-3)


def passes(model):
    """A list that grows with each row that the first block computes, by its tokens."""
    rows, block = [], blocks_of(model)[0].self_attn
    block.register_forward_hook(lambda module, inputs, output: rows.extend([1] * len(output[0])))
    return rows


def stored(peft_model, store):
    """A Forward with what a file keeps."""
    short = Forward(peft_model)
    short.store, short.kept = store, read_states(store)
    return short


@pytest.mark.parametrize("target", ["q_proj", "down_proj"])
def test_a_row_passes_the_frozen_part_once_and_never_again_with_its_file(tmp_path, target):
    """A file knows rows by their tokens; how blocks hand states on is seen on one row each time that it is read."""
    store = tmp_path / "frozen" / "kept.pth"
    peft_model = adapted(model_of("llama", 2), target, layers=(1,))
    computed = passes(peft_model)
    short = stored(peft_model, store)
    for _ in range(3):
        first = short.logits(batch_of(ROWS[:3])).detach()
    short.keep(ROWS[:3])
    assert len(computed) == 3
    again = stored(peft_model, store)
    assert torch.equal(again.logits(batch_of(ROWS[:3])), first) and len(computed) == 4
    again.keep(ROWS)
    assert len(computed) == 5 and store.exists()
    assert len(read_states(store)) == 4


def test_a_kill_while_the_frozen_part_is_written_leaves_nothing_behind(tmp_path):
    """Before each operation on files: the next one who reads the file finds it whole or not there, and clears up."""
    store, peft_model = tmp_path / "kept.pth", adapted(model_of("llama", 2), "q_proj", layers=(1,))
    short = stored(peft_model, store)
    short.keep(ROWS[:1])
    before = {path.name for path in tmp_path.iterdir()}
    for step in itertools.count():
        if not killed_at(step, lambda: stored(peft_model, store).keep(ROWS)):
            break
        assert len(read_states(store)) in (1, 4) and {path.name for path in tmp_path.iterdir()} == before
    assert step >= 2 and len(read_states(store)) == 4


def test_a_damaged_file_of_the_frozen_part_is_one_line(place, tmp_path, capsys):
    """One byte of a state's is another: it isn't computed with, and the line names the file."""
    folder = finetune(place, tmp_path / "adapter", "--evaluations", 1)
    (file,) = (tmp_path / "frozen").iterdir()
    content = bytearray(file.read_bytes())
    state = next(iter(read_states(file).values()))[0].numpy().tobytes()
    content[content.index(state) + len(state) // 2] ^= 64
    file.write_bytes(content)
    flags = ("--ids", 1, "--method", "noadapter", "--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "remove", folder, *flags)
    assert code == 2 and str(file) in line and len(list(tmp_path.iterdir())) == 2
    file.unlink()
    call(llmeraser, "remove", folder, *flags)


def test_a_frozen_part_belongs_to_its_base_its_place_and_its_precision(place, tmp_path):
    """Other weights, another block and another way have files of their own."""
    cases = [(), ("--base", place / "other"), ("--blocks", 2), ("--targets", "q_proj"), ("--precision", "bf16")]
    for number, flags in enumerate(cases, 1):
        finetune(place, tmp_path / f"a{number}", "--evaluations", 1, *flags)
        assert len(list((tmp_path / "frozen").iterdir())) == number


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="has no list of its 7 blocks"):
        model = model_of("llama", 2)
        model.config.num_hidden_layers = 7
        blocks_of(model)


@pytest.mark.parametrize("content", [[1, 2], {"x": torch.zeros(2, 3)}, {"x": []}, {"x": [torch.zeros(3)]}, {"x": ["a"]}])
def test_kept_states_of_another_form_are_one_line(tmp_path, content):
    write_torch(tmp_path / "kept.pth", content)
    with pytest.raises(UserError, match=r"kept.pth.*: it is damaged"):
        forward.read_states(tmp_path / "kept.pth")


def test_what_is_forgotten_is_kept_no_more(tmp_path):
    short = Forward(adapted(model_of("llama", 3), "q_proj", layers=(2,)))
    short.store = tmp_path / "kept.pth"
    short.keep(ROWS)
    short.forget(ROWS[:2])
    assert short.kept.keys() == forward.read_states(short.store).keys() == {row.key for row in ROWS[2:]}


def test_a_row_is_forgotten_whatever_its_tokens_were_and_in_the_files_beside(tmp_path, capsys):
    """A template that states the date, another form, another precision. A damaged file is named."""
    peft_model, stores = adapted(model_of("llama", 3), "q_proj", layers=(2,)), [tmp_path / f"{i}.pth" for i in range(2)]
    today = [Tokens((*row.prompt, 5), row.response, of=f"row{i}") for i, row in enumerate(ROWS)]
    for store in stores:
        earlier = stored(peft_model, store)
        earlier.keep([Tokens(row.prompt, row.response, of=f"row{i}") for i, row in enumerate(ROWS)])
        earlier.keep(today)
        assert len(read_states(store)) == 8
    (tmp_path / "damaged.pth").write_bytes(b"no archive")
    stored(peft_model, stores[0]).forget(today[:1])
    left = {row.key for row in (*ROWS[1:], *today[1:])}
    assert all(read_states(store).keys() == left for store in stores)
    said = capsys.readouterr().err
    assert "what it may keep of removed rows stays in" in said and "damaged.pth" in said and len(said.splitlines()) == 1


def test_what_a_killed_process_was_writing_beside_is_gone_with_a_removed_row(tmp_path):
    """Of a file that is there, and of one that it was writing for the first time."""
    peft_model, store = adapted(model_of("llama", 3), "q_proj", layers=(2,)), tmp_path / "kept.pth"
    stored(peft_model, store).keep(ROWS)
    for other in ("first.pth", "again.pth"):
        shutil.copy(store, tmp_path / f".{other}.{2**22 + 1}.{PART}")
    shutil.copy(store, tmp_path / "again.pth")
    stored(peft_model, store).forget(ROWS[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pth", "kept.pth"]
    assert all(read_states(file).keys() == {row.key for row in ROWS[1:]} for file in tmp_path.iterdir())


def test_what_an_earlier_version_kept_is_known_by_its_tokens(tmp_path):
    peft_model, store = adapted(model_of("llama", 3), "q_proj", layers=(2,)), tmp_path / "kept.pth"
    stored(peft_model, store).keep(ROWS)  # without a row's digest, as it was then
    now = stored(peft_model, store)
    now.keep([Tokens(row.prompt, row.response, of="row") for row in ROWS])
    assert len(forward._read(store)) == 4
    now.forget([Tokens(ROWS[0].prompt, ROWS[0].response, of="row")])
    assert read_states(store).keys() == {row.key for row in ROWS[1:]}


def test_what_another_process_has_forgotten_doesnt_come_back(tmp_path):
    """It had read the file before, and puts what it has computed since beside what is there now."""
    store, peft_model = tmp_path / "kept.pth", adapted(model_of("llama", 3), "q_proj", layers=(2,))
    stored(peft_model, store).keep(ROWS[:2])
    other = stored(peft_model, store)
    stored(peft_model, store).forget(ROWS[:1])
    other.keep(ROWS)
    assert read_states(store).keys() == {row.key for row in ROWS[1:]}
    stored(peft_model, store).keep(ROWS[:1])
    late = Forward(peft_model)
    late.store = store
    late.forget(ROWS[:1])  # nor does what it hadn't read stay
    assert read_states(store).keys() == {row.key for row in ROWS[1:]}
