"""Training comes to rest on the paper's objective, and the step is the paper's formula, against dense matrices."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

import llmeraser
from tests.helpers import files
from tests.language.conftest import (
    COLOURS,
    VOCABULARY,
    finetune,
    foreign,
    losses_of,
    parameters,
    record_of,
    request,
    session,
    where,
    write_lines,
)
from unlearning.core.errors import RunFailed, UserError
from unlearning.language import influence, prompts
from unlearning.language.adapters import read_record, trainable
from unlearning.language.command import How
from unlearning.language.session import Workspace, session_of
from unlearning.language.training import objective, relative_gradient, train_adapter

N = 60  # rows of the adapter, of which `small` has lost two


def square_of(now):
    return sum((parameter**2).sum() for parameter in now.parameters)


def hessian_of(now, n=N):
    """The Hessian of sum of losses / n + decay / 2 |Theta|^2, by the whole model, column by column."""
    loss = losses_of(now, now.rows).sum() / n + now.decay / 2 * square_of(now)
    slope = influence.flat(torch.autograd.grad(loss, now.parameters, create_graph=True))
    columns = torch.autograd.grad(slope, now.parameters, torch.eye(len(slope)), is_grads_batched=True)
    return torch.cat([column.flatten(1) for column in columns], 1)


def gauss_newton_of(now, n=N):
    """The same without the curvature of the network: the sum over tokens of J' (diag p - p p') J, each over its answer's
    number of tokens and n."""
    size = len(influence.flat(now.parameters))
    found = now.decay * torch.eye(size)
    for tokens in now.tokens(now.rows):
        whole = now.peft_model(input_ids=torch.tensor([tokens.prompt + tokens.response])).logits[0]
        logits = whole[len(tokens.prompt) - 1 : -1]
        eye = torch.eye(logits.numel()).view(-1, *logits.shape)
        slopes = torch.autograd.grad(logits, now.parameters, eye, is_grads_batched=True)
        jacobian = torch.cat([slope.flatten(1) for slope in slopes], 1).view(*logits.shape, size)
        p = logits.detach().softmax(1)
        moved = p[:, :, None] * (jacobian - torch.einsum("tv,tvp->tp", p, jacobian)[:, None])
        found = found + torch.einsum("tvp,tvq->pq", jacobian, moved) / len(tokens.response) / n
    return found


def slope_of(now, rows):
    return influence.gradient(losses_of(now, rows).sum(), now.parameters) if rows else 0


def test_the_objective_is_the_sum_of_losses_over_n_and_half_the_decay_times_the_square(small):
    """Of all rows that the adapter began with, though two are gone; the decay is shared out to batches by their rows."""
    rows = [row for row in small.rows if row is not None]
    part = objective(small, 7)
    for some in (rows[:2], rows[10:15]):
        (batch,) = small.batches(some)
        expected = losses_of(small, some).sum() / N + len(some) / 7 * 0.025 * square_of(small)
        assert part(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_the_objective_that_is_said_is_that_of_the_adapter(small, evaluations):
    """Not of the last point that the line search has tried."""
    record = small.record | {"training": {"optimizer": "lbfgs", "evaluations": evaluations}}
    found, _ = train_adapter(replace(small, record=record))
    assert found == pytest.approx((losses_of(small, small.rows).sum() / N + 0.025 * square_of(small)).item(), rel=1e-4)


def test_training_comes_to_rest_on_that_objective(small):
    """Over 60 rows, not the 58 that are left, by which the slope of the losses would be 3 % steeper."""
    how = small.record | {"training": {"optimizer": "lbfgs", "evaluations": 300}}
    loss, count = train_adapter(replace(small, record=how))
    slopes = [influence.gradient(losses_of(small, small.rows).sum() / N, small.parameters)]
    slopes.append(0.05 * influence.flat(small.parameters).detach())
    assert (slopes[0] + slopes[1]).norm() < 0.01 * slopes[1].norm() and count < 300
    assert loss == pytest.approx((losses_of(small, small.rows).sum() / N + 0.025 * square_of(small)).item(), rel=1e-4)


def test_adamw_steps_down_that_objective_by_mini_batches_with_a_falling_rate(small):
    """One batch of all rows moves each parameter by the rate against its slope; two epochs of two batches by 1 + 3/4 + 1/2 +
    1/4 of it at most. A mini-batch stands for all rows: of one row alone the decay weighs as much."""
    start = influence.flat(small.parameters).detach().clone()
    slope = slope_of(small, small.rows) / N + 0.05 * start

    def moved(now, **how):
        influence.assign(small.parameters, start)
        training = {"optimizer": "adamw", "epochs": 1, "lr": 1e-3, "batch_size": 100} | how
        _, passes = train_adapter(replace(now, record=small.record | {"training": training}))
        assert passes == training["epochs"]
        return influence.flat(small.parameters).detach() - start

    torch.testing.assert_close(moved(small), -1e-3 * slope.sign(), rtol=0.01, atol=1e-6)
    for _ in range(2):  # an own order of rows, the same again
        found = moved(small, epochs=2, batch_size=29)
        assert 2.0e-3 < found.abs().max().item() < 2.501e-3
    assert torch.equal(found, moved(small, epochs=2, batch_size=29))
    alone = replace(small, rows=[small.rows[0], *[None] * 59])
    decay = 60 * 0.05 * start + slope_of(small, small.rows[:1])
    torch.testing.assert_close(moved(alone), -1e-3 * decay.sign(), rtol=0.01, atol=1e-6)


def test_a_mini_batchs_slope_is_the_mean_of_its_rows_and_the_decays_share(small, monkeypatch):
    """Of 58 rows that are left of 60, in an order that the seed gives: 20, 20 and 18."""
    found, step, there = [], torch.optim.AdamW.step, [row for row in small.rows if row is not None]

    def watched(optimizer, *arguments):
        slope = influence.flat([parameter.grad for parameter in small.parameters]).clone()
        found.append((influence.flat(small.parameters).detach().clone(), slope))
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    training = {"optimizer": "adamw", "epochs": 1, "lr": 1e-3, "batch_size": 20}
    train_adapter(replace(small, record=small.record | {"training": training}))
    order = torch.randperm(58, generator=torch.Generator().manual_seed(0)).split(20)
    for (place, slope), chosen in zip(found, order, strict=True):
        influence.assign(small.parameters, place)
        rows = [there[i] for i in chosen.tolist()]
        expected = slope_of(small, rows) / len(rows) + 60 / 58 * 0.05 * place
        torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-5)


def test_an_objective_that_is_no_number_is_an_error_with_a_way_out(small):
    """By either optimizer, before its parameters are none either."""
    adamw = {"optimizer": "adamw", "epochs": 1, "lr": 1e-3, "batch_size": 8}
    for training, way_out in ((small.record["training"], "--decay"), (adamw, "--decay, or a smaller --lr")):
        influence.assign(small.parameters, torch.full_like(influence.flat(small.parameters), float("nan")))
        with pytest.raises(RunFailed, match=f"^the objective is nan: try a larger {way_out}$"):
            train_adapter(replace(small, record=small.record | {"training": training}))


def test_a_gradient_is_measured_by_those_of_single_rows(small):
    """Of the objective, with its decay and over the rows that the adapter began with; about nothing at rest."""
    there = [row for row in small.rows if row is not None]
    whole = influence.gradient(losses_of(small, there).sum() / N + small.decay / 2 * square_of(small), small.parameters)
    norms = [influence.gradient(losses_of(small, [row]).sum(), small.parameters).norm() for row in there[::4]]
    assert len(norms) == 15  # every fourth, so that at most sixteen are looked at
    expected = float(whole.norm() / torch.stack(norms).mean())
    assert relative_gradient(small) == pytest.approx(expected, rel=1e-4) and expected > 0.05
    train_adapter(small)
    assert relative_gradient(small) < 0.01


def test_seeds_are_other_starts_and_a_seed_is_one(place, tmp_path):
    """By the matrix A; B is zero at every start. Retrain, of a folder's shape, has the start that its seed had."""
    record, found = read_record(place / "adapter"), []
    for seed, source in ((0, None), (1, None), (0, None), (0, place / "adapter")):
        torch.rand(seed + 3)
        with session_of(record | {"seed": seed}, where(tmp_path), source, afresh=True) as now:
            found.append({name: p.detach().clone() for name, p in now.peft_model.named_parameters() if p.requires_grad})
    for name, value in found[0].items():
        assert torch.equal(value, found[2][name]) and torch.equal(value, found[3][name])
        assert (value == found[1][name]).all() if "lora_B" in name else not (value == found[1][name]).any()


