"""LLMEraser from end to end on a tiny random Llama: what is frozen, what a request changes, and what it refuses."""

import json
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import TemplateProcessing

import llmeraser
import reproduce
from tests.helpers import call, files, latest, one_line, shell
from tests.storm import malformed
from unlearning.core.device import Compute
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import Parser
from unlearning.experiments import llmeraser as experiment
from unlearning.language import base, influence, scores
from unlearning.language.base import BLOCK, Tail, Task, adapted, load_base, lora_config
from unlearning.language.rows import RECORD, in_words, load_rows, read_edits, read_record, write_adapter, write_edits
from unlearning.language.session import Place, Workspace, batches, objective, session_of, train_adapter

COLOURS = ("red", "green", "dark blue")  # the last has two tokens
COLOURS_SORTED = sorted(COLOURS)
SIZES = (60, 20, 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny random Llama in base/, another in other/, and a task in task.jsonl that words decide."""
    folder = tmp_path_factory.mktemp("llm")
    words = [f"w{i}" for i in range(12)]
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words, "film", "red", "green", "dark", "blue"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    for seed, name in enumerate(("base", "other")):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
        config = transformers.LlamaConfig(
            vocab_size=len(vocabulary), num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, **sizes
        )
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(110):
        chosen = [int(i) for i in rng.integers(12, size=rng.integers(2, 6))]
        query = "film " + " ".join(words[i] for i in chosen)
        lines.append({"query": query, "response": COLOURS[chosen[-1] % 3]})
    write_edits(folder / "task.jsonl", lines)
    finetune(folder, "adapter")
    return folder


def finetune(folder, name, *flags):
    common = ("--task", folder / "task.jsonl", "--base", folder / "base", "--sizes", *SIZES, "--weights", folder, "--quiet")
    return call(llmeraser, "finetune", *common, "--decay", 0.05, "--output", folder / name, *flags)


def request(place, kind, *flags, adapter="adapter"):
    return call(llmeraser, kind, place / adapter, "--weights", place, "--quiet", *flags)


def session(place, folder, **changes):
    record = read_record(folder) | changes
    return session_of(record, where(place), folder)


def where(folder):
    return Place(folder, folder, Compute("cpu", None, folder, quiet=True), Workspace())


def parameters(place, folder):
    with session(place, folder) as now:
        return influence.flat(now.parameters).detach().clone()


def answers(place, folder):
    """The logits on all training rows as one vector."""
    with session(place, folder) as now, torch.no_grad():
        return now.task.choices(now.tail, now.task.encode(now.data.train)).flatten()


@pytest.mark.parametrize("packed", [256, 25, 1])  # all rows in one sequence, a few in each, each in its own
@pytest.mark.parametrize(
    ("targets", "blocks"), [(["down_proj"], 1), (["gate_proj", "down_proj"], 1), (["q_proj", "v_proj"], 2), (["o_proj"], 3)]
)
def test_a_tail_on_the_frozen_part_gives_the_whole_models_logits(place, monkeypatch, packed, targets, blocks):
    monkeypatch.setattr(base, "PACKED", packed)
    model, tokenizer = load_base(str(place / "base"), place)
    lora = lora_config(model, 4, 8, targets, blocks)
    rows = [
        tuple(row.values()) for row in map(json.loads, (place / "task.jsonl").read_text(encoding="utf-8").splitlines()[:9])
    ]
    task = Task(model, tokenizer, list(COLOURS), lora, None)
    with adapted(model, lora) as peft_model:
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        encoded = task.encode(rows)
        assert encoded.shared > 0 or task.start != BLOCK
        found = task.logits(Tail(peft_model), encoded)
        expected = []
        for query, answer in rows:
            prompt, reply = tokenizer.encode(query + "\n"), tokenizer.encode(answer, add_special_tokens=False)
            with torch.no_grad():
                logits = peft_model(input_ids=torch.tensor([prompt + reply])).logits[0]
            expected.append(logits[len(prompt) - 1 : -1, task.vocabulary])
            at = [task.vocabulary.index(token) for token in reply]
            place_of = len(expected) - 1
            loss = torch.nn.functional.cross_entropy(expected[-1], torch.tensor(at)).item()
            assert task.losses(Tail(peft_model), encoded)[place_of].item() == pytest.approx(loss, rel=1e-4)
        assert torch.allclose(found, torch.cat(expected), atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_modules())  # the base is what it was


def test_a_chat_model_is_asked_as_its_template_says_up_to_where_its_answer_begins(place):
    """With the template's own beginning and no second one; a plain model gets the query and the end of a line, which makes
    another word of its last one here."""
    model, tokenizer = load_base(str(place / "base"), place)
    first = tokenizer.convert_tokens_to_ids("w9")
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="w9 $A", special_tokens=[("w9", first)])
    tokenizer._tokenizer.pre_tokenizer = Split(" ", "removed")
    lora = lora_config(model, 4, 8, ["down_proj"], 1)
    plain = Task(model, tokenizer, list(COLOURS), lora, None)
    plain.encode([("film w1", "red"), ("film w2", "green")])
    words = tokenizer.convert_tokens_to_ids
    assert plain.prompts["film w1"] == words(["w9", "film", "<unk>"])
    tokenizer.chat_template = (
        "w9 {% for m in messages %}{{ 'w10' if m.role == 'user' else 'w11' }} {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} w11{% endif %}"
    )
    chat = Task(model, tokenizer, list(COLOURS), lora, None)
    encoded = chat.encode([("film w1", "dark blue"), ("film w2", "green")])
    assert chat.prompts["film w1"] == words(["w9", "w10", "film", "w1", "w11"])
    answered = [[chat.vocabulary[k] for k in row if k >= 0] for row in encoded.targets.tolist()]
    assert answered == [words(["dark", "blue"]), words(["green"])]


@pytest.fixture
def small(place):
    """A session of an adapter of rank 1 at a place that isn't its start, decay 0.05; rows 3 and 4 are gone from its 60."""
    record = read_record(place / "adapter") | {"rank": 1, "edits": [{"id": i, "remove": True} for i in (3, 4)]}
    with session_of(record, where(place)) as now:
        size = influence.flat(now.parameters).numel()
        assert size == 48 + 32
        influence.assign(now.parameters, 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(0)))
        yield now