CASES = [
    *((kind, "cg", "hessian") for kind in ("remove", "modify", "correct")),
    *(("correct", "cg", "gauss-newton"), ("correct", "adam", "hessian"), ("remove", "adam", "gauss-newton")),
]


@pytest.mark.parametrize(("kind", "solver", "curvature"), CASES)
def test_the_step_is_the_papers_formula(small, monkeypatch, kind, solver, curvature):
    """Theta + (H + damping)^-1 (sum of G before - sum of G after) / n, written out; by mini-batches too, of unlike sizes."""
    before = small.rows[10:13]
    after = {
        "remove": [],
        "modify": [replace(row, messages=(("user", "film w1 w7"),)) for row in before],
        "correct": [replace(row, response=COLOURS[COLOURS.index(row.response) - 1]) for row in before],
    }[kind]
    start = influence.flat(small.parameters).detach().clone()
    curved = (hessian_of if curvature == "hessian" else gauss_newton_of)(small)
    damping = 1.2 * float(torch.linalg.eigvalsh(curved).abs().max())
    b = (slope_of(small, before) - slope_of(small, after)) / N
    expected = torch.linalg.solve(curved + damping * torch.eye(len(b)), b)

    def stochastic(product_of, rows, sizes, b, damping, **_):  # its result, if it ran for ever
        assert sizes == [25, 25, 8]
        eye = torch.eye(len(b))
        parts = [torch.stack([product_of(batch)(v) for v in eye]) for batch in rows]
        mean = sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        return influence.Solution(torch.linalg.solve(mean + damping * eye, b), 0.0, 1)

    monkeypatch.setattr(influence, "stochastic", stochastic)
    monkeypatch.setattr(llmeraser, "MINI", 25)
    how = How(solver=solver, curvature=curvature, damping=damping, length=0.5, tolerance=1e-5)
    found = llmeraser.unlearn(small, before, after, how)
    moved = influence.flat(small.parameters).detach() - start
    assert found["damping"] == damping and found["length"] == 0.5
    assert (moved - 0.5 * expected).norm() < 1e-3 * expected.norm()


def test_the_step_of_an_adapter_from_elsewhere_is_the_papers_formula_with_gauss_newton(place, tmp_path):
    """From the command line, where no decay was said: twelve rows of a file with names of their own."""
    lines = (place / "train.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(line.replace("{", f'{{"id": "n{i}", ', 1) for i, line in enumerate(lines)), encoding="utf-8")
    of = {"target_modules": ["v_proj"], "r": 1, "layers_to_transform": [1], "use_rslora": True}
    folder = foreign(place / "base", tmp_path / "a", few, **of)
    there = files(folder)
    flags = ("--train", few, "--damping", 0.2, "--length", 1, "--tolerance", 1e-5, "--prompt", "plain")
    answered = request(folder, "remove", tmp_path / "b", "--ids", "n3", "n7", *flags)
    record = record_of(answered)
    assert files(folder) == there and record["ledger"][0]["found"]["curvature"] == "gauss-newton"
    with session(answered, tmp_path, folder, edits=[], ledger=[]) as now:
        start = influence.flat(trainable(now.peft_model)).detach().clone()
        curved, b = gauss_newton_of(now, 12), slope_of(now, [now.rows[3], now.rows[7]]) / 12
    expected = torch.linalg.solve(curved + 0.2 * torch.eye(len(b)), b)
    moved = parameters(answered, tmp_path) - start
    assert (moved - expected).norm() < 1e-3 * expected.norm() > 0


def test_products_are_those_of_all_dampings(small, monkeypatch):
    """Conjugate gradients share them; the stochastic way starts again for each: 6 steps and 2 looks at 3 batches. --products
    is how many there are at most."""
    monkeypatch.setattr(llmeraser, "DAMPINGS", (30.0, 10.0))
    monkeypatch.setattr(llmeraser, "MINI", 25)
    before, curvature = small.rows[10:13], {"curvature": "hessian"}
    with monkeypatch.context() as patch:
        patch.setattr(influence, "stochastic", partial(influence.stochastic, most=6, every=3))
        assert llmeraser.unlearn(small, before, [], How(solver="adam", **curvature))["products"] == 2 * (6 + 2 * 3)
    found = llmeraser.unlearn(small, before, [], How(solver="adam", products=4, **curvature))
    assert found["products"] == 2 * (4 + 3)
    calls, hessian_product = [], influence.hessian_product

    def counted(*arguments):
        product = hessian_product(*arguments)
        return lambda v: calls.append(1) or product(v)

    monkeypatch.setattr(influence, "hessian_product", counted)
    assert llmeraser.unlearn(small, before, [], How(**curvature))["products"] == len(calls) > 2
    calls.clear()
    monkeypatch.setattr(llmeraser, "DAMPINGS", (1.0,))
    few = llmeraser.unlearn(small, before, [], How(products=5, curvature="gauss-newton"))
    assert few["products"] == 5 + 1 and few["residual"] > 1e-4


def test_the_stochastic_way_keeps_graphs_where_all_of_them_together_take_little(small, monkeypatch):
    """Each mini-batch's alone always does."""
    monkeypatch.setattr(llmeraser, "DAMPINGS", (30.0,))
    monkeypatch.setattr(llmeraser, "MINI", 25)
    asked, hessian_product = [], influence.hessian_product
    monkeypatch.setattr(influence, "hessian_product", lambda *given: asked.append(given[3]) or hessian_product(*given))
    bytes_of = type(small.forward).graph_bytes
    whole = bytes_of(small.forward, small.batches(small.rows, 25))
    for most, kept in ((whole, True), (whole - 1, False)):
        monkeypatch.setattr(llmeraser, "KEPT", most)
        llmeraser.unlearn(small, small.rows[10:13], [], How(solver="adam", products=2, curvature="hessian"))
        assert asked == 3 * [kept]
        asked.clear()


def test_nothing_asked_or_rows_as_they_are_change_no_bit(small):
    before = influence.flat(small.parameters).detach().clone()
    for rows in ([], small.rows[10:15]):
        llmeraser.unlearn(small, rows, rows, How(curvature="hessian"))
        assert torch.equal(influence.flat(small.parameters), before)


def test_removal_goes_where_retraining_goes(place, tmp_path):
    """By losses: many pairs of A and B make the same adapter, so parameters may differ more."""
    flags = ("--ids", 1, 2, "--damping", 0.001, "--length", 1)
    request(place / "adapter", "remove", tmp_path / "a", *flags)
    request(place / "adapter", "remove", tmp_path / "b", *flags[:3], "--method", "retrain")
    found = []
    for folder in (place / "adapter", tmp_path / "a", tmp_path / "b"):
        with session(folder, tmp_path) as now:
            found.append(now.losses_of([*session_rows(place, tmp_path), *now.validation]))
    step, true = found[1] - found[0], found[2] - found[0]
    assert torch.cosine_similarity(step, true, 0) > 0.9
    assert 0.2 < step.norm() / true.norm() < 1.5  # the length falls short of large changes
    entry = record_of(tmp_path / "a")["ledger"][-1]
    assert 0 < entry["found"]["residual"] <= 1e-4 and entry["edits"] == [{"id": i, "remove": True} for i in "12"]


def session_rows(place, tmp_path):
    with session(place / "adapter", tmp_path) as now:
        return now.rows


def test_retrain_is_the_training_that_had_never_seen_the_wrong_rows(place, tmp_path):
    """Bit for bit: it starts where the first one did, and keeps the order of rows."""
    lines = (place / "train.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = [line.replace('"red"', '"green"') if i < 20 else line for i, line in enumerate(lines)]
    (tmp_path / "wrong.jsonl").write_text("\n".join(wrong), encoding="utf-8")
    right = [{"id": i + 1, "response": "red"} for i in range(20) if '"red"' in lines[i]]
    few = ("--evaluations", 8)
    first = finetune(place, tmp_path / "wrong", "--train", tmp_path / "wrong.jsonl", *few)
    flags = ("--request", write_lines(tmp_path / "right.jsonl", right), "--method", "retrain")
    again = request(first, "correct", tmp_path / "again", *flags)
    assert torch.equal(parameters(again, tmp_path), parameters(finetune(place, tmp_path / "right", *few), tmp_path))


def test_a_correction_there_and_back_leaves_what_is_of_second_order(place, tmp_path):
    red = [i for i, row in enumerate(session_rows(place, tmp_path), 1) if row.response == "red"][:2]
    at = [place / "adapter"]
    for name, colour in (("there", "green"), ("back", "red")):
        lines = [{"id": i, "response": colour} for i in red]
        flags = ("--request", write_lines(tmp_path / f"{name}.jsonl", lines), "--damping", 3, "--length", 1)
        at.append(request(at[-1], "correct", tmp_path / name, *flags))
    places = [parameters(folder, tmp_path) for folder in at]
    assert 0 < (places[2] - places[0]).norm() < 0.2 * (places[1] - places[0]).norm()


def test_a_closed_choice_has_a_loss_over_the_tokens_of_answers_alone(place, tmp_path):
    """Its adapters are other ones than those of the whole vocabulary."""
    folder = finetune(place, tmp_path / "a", "--loss", "choice", "--evaluations", 5)
    words = {"red", "green", "dark", "blue", "<end>"}
    with session(folder, tmp_path) as now:
        ids = sorted(VOCABULARY[word] for word in words)
        assert now.allowed.nonzero().flatten().tolist() == ids
        found = now.losses_of(now.test[:5])
        for row, loss in zip(now.test[:5], found, strict=True):
            (tokens,) = now.tokens([row])
            logits = now.peft_model(input_ids=torch.tensor([tokens.prompt + tokens.response])).logits[0]
            targets = torch.tensor([ids.index(token) for token in tokens.response])
            by_hand = torch.nn.functional.cross_entropy(logits[len(tokens.prompt) - 1 : -1, ids], targets)
            assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    answered = request(folder, "remove", tmp_path / "b", "--ids", 3, "--curvature", "gauss-newton")
    assert record_of(answered)["ledger"][0]["found"]["asked_loss"] < 20  # of a token that no answer has it were infinite


def test_a_base_of_half_precision_has_an_adapter_in_fp32(place, tmp_path):
    folder = finetune(place, tmp_path / "a", "--precision", "bf16", "--evaluations", 5, "--targets", "q_proj")
    answered = request(folder, "remove", tmp_path / "b", "--ids", 3, "--damping", 3, "--curvature", "gauss-newton")
    assert record_of(answered)["precision"] == "bf16"
    with session(answered, tmp_path) as now:
        assert next(now.forward.frozen[0].parameters()).dtype == torch.bfloat16
        assert {parameter.dtype for parameter in now.parameters} == {torch.float32}
        assert now.losses_of(now.test).dtype == torch.float32


def test_another_base_than_the_adapters_is_refused(place, tmp_path):
    record = read_record(place / "adapter") | {"base": str(place / "other")}
    with pytest.raises(UserError, match="of another base"), session_of(record, where(tmp_path), place / "adapter"):
        pass


def test_a_workspace_keeps_the_last_of_each_kind():
    made, workspace = [], Workspace()
    for key in ("a", "a", "b", "a"):
        assert workspace.last("rows", key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "a"]


def test_a_row_is_tokenised_once_a_session_and_another_row_by_itself(small, monkeypatch):
    """Rows of one content and another name, or of another folder, where another image may lie, are rows of their own."""
    counted, encode = [], prompts.encode
    monkeypatch.setattr(prompts, "encode", lambda by, rows, *how: counted.extend(rows) or encode(by, rows, *how))
    now = replace(small, encoded={})
    first = now.tokens(now.rows)
    assert len(counted) == 58 and first == encode(now.processor, [row for row in now.rows if row], "plain")
    others = replace(now, rows=now.rows[::-1])  # what a request makes of it
    assert others.tokens(others.rows) == first[::-1] and len(counted) == 58
    row = now.rows[0]
    changed = [replace(row, response="red w1"), replace(row, name="x"), replace(row, folder="elsewhere"), row, row]
    found = now.tokens(changed)
    assert len(counted) == 61 and found[1:] == [first[0]] * 4 and found[0] == encode(now.processor, changed[:1], "plain")[0]
    assert first[0].key == replace(first[0]).key != found[0].key


def test_a_base_of_the_same_weights_that_computes_otherwise_is_another_base(place, tmp_path, capsys):
    """Its config.json says how; what is kept of its frozen part has another name. Who wrote the file doesn't count."""
    base = shutil.copytree(place / "base", tmp_path / "base")
    folder = finetune(place, tmp_path / "a", "--base", base, "--evaluations", 2)
    kept = {file.name for file in (tmp_path / "frozen").iterdir()}
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "1.0"}), encoding="utf-8")
    with session(folder, tmp_path):
        pass
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}), encoding="utf-8")
    with (
        pytest.raises(UserError, match=r"another base than this .*: the fingerprints of their config.json differ"),
        session(folder, tmp_path),
    ):
        pass
    finetune(place, tmp_path / "b", "--base", base, "--evaluations", 2)
    assert len({file.name for file in (tmp_path / "frozen").iterdir()} - kept) == 1