def losses_of(now, rows):
    return now.task.losses(now.tail, now.task.encode([row for row in rows if row is not None]))


def hessian_of(now):
    """The Hessian of sum of losses / 60 + 0.05 / 2 |Theta|^2, column by column."""
    square = sum((parameter**2).sum() for parameter in now.parameters)
    loss = losses_of(now, now.rows).sum() / 60 + 0.05 / 2 * square
    slope = influence.flat(torch.autograd.grad(loss, now.parameters, create_graph=True))
    return torch.stack([influence.flat(torch.autograd.grad(g, now.parameters, retain_graph=True)) for g in slope])


def test_the_objective_is_the_sum_of_losses_over_n_and_half_the_decay_times_the_square(small):
    """Of all rows that the adapter began with, though two are gone; the decay is shared out to batches by their rows."""
    few, many = small.task.encode(small.data.train[:2]), small.task.encode(small.data.train[10:15])
    part = objective(small, [few, many], 60)
    square = sum(float((parameter.detach() ** 2).sum()) for parameter in small.parameters)
    for batch, rows in ((few, small.data.train[:2]), (many, small.data.train[10:15])):
        expected = sum(losses_of(small, [row]).item() for row in rows) / 60 + len(rows) / 7 * 0.025 * square
        assert part(batch).item() == pytest.approx(expected, rel=1e-5)


def test_training_comes_to_rest_on_that_objective(small):
    """Over 60 rows, not the 58 that are left, by which the slope of the losses would be 3 % steeper."""
    loss, count = train_adapter(small, 400)
    slopes = [influence.gradient(losses_of(small, small.rows).sum() / 60, small.parameters)]
    slopes.append(0.05 * influence.flat(small.parameters).detach())
    assert (slopes[0] + slopes[1]).norm() < 0.01 * slopes[1].norm() and count < 400
    square = sum(float((parameter.detach() ** 2).sum()) for parameter in small.parameters)
    assert loss == pytest.approx(losses_of(small, small.rows).sum().item() / 60 + 0.025 * square, rel=1e-4)


def test_seeds_are_other_starts_and_a_seed_is_one(place):
    """By the matrix A; B is zero at every start."""
    record, found = read_record(place / "adapter"), []
    for seed in (0, 1, 0):
        torch.rand(seed + 3)
        with session_of(record | {"seed": seed}, where(place)) as now:
            found.append({name: p.detach().clone() for name, p in now.peft_model.named_parameters() if p.requires_grad})
    for name, value in found[0].items():
        assert torch.equal(value, found[2][name])
        assert (value == found[1][name]).all() if "lora_B" in name else not (value == found[1][name]).any()


def gauss_newton_of(now):
    """The same without the curvature of the network: the sum over tokens of J' (diag p - p p') J, each over its answer's
    number of tokens and 60."""
    rows = [row for row in now.rows if row is not None]
    logits, found = now.task.logits(now.tail, now.task.encode(rows)), 0.05 * torch.eye(80)
    lengths = [len(answer.split()) for _, answer in rows for _ in answer.split()]
    for token, length in zip(logits, lengths, strict=True):
        slopes = [influence.flat(torch.autograd.grad(z, now.parameters, retain_graph=True)) for z in token]
        jacobian, p = torch.stack(slopes), token.detach().softmax(0)
        found = found + jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian / length / 60
    return found


@pytest.mark.parametrize(
    ("kind", "solver", "curvature"),
    [
        *((kind, "cg", "hessian") for kind in ("remove", "modify", "correct")),
        *(("correct", "adam", "hessian"), ("correct", "cg", "gauss-newton"), ("remove", "adam", "gauss-newton")),
    ],
)
def test_the_step_is_the_papers_formula(small, monkeypatch, kind, solver, curvature):
    """Theta + (H + damping)^-1 (sum of G before - sum of G after) / n, written out; by mini-batches too, of unlike sizes."""
    before = small.data.train[10:13]
    other = [answer for answer in COLOURS if answer != before[0][1]]
    after = {
        "remove": [],
        "modify": [("film w1 w7", answer) for _, answer in before],
        "correct": [(query, other[i % 2]) for i, (query, _) in enumerate(before)],
    }[kind]
    start = influence.flat(small.parameters).detach().clone()
    hessian = (hessian_of if curvature == "hessian" else gauss_newton_of)(small)
    slopes = [influence.gradient(losses_of(small, rows).sum(), small.parameters) if rows else 0 for rows in (before, after)]
    damping = 1.2 * float(torch.linalg.eigvalsh(hessian).abs().max())
    b = (slopes[0] - slopes[1]) / 60
    expected = torch.linalg.solve(hessian + damping * torch.eye(len(b)), b)

    def stochastic(product_of, rows, sizes, b, damping, **_):  # its result, if it ran for ever
        assert sizes == [25, 25, 8]
        eye = torch.eye(len(b))
        parts = [torch.stack([product_of(batch)(v) for v in eye]) for batch in rows]
        mean = sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        return influence.Solution(torch.linalg.solve(mean + damping * eye, b), 0.0, 1)

    monkeypatch.setattr(influence, "stochastic", stochastic)
    monkeypatch.setattr(llmeraser, "MINI", 25)
    how = llmeraser.How(solver=solver, curvature=curvature, damping=damping, tolerance=1e-5)
    found = llmeraser.unlearn(small, before, after, how)
    moved = influence.flat(small.parameters).detach() - start
    assert found["damping"] == damping
    assert (moved - expected).norm() < 1e-3 * expected.norm()


def test_products_are_those_of_all_dampings(small, monkeypatch):
    """Conjugate gradients share them; the stochastic way starts again for each: 6 steps and 2 looks at 3 batches."""
    monkeypatch.setattr(llmeraser, "DAMPINGS", (30.0, 10.0))
    monkeypatch.setattr(llmeraser, "MINI", 25)
    monkeypatch.setattr(influence, "stochastic", partial(influence.stochastic, most=6, every=3))
    before = small.data.train[10:13]
    assert llmeraser.unlearn(small, before, [], llmeraser.How(solver="adam"))["products"] == 2 * (6 + 2 * 3)
    calls, hessian_product = [], influence.hessian_product

    def counted(*arguments):
        product = hessian_product(*arguments)
        return lambda v: calls.append(1) or product(v)

    monkeypatch.setattr(influence, "hessian_product", counted)
    assert llmeraser.unlearn(small, before, [], llmeraser.How())["products"] == len(calls) > 2


@pytest.mark.parametrize("kind", ["remove", "correct"])
def test_the_damping_is_chosen_by_validation_rows(small, monkeypatch, kind):
    """The one with the least loss there; for removal with a loss of the removed rows that is nearest to it."""
    dampings = (300.0, 100.0, 30.0, 1.0, 0.1)
    monkeypatch.setattr(llmeraser, "DAMPINGS", dampings)
    how = llmeraser.How(curvature="gauss-newton")  # solved at each of them
    before = small.data.train[10:30]
    after = [(query, "red") for query, _ in before] if kind == "correct" else []
    start, gaps = influence.flat(small.parameters).detach().clone(), {}
    for damping in dampings:
        influence.assign(small.parameters, start)
        llmeraser.unlearn(small, before, after, replace(how, damping=damping))
        with torch.no_grad():
            unseen, asked = losses_of(small, small.data.validation).mean(), losses_of(small, before).mean()
        gaps[damping] = unseen if after else (unseen - asked).abs()
    influence.assign(small.parameters, start)
    assert llmeraser.unlearn(small, before, after, how)["damping"] == min(gaps, key=gaps.get) not in (300.0, 0.1)


def test_gradient_ascent_takes_ten_steps_of_adam_up_the_mean_loss(small):
    before, start = small.data.train[10:13], influence.flat(small.parameters).detach().clone()
    slope = influence.gradient(losses_of(small, before).mean(), small.parameters)
    llmeraser.gradient_ascent(small, before, [], llmeraser.How(), steps=1)
    torch.testing.assert_close(influence.flat(small.parameters).detach() - start, 1e-3 * slope.sign(), rtol=0.01, atol=1e-6)
    influence.assign(small.parameters, start)
    llmeraser.gradient_ascent(small, before, [], llmeraser.How())
    assert (influence.flat(small.parameters) - start).abs().max().item() == pytest.approx(0.01, rel=0.05)


def test_training_comes_to_rest_learns_and_is_the_same_again(place):
    record = read_record(place / "adapter")
    with session(place, place / "adapter") as now:
        encoded = batches(now, now.rows)
        at_rest = influence.gradient(sum(map(objective(now, encoded, len(now.rows)), encoded)), now.parameters)
        assert at_rest.norm() < 1e-2 * influence.flat(now.parameters).norm()
        labels = torch.tensor([now.data.answers.index(answer) for _, answer in now.data.train])
        with torch.no_grad():
            right = (now.task.choices(now.tail, encoded[0]).argmax(1) == labels).double().mean()
        assert right > 0.6  # a third would be chance
    again = finetune(place, "again")
    assert torch.equal(parameters(place, place / "adapter"), parameters(place, again))
    assert record["cost"]["seconds"] > 0 and record["loss"] == read_record(again)["loss"]


def test_no_request_changes_no_bit(place):
    before = parameters(place, place / "adapter")
    with session(place, place / "adapter") as now:
        for rows in ([], now.data.train[:5]):  # nothing, and rows that stay what they are
            llmeraser.unlearn(now, rows, rows, llmeraser.How())
            assert torch.equal(influence.flat(now.parameters), before)


def test_damping_is_chosen_on_validation_rows_alone(place):
    """Rows that the request makes right want the largest step, rows as they were the smallest; test rows have no say."""
    with session(place, place / "adapter") as now:
        start, rows = influence.flat(now.parameters).detach().clone(), now.data.train[:6]
        right = [(query, COLOURS[(COLOURS.index(answer) + 1) % 3]) for query, answer in rows]
        found = {}
        for validation in (rows, right):
            for test in (rows, right):
                data = replace(now.data, validation=validation, test=test)
                influence.assign(now.parameters, start)
                step = llmeraser.unlearn(replace(now, data=data), rows, right, llmeraser.How())
                found[validation is right, test is right] = step["damping"], influence.flat(now.parameters).tolist()
    assert found[True, True] == found[True, False] != found[False, False] == found[False, True]
    assert found[True, True][0] < found[False, False][0]


@pytest.mark.parametrize("flags", [(), ("--curvature", "gauss-newton")])
def test_removal_goes_where_retraining_goes(place, tmp_path, flags):
    request(place, "remove", "--ids", 1, 2, "--output", tmp_path / "a", "--damping", 0.001, *flags)
    request(place, "remove", "--ids", 1, 2, "--output", tmp_path / "b", "--method", "retrain")
    # By their answers: many pairs of A and B make the same adapter, so parameters may differ more.
    start, step, true = (answers(place, folder) for folder in (place / "adapter", tmp_path / "a", tmp_path / "b"))
    assert torch.cosine_similarity(step - start, true - start, 0) > 0.9
    assert 0.2 < (step - start).norm() / (true - start).norm() < 1.5  # the length falls short of large changes
    record = read_record(tmp_path / "a")
    assert 0 < record["ledger"][-1]["residual"] <= 1e-4 and record["edits"][0] == {"id": 1, "remove": True}