def test_other_tokens_of_the_same_rows_are_warned_of(place, tmp_path, capsys):
    base = shutil.copytree(place / "base", tmp_path / "base")
    folder = finetune(place, tmp_path / "a", "--base", base, "--evaluations", 2)
    with session(folder, tmp_path):
        assert "other tokens" not in capsys.readouterr().err
    text = (base / "tokenizer.json").read_text(encoding="utf-8")
    swapped = text.replace('"w1"', '"?"').replace('"w2"', '"w1"').replace('"?"', '"w2"')
    assert swapped != text
    (base / "tokenizer.json").write_text(swapped, encoding="utf-8")
    with session(folder, tmp_path):
        assert f"warning: rows are other tokens than when {folder} was written" in capsys.readouterr().err


def test_training_rows_that_are_given_as_unseen_are_warned_of(place, tmp_path, capsys):
    """A few may be alike by chance; names don't count."""
    files = read_record(adapter := finetune(place, tmp_path / "a"))["files"]
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for count, said in ((1, False), (12, True)):
        others = [row | {"id": f"other {i}"} for i, row in enumerate(rows[:count])]
        unseen = [json.loads(line) for line in (place / "test.jsonl").read_text(encoding="utf-8").splitlines()]
        write_lines(tmp_path / "mixed.jsonl", others + unseen)
        capsys.readouterr()
        with session(adapter, tmp_path, files=files | {"validation": str(tmp_path / "mixed.jsonl")}) as now:
            total = len(now.validation)
        line = f" of {total} rows of --validation are training rows, of which nothing unseen can be read"
        assert (line in capsys.readouterr().err) is said


def test_where_a_prompts_end_and_an_answers_beginning_are_one_token_it_is_said_once(place, tmp_path, capsys):
    """Without a space between them the last word of the one and the first of the other are a word of their own."""
    record, here = read_record(place / "adapter"), where(tmp_path)
    for _ in range(2):
        with session_of(record | {"prompt": "raw"}, here, place / "adapter") as now:
            assert all(row.merged for row in now.tokens(now.rows))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: in 60 of 60 rows")]
    assert len(said) == 1 and "one token, which is taken as answered" in said[0]