def corrupted(place, name="corrupted"):
    """An adapter that was trained on wrong answers in twelve rows, and the files of wrong and right ones."""
    rows = load_rows(str(place / "task.jsonl"), place, SIZES)
    wrong, right = experiment.requests("correct", 20, 0, rows, place)
    if not (place / name).exists():
        finetune(place, name, "--edits", wrong)
    return wrong, right


def test_requests_of_one_seed_are_about_the_same_rows_and_those_of_another_about_others(place, tmp_path):
    """The smaller share is a part of the larger one."""
    rows = load_rows(str(place / "task.jsonl"), place, SIZES)

    def asked(kind, share, seed):
        return [edit["id"] for edit in read_edits(experiment.requests(kind, share, seed, rows, tmp_path)[1])]

    first = asked("remove", 20, 0)
    assert len(first) == 12 and first == asked("modify", 20, 0) == asked("correct", 20, 0)
    assert asked("remove", 10, 0) == first[:6] and set(asked("remove", 20, 1)) != set(first)


def test_correction_undoes_damage_and_its_inverse_returns(place, tmp_path):
    wrong, right = corrupted(place)
    corrected = request(place, "correct", "--request", right, "--output", tmp_path / "right", adapter="corrupted")
    retrained = request(
        place, "correct", "--request", right, "--output", tmp_path / "again", "--method", "retrain", adapter="corrupted"
    )
    record = read_record(corrected)
    before = [tuple(row) for row in record["ledger"][-1]["before"]]
    scored = [scores.score(f, record, before, where(place)) for f in (place / "corrupted", corrected, retrained)]
    losses = [found["loss"] for found, _, _ in scored]
    assert scores.undone(losses[1], losses[0], losses[2]) > 50
    scores.compare(scored[2], scored[0], scored[2])
    assert scored[2][0]["distance"] == 0 and scored[2][0]["cosine"] == pytest.approx(1)
    assert scored[1][0]["forget_loss"] > scored[0][0]["forget_loss"]  # what it was taught wrongly
    # There and back by small steps: what is left is of second order, far below the step.
    few = [json.loads(line) for line in right.read_text(encoding="utf-8").splitlines()[:2]]
    back = [json.loads(line) for line in wrong.read_text(encoding="utf-8").splitlines()[:2]]
    for name, edits in (("few", few), ("back", back)):
        write_edits(tmp_path / f"{name}.jsonl", edits)
    fixed = ("--damping", 3)
    there = request(
        place, "correct", "--request", tmp_path / "few.jsonl", "--output", tmp_path / "c", *fixed, adapter="corrupted"
    )
    shutil.copytree(there, place / "there", dirs_exist_ok=True)
    returned = request(
        place, "correct", "--request", tmp_path / "back.jsonl", "--output", tmp_path / "d", *fixed, adapter="there"
    )
    at = [parameters(place, folder) for folder in (place / "corrupted", there, returned)]
    assert (at[2] - at[0]).norm() < 0.2 * (at[1] - at[0]).norm()


def test_retrain_is_the_training_that_had_never_seen_the_wrong_rows(place, tmp_path):
    _, right = corrupted(place)
    flags = ("--request", right, "--output", tmp_path / "x", "--method", "retrain")
    folder = request(place, "correct", *flags, adapter="corrupted")
    assert torch.equal(parameters(place, folder), parameters(place, place / "adapter"))


@pytest.mark.parametrize("method", ["gradascent", "finetune"])
def test_baselines_do_what_their_name_says(place, tmp_path, method):
    _, right = corrupted(place)
    folder = request(
        place, "correct", "--request", right, "--output", tmp_path / "x", "--method", method, adapter="corrupted"
    )
    record = read_record(folder)
    before = [tuple(row) for row in record["ledger"][-1]["before"]]
    old, new = (scores.score(f, record, before, where(place))[0] for f in (place / "corrupted", folder))
    assert new["forget_loss"] > old["forget_loss"]
    assert (new["loss"] < old["loss"]) == (method == "finetune")


def test_an_adapters_scores_are_those_of_its_answers(place):
    """Accuracy, mean loss, the AUC of each answer against the others, and how often an asked row is known better than a test
    row, pair by pair."""
    folder = place / "adapter"
    before = load_rows(str(place / "task.jsonl"), place, SIZES).train[:7]
    found, at, logits = scores.score(folder, read_record(folder), before, where(place))
    with session(place, folder) as now, torch.no_grad():
        test = now.data.test
        own = now.task.choices(now.tail, now.task.encode(test)).softmax(1)
        losses = [now.task.losses(now.tail, now.task.encode(rows)) for rows in (before, test)]
        labels = torch.tensor([COLOURS_SORTED.index(answer) for _, answer in test])
        assert torch.equal(at, influence.flat(now.parameters))
    torch.testing.assert_close(logits.softmax(1), own)
    assert found["accuracy"] == pytest.approx(100 * sum(own.argmax(1) == labels).item() / len(test))
    assert (found["forget_loss"], found["loss"]) == pytest.approx([x.mean().item() for x in losses])
    assert found["membership"] == pytest.approx(100 * (losses[0][:, None] < losses[1]).double().mean().item())
    each = [(own[labels == k, k][:, None] > own[labels != k, k]).double().mean().item() for k in labels.unique().tolist()]
    assert found["auc"] == pytest.approx(100 * sum(each) / len(each))


def test_each_adapter_is_scored_on_its_own_request(place, tmp_path):
    first = request(place, "remove", "--ids", 1, 2, "--output", tmp_path / "first")
    second = request(place, "remove", "--ids", 30, 31, 32, "--output", tmp_path / "second")

    def forget_losses(*folders):
        whole = [
            line
            for line in scores.table(list(folders), None, where(place)).splitlines()
            if line.startswith(("first ", "second "))
        ]
        return {line.split()[0]: line.split()[-2:] for line in reversed(whole)}  # of the first table: loss, membership

    alone = forget_losses(first) | forget_losses(second)
    assert alone["first"] != alone["second"]
    assert forget_losses(first, second) == alone


def test_a_request_about_rows_is_said_first(place, tmp_path, capsys):
    flags = ("--weights", place, "--output", tmp_path / "gone", "--method", "gradascent")
    folder = call(llmeraser, "remove", place / "adapter", *flags, "--ids", 1, 2, 30)
    record = read_record(folder)
    asked = [answer for _, answer in record["ledger"][0]["before"]]
    whole = [answer for _, answer in where(place).rows(record["task"], record["sizes"]).train]
    parts = [f"{asked.count(one)} of answer {one}" for one in sorted(set(asked), key=lambda one: (-asked.count(one), one))]
    assert capsys.readouterr().err.splitlines()[0] == f"forgets 3 of {len(whole)} rows: {', '.join(parts)}"
    rows = [("a", "red"), ("b", "red"), None, ("c", "blue"), ("d", "red")]
    assert in_words("correct", [{"id": 3}, {"id": 4}], rows) == "corrects 2 of 4 rows: all 1 of answer blue, 1 of answer red"


def test_the_adapter_loads_with_peft_and_the_base_is_never_written(place, tmp_path):
    base = {file.name: file.read_bytes() for file in (place / "base").iterdir()}
    folder = request(place, "remove", "--ids", 5, "--output", tmp_path / "x")
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    with session(place, folder) as now:
        rows = now.data.test
        expected = now.task.choices(now.tail, now.task.encode(rows)).detach()
        tokenizer, first = now.task.tokenizer, [now.task.vocabulary[i] for i in now.task.first]
    loaded = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        found = [loaded(input_ids=torch.tensor([tokenizer.encode(q + "\n")])).logits[0, -1, first] for q, _ in rows]
    assert torch.allclose(torch.stack(found), expected, atol=1e-4)
    assert {file.name: file.read_bytes() for file in (place / "base").iterdir()} == base


@pytest.mark.parametrize(
    ("kind", "lines", "complaint"),
    [
        ("remove", [{"id": 60}], "rows run from 0 to 59"),
        ("remove", [{"id": 3}, {"id": 3}], "named twice"),
        ("remove", [], "nothing is asked"),
        ("correct", [{"id": 3, "response": " "}], "is empty"),
        ("correct", [{"id": 3, "response": "purple"}], "none of the answers"),
        ("correct", [{"id": 3}], "needs its response"),
        ("modify", [{"id": 3, "response": "red"}], "needs its query"),
        ("modify", [{"id": "3", "query": "film w1"}], "an id and one of"),
    ],
)
def test_a_request_that_cant_be_met_is_one_line_and_writes_nothing(place, tmp_path, capsys, kind, lines, complaint):
    file = tmp_path / "request.jsonl"
    write_edits(file, lines)
    there = sorted(place.rglob("*"))
    code, line = one_line(llmeraser, capsys, kind, place / "adapter", "--request", file, "--weights", place, "--quiet")
    assert code == 2 and complaint in line
    assert sorted(place.rglob("*")) == there


def test_other_adapters_other_bases_and_existing_folders_are_refused(place, tmp_path, capsys):
    alien = shutil.copytree(place / "adapter", tmp_path / "alien")
    record = json.loads((alien / RECORD).read_text(encoding="utf-8"))
    (alien / RECORD).write_text(json.dumps(record | {"base": str(place / "other")}), encoding="utf-8")
    ask = ("--ids", 1, "--weights", place, "--quiet")
    code, line = one_line(llmeraser, capsys, "remove", alien, *ask)
    assert code == 2 and "another base" in line and not list(tmp_path.glob("alien_*"))
    code, line = one_line(llmeraser, capsys, "remove", place / "base", *ask)
    assert code == 2 and "not an adapter" in line
    code, line = one_line(llmeraser, capsys, "remove", place / "adapter", *ask, "--output", place / "base")
    assert code == 2 and "not an adapter" in line
    gone = request(place, "remove", "--ids", 1, "--output", tmp_path / "gone")
    code, line = one_line(llmeraser, capsys, "remove", gone, *ask)
    assert code == 2 and "removed already" in line
    code, line = one_line(llmeraser, capsys, "remove", place / "adapter", *ask, "--tolerance", "1e-30")
    assert code == 1 and "larger --damping" in line
    code, line = one_line(llmeraser, capsys, "remove", place / "adapter", *ask, "--damping", "-50")
    assert code == 2 and "is not a number from 0 to" in line


def test_the_table_has_every_row_and_is_resumed(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "SHARES", (20,))
    sizes = {
        "model": [str(place / "base")],
        "tasks": [str(place / "task.jsonl")],
        "sizes": SIZES,
        "flags": ["--decay", "0.05"],
    }
    monkeypatch.setitem(experiment.PRESETS, "quick", sizes)

    def make():
        call(reproduce, "llmeraser", "--seeds", "2", "--data-dir", place, "--quiet")
        return json.loads((tmp_path / "results/llmeraser-quick/result.json").read_text(encoding="utf-8"))

    result = make()
    assert [row["method"] for row in result["rows"]] == 3 * [*experiment.ROWS, experiment.NONE]
    rows = {(row["task"], row["method"]): row for row in result["rows"]}
    assert all(row["n"] == 2 and row["share"] == 20 for row in rows.values())
    assert rows["correct", "retrain"]["metrics"]["undone"]["mean"] == pytest.approx(100)
    assert rows["correct", "llmeraser"]["metrics"]["residual"]["mean"] <= 1e-4
    times = {method: rows["modify", method]["metrics"]["seconds"]["values"] for method in ("retrain", "finetune")}
    ratios = [whole / own for whole, own in zip(times["retrain"], times["finetune"], strict=True)]
    assert rows["modify", "finetune"]["metrics"]["seconds_ratio"]["values"] == pytest.approx(ratios)
    assert rows["remove", "corrupted"]["metrics"]["membership"]["mean"] > 45
    assert (tmp_path / "results/llmeraser-quick/figures/shares.png").exists()
    capsys.readouterr()
    assert make()["rows"] == result["rows"]
    assert capsys.readouterr().err.count("there already") == 2 * 3 * len(experiment.ROWS)


def test_nothing_of_the_vision_side_is_loaded():
    code = "import sys, llmeraser; llmeraser.parser(); print(*sys.modules)"
    loaded = set(shell("-c", code).stdout.split())
    assert "unlearning.language.session" in loaded
    slow = {"torchvision", "timm", "peft", "transformers", "sklearn", "scipy", "matplotlib", "rdata"}
    assert not [name for name in loaded if name.startswith("unlearning.vision") or name in slow]


FULL = "No space left on device"


@pytest.mark.parametrize("error", [OSError(28, FULL), SafetensorError(FULL)])
@pytest.mark.parametrize("at", ["adapter", "record"])
def test_a_failure_to_write_leaves_the_old_adapter(place, tmp_path, monkeypatch, error, at):
    folder = shutil.copytree(place / "adapter", tmp_path / "adapter")
    before, record = files(tmp_path), read_record(folder)

    def full(*arguments, **how):
        file = Path(arguments[0] if at == "record" else Path(arguments[1]) / "adapter_model.safetensors")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
        raise error

    with session(place, folder) as now:
        where, name = (Path, "write_text") if at == "record" else (type(now.peft_model), "save_pretrained")
        monkeypatch.setattr(where, name, full)
        with pytest.raises(RunFailed, match="No space left"):
            write_adapter(now.peft_model, folder, record | {"rank": 99})
    assert files(tmp_path) == before


def test_a_full_disk_below_the_frozen_part_is_one_line(place, tmp_path, monkeypatch, capsys):
    def full(tensors, part):
        part.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(base, "save_file", full)
    data = ("--task", place / "task.jsonl", "--base", place / "base", "--sizes", *SIZES)
    code, line = one_line(llmeraser, capsys, "finetune", *data, "--weights", tmp_path, "--quiet")
    assert code == 1 and "cannot write" in line and "No space left" in line
    assert not files(tmp_path)
    monkeypatch.undo()
    call(llmeraser, "finetune", *data, "--weights", tmp_path, "--evaluations", 1, "--quiet")
    before, monkeypatch = files(tmp_path), pytest.MonkeyPatch()
    with monkeypatch.context() as patch:  # rows that come to those of earlier runs
        patch.setattr(base, "save_file", full)
        more = ("--task", place / "task.jsonl", "--base", place / "base", "--sizes", 70, 20, 20)
        code, line = one_line(llmeraser, capsys, "finetune", *more, "--weights", tmp_path, "--quiet")
    assert code == 1 and any(name.startswith("frozen/") for name in before) and files(tmp_path) == before


def test_a_base_out_of_a_package_is_there_whole_or_not_at_all(place, tmp_path, monkeypatch):
    """It is dequantised into a folder that gets its name at the end; what was stopped begins again."""
    quantised, tokenizer = load_base(str(place / "base"), place)
    quantised.config.quantization_config = {"of": "the package"}
    monkeypatch.setattr(base, "package_file", lambda wanted, file, *_: (file.parent.mkdir(exist_ok=True), file.touch()))
    for kind, made in ((transformers.AutoModelForCausalLM, quantised), (transformers.AutoTokenizer, tokenizer)):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, made=made, **how: made)
    for fails in (transformers.PreTrainedModel, type(tokenizer)):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=FULL):
            patch.setattr(fails, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, FULL)))
            base._smollm2(tmp_path, quiet=True)
        assert not (tmp_path / base.SMOLLM2).exists()
    folder = base._smollm2(tmp_path, quiet=True)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files(folder).keys() and list(tmp_path.iterdir()) == [
        folder
    ]
    whole = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, quantised.state_dict()[name]) for name, value in whole.items())


def test_loading_shows_no_progress_bars_and_leaves_the_setting_as_it_was(place, tmp_path, monkeypatch):
    logging, shown = transformers.utils.logging, []

    def dequantised(data_dir, quiet):
        shown.append(logging.is_progress_bar_enabled())
        return place / "base" if data_dir == place else data_dir / "nothing"

    monkeypatch.setattr(base, "_smollm2", dequantised)
    logging.enable_progress_bar()
    load_base(base.SMOLLM2, place)
    assert shown == [False] and logging.is_progress_bar_enabled()
    with pytest.raises(UserError, match="no language model"):
        load_base(base.SMOLLM2, tmp_path)
    assert logging.is_progress_bar_enabled()


def test_a_frozen_part_on_the_disk_belongs_to_its_base_and_its_block(place, tmp_path):
    """Its file is there for the same rows; other weights, or a part that ends elsewhere, have other outputs."""
    rows = [("film w1 w2", "red"), ("film w3", "green")]
    here = Place(place, tmp_path, Compute("cpu", None, tmp_path, quiet=True), Workspace())

    def outputs(name, targets, blocks):
        task = here.task(str(place / name), COLOURS, (4, 8, targets, blocks))
        kept = set(task.kept)
        return kept, task.encode(rows).hidden

    cases = [("base", ("up_proj",), 1), ("other", ("up_proj",), 1), ("base", ("q_proj",), 1), ("base", ("q_proj",), 2)]
    first = [outputs(*case) for case in cases]
    again = [outputs(*case) for case in cases]
    assert not any(kept for kept, _ in first) and all(len(kept) == len(rows) for kept, _ in again)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))
    assert len({tuple(hidden.flatten().tolist()) for _, hidden in first}) == len(cases)


def test_a_task_belongs_to_the_base_that_is_there(place):
    here, lora = where(place), (4, 8, ("down_proj",), 1)
    first = here.task(str(place / "base"), COLOURS, lora)
    assert here.task(str(place / "base"), COLOURS, lora) is first
    here.base(str(place / "other"))
    again = here.task(str(place / "base"), COLOURS, lora)  # the base was read again
    assert again is not first and again.model is here.base(str(place / "base"))[0]


def test_a_workspace_keeps_the_last_of_each_kind():
    made, workspace = [], Workspace()
    for key in ("a", "a", "b", "a"):
        assert workspace.last("rows", key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "a"]


def test_requests_of_other_settings_have_folders_of_their_own(place, tmp_path, capsys):
    adapter = shutil.copytree(place / "adapter", tmp_path / "adapter")
    ask = (adapter, "--ids", 1, 2, "--weights", place, "--quiet")
    usual = call(llmeraser, "remove", *ask)
    other = call(llmeraser, "remove", *ask, "--curvature", "gauss-newton")
    assert usual != other and read_record(other)["ledger"][-1]["curvature"] == "gauss-newton"
    capsys.readouterr()
    assert call(llmeraser, "remove", *ask) == usual and "there already" in capsys.readouterr().err
    code, line = one_line(llmeraser, capsys, "remove", *ask, "--damping", 0.5, "--output", usual)
    assert code == 2 and "other settings" in line


def test_what_was_made_from_other_data_is_not_taken_as_finished(place, tmp_path, capsys):
    file = shutil.copy(place / "task.jsonl", tmp_path / "task.jsonl")
    data = ("--task", file, "--base", place / "base", "--sizes", *SIZES, "--evaluations", 5)
    common = ("--weights", tmp_path, "--quiet")
    tune = ("finetune", *data, *common, "--output", tmp_path / "adapter")
    ask = ("remove", tmp_path / "adapter", "--ids", 1, "--method", "finetune", *common, "--output", tmp_path / "gone")
    for arguments in (tune, ask):
        call(llmeraser, *arguments)
        call(llmeraser, *arguments)
    assert capsys.readouterr().err.count("there already") == 2
    file.write_text(file.read_text(encoding="utf-8").replace('"green"', '"red"'), encoding="utf-8")
    code, line = one_line(llmeraser, capsys, *tune)
    assert code == 2 and "other settings" in line
    before = files(tmp_path)
    for arguments in (("remove", tmp_path / "adapter", "--ids", 2), ("evaluate", tmp_path / "adapter")):
        code, line = one_line(llmeraser, capsys, *arguments, *common)
        assert code == 2 and "was trained on other data" in line and "fingerprints differ" in line
    assert files(tmp_path) == before
    call(llmeraser, *tune, "--overwrite")
    code, line = one_line(llmeraser, capsys, *ask)  # the same request, but the adapter is another
    assert code == 2 and "other settings" in line


def test_overwrite_replaces_adapters_of_this_project_alone(place, tmp_path, capsys):
    """No other folder, none with more in it, and never the adapter that is answered from."""
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/thesis.txt").write_text("mine", encoding="utf-8")
    shutil.copytree(tmp_path / "adapter", tmp_path / "noted")
    (tmp_path / "noted/notes.txt").write_text("mine", encoding="utf-8")
    before, common = files(tmp_path), ("--weights", tmp_path, "--quiet", "--overwrite")
    ask = ("remove", tmp_path / "adapter", "--ids", 1, "--method", "finetune", *common, "--output")
    for name, what in (("docs", "not an adapter"), ("noted", "holds notes.txt"), ("adapter", "is the adapter that")):
        code, line = one_line(llmeraser, capsys, *ask, tmp_path / name)
        assert code == 2 and what in line
    assert files(tmp_path) == before


def flags_of(add):
    """The flags that a function adds to a parser, but for those that say nothing of the result."""
    parser = Parser()
    add(parser)
    return {action.option_strings[-1] for action in parser._actions if action.option_strings} - {"--help", "--task"}


def test_each_flag_of_a_training_and_of_a_request_makes_another_adapter(place, tmp_path, capsys):
    """One at a time: what is there is refused, and stays."""
    write_edits(tmp_path / "edits.jsonl", [{"id": 3, "remove": True}])
    common = ("--weights", tmp_path, "--quiet")
    data = ("--task", place / "task.jsonl", "--base", place / "base", "--sizes", *SIZES, "--evaluations", 2)
    tune = ("finetune", *data, *common, "--output", tmp_path / "adapter")
    ask = ("remove", tmp_path / "adapter", "--method", "finetune", *common, "--output", tmp_path / "gone")
    for arguments in (tune, (*ask, "--ids", 1)):
        call(llmeraser, *arguments)
    before = files(tmp_path)
    trained = {"--rank": [4], "--alpha": [4], "--blocks": [2], "--decay": [0.1], "--seed": [1], "--evaluations": [3]}
    trained |= {"--edits": [tmp_path / "edits.jsonl"], "--base": [place / "other"]}
    several = {"--targets": ["up_proj"], "--sizes": [59, 20, 20]}
    assert trained.keys() | several.keys() == flags_of(llmeraser._add_training_flags)
    asked = {"--method": ["retrain"], "--solver": ["adam"], "--curvature": ["gauss-newton"], "--damping": [0.5]}
    asked |= {"--tolerance": [0.1]}
    requests = flags_of(lambda parser: llmeraser._add_request_flags(parser, "remove"))
    assert asked.keys() | {"--ids", "--request"} == requests
    others = [(*(word for word in tune if word != "--sizes" and word not in SIZES), "--sizes", 59, 20, 20)]
    others += [(*tune, "--targets", "up_proj")] + [(*tune, flag, *words) for flag, words in trained.items()]
    others += [(*ask, "--ids", 1, flag, *words) for flag, words in asked.items()] + [(*ask, "--ids", 2)]
    for arguments in others:
        code, line = one_line(llmeraser, capsys, *latest(arguments))
        assert code == 2 and "other settings" in line and files(tmp_path) == before, arguments


def test_an_answer_of_another_adapter_is_not_taken(place, tmp_path, capsys):
    """Whatever its record says that this one's doesn't: what it was trained on, and how."""
    common = ("--weights", tmp_path, "--quiet")
    ask = ("remove", place / "adapter", "--ids", 1, "--method", "finetune", *common, "--output", tmp_path / "gone")
    file = call(llmeraser, *ask) / RECORD
    record = json.loads(file.read_text(encoding="utf-8"))
    for name in ("base", "task", "base_sha256", "fingerprint", "seed", "rank", "alpha", "blocks", "decay", "evaluations"):
        other = {name: f"{record[name]}x" if isinstance(record[name], str) else record[name] + 1}
        file.write_text(json.dumps(record | other), encoding="utf-8")
        code, line = one_line(llmeraser, capsys, *ask)
        assert code == 2 and "other settings" in line, name
    for name, other in {"sizes": [*SIZES[:2], 10], "targets": ["up_proj"], "edits": []}.items():
        file.write_text(json.dumps(record | {name: other}), encoding="utf-8")
        code, line = one_line(llmeraser, capsys, *ask)
        assert code == 2 and "other settings" in line, name


def test_adapters_of_other_settings_have_folders_of_their_own(place, tmp_path):
    common = ("finetune", "--task", place / "task.jsonl", "--base", place / "base", "--sizes", *SIZES, "--weights", tmp_path)
    folders = [call(llmeraser, *common, "--quiet", "--evaluations", 5, "--rank", rank) for rank in (2, 4)]
    assert [read_record(folder)["rank"] for folder in folders] == [2, 4]


def test_a_task_of_one_answer_is_refused(place, tmp_path, capsys):
    """There is nothing to choose between, and so nothing to forget: it used to be unlearned with exit code 0."""
    write_edits(tmp_path / "one.jsonl", [{"query": f"film w{i % 12}", "response": "red"} for i in range(110)])
    where = ("--base", place / "base", "--sizes", *SIZES, "--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "finetune", "--task", tmp_path / "one.jsonl", *where)
    assert (
        code == 2 and "all rows have the one answer 'red'" in line and list(tmp_path.iterdir()) == [tmp_path / "one.jsonl"]
    )


def test_a_row_that_is_longer_than_the_base_has_positions_is_refused(place, tmp_path, capsys):
    base_ = shutil.copytree(place / "base", tmp_path / "base")
    config = json.loads((base_ / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": 16}
    (base_ / "config.json").write_text(json.dumps(config), encoding="utf-8")
    lines = (place / "task.jsonl").read_text(encoding="utf-8").splitlines()
    lines[::5] = [json.dumps({"query": "film " + "w1 " * 15, "response": "red"})] * 22  # 16 words: the base takes them
    task = tmp_path / "task.jsonl"
    where = ("--base", base_, "--sizes", 70, 20, 20, "--weights", tmp_path, "--evaluations", 1, "--quiet")
    task.write_text("\n".join(lines), encoding="utf-8")
    call(llmeraser, "finetune", "--task", task, *where, "--output", tmp_path / "fits")
    lines[::5] = [json.dumps({"query": "film " + "w1 " * 16, "response": "red"})] * 22
    task.write_text("\n".join(lines), encoding="utf-8")
    code, line = one_line(llmeraser, capsys, "finetune", "--task", task, *where, "--output", tmp_path / "x")
    assert code == 2 and "rows are too long, one of 17 tokens: the base takes 16" in line and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/model.gguf", "there is no such file, and a GGUF file alone isn't read: give a folder"),
        ("there.gguf", "a GGUF file alone isn't read"),
        ("adapter", "is an adapter, not a base: name the model that it was trained on"),
        ("nowhere", "there is no such folder"),
    ],
)
def test_a_base_that_is_none_is_one_helpful_line(place, tmp_path, capsys, name, message):
    (tmp_path / "there.gguf").write_bytes(b"GGUF")
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    where = ("--task", place / "task.jsonl", "--sizes", *SIZES, "--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "finetune", "--base", tmp_path / name, *where)
    assert code == 2 and f"{tmp_path / name}" in line and message in line


@pytest.mark.parametrize(("name", "some"), [("record.json", 25), ("adapter_config.json", 12)])
def test_an_adapter_that_is_damaged_is_refused_or_answered(place, tmp_path, name, some):
    """One field in turn, in one of many ways: never a traceback, and nothing is written where it is refused."""
    sound, shared = request(place, "remove", "--ids", 3, "--output", tmp_path / "sound"), Workspace()
    every = list(malformed.cases("adapter", sound, name))
    refused = 0
    for case in random.Random(1).sample(every, some):
        folder = shutil.copytree(sound, tmp_path / "damaged", dirs_exist_ok=True)
        case.write(folder)
        before = files(tmp_path)
        try:
            flags = ("--ids", 5, "--weights", place, "--output", tmp_path / "next", "--quiet")
            call(llmeraser, "remove", folder, *flags, shared=shared)
        except (UserError, RunFailed):
            refused += 1
            assert files(tmp_path) == before, case
        shutil.rmtree(tmp_path / "next", ignore_errors=True)
    assert refused > some // 4


def test_a_record_that_names_rows_or_answers_which_arent_there_says_so(place, tmp_path, capsys):
    folder = shutil.copytree(place / "adapter", tmp_path / "adapter")
    sound = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for edits, message in (
        ([{"id": 60, "remove": True}], "its edits.0.id is row 60, of 60: it is damaged"),
        ([{"id": 1, "remove": True}, {"id": 1, "query": "x"}], "its edits.1.id is row 1, which was removed before"),
        ([{"id": 1, "response": "purple"}], "its record has an answer 'purple', which"),
        ([{"id": 1}], "its edits.0 doesn't say one thing that becomes of its row"),
    ):
        (folder / RECORD).write_text(json.dumps(sound | {"edits": edits}), encoding="utf-8")
        code, line = one_line(llmeraser, capsys, "remove", folder, "--ids", 5, "--weights", tmp_path, "--quiet")
        assert code == 2 and message in line
