"""EK-FAC on a tiny random Llama: against Gauss-Newton written out, in whatever batches, and kept beside its adapter."""

import contextlib
import functools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import llmeraser
from tests.helpers import call, files
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.language import adapters, batches, command, ekfac, forward, influence
from unlearning.language.batches import batch_of
from unlearning.language.rows import Row, digest, read_rows
from unlearning.language.session import Place, Workspace, session_of

WORDS = [f"w{i}" for i in range(10)]
DAMPINGS = (0.1, 0.001)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny random Llama in base/, rows of unlike lengths in rows.jsonl, and others in unseen.jsonl."""
    folder = tmp_path_factory.mktemp("ekfac")
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", *WORDS, "red", "green", "dark", "blue"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.save_pretrained(folder / "base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": len(vocabulary)}
    config = transformers.LlamaConfig(num_attention_heads=2, num_key_value_heads=1, initializer_range=0.4, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "base")
    rng = np.random.default_rng(0)
    for name, count in (("rows", 40), ("unseen", 10)):
        lines = []
        for _ in range(count):
            chosen = rng.integers(10, size=rng.integers(2, 6))
            answer = ("red", "green", "dark blue")[chosen[-1] % 3]
            lines.append(json.dumps({"query": " ".join(WORDS[i] for i in chosen), "response": answer}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def where(folder):
    return Place(folder, folder, Compute("cpu", None, folder, quiet=True), Workspace())


def stranger(place, *targets, blocks=(1,), rank=2):
    """A folder of PEFT's own with a LoRA that was moved from its start."""
    folder = place / "-".join((*targets, *map(str, blocks), str(rank)))
    if not folder.exists():
        model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
        torch.manual_seed(1)
        of = {} if "lm_head" in targets else {"layers_to_transform": list(blocks)}
        made = get_peft_model(model, LoraConfig(r=rank, lora_alpha=4, target_modules=list(targets), **of))
        for parameter in adapters.trainable(made):
            torch.nn.init.normal_(parameter, std=0.3)
        made.save_pretrained(folder)
    return folder


@pytest.fixture
def at_work(place):
    """A function that gives a Session on a stranger's adapter, with its rows or others."""
    rows_there = read_rows(place / "rows.jsonl")
    record = {"base": str(place / "base"), "files": {"train": str(place / "rows.jsonl")}, "edits": [], "quiet": True}
    record |= {"precision": "fp32", "prompt": "plain", "loss": "tokens", "decay": 0.02, "seed": 0}
    record |= {"rows": [[row.name, digest(row)] for row in rows_there]}
    with contextlib.ExitStack() as stack:

        def begin(folder, **changes):
            return replace(stack.enter_context(session_of(record, where(place), folder)), **changes)

        yield begin


def drawn_fisher(now, samples, by_token):
    """The Fisher matrix of the labels that EK-FAC draws, float64 (p, p), of rows, or of tokens, by autograd alone."""
    total = 0
    for row in now.tokens(now.rows):
        batch = batch_of([row])
        for labels in ekfac._labels(now, batch, samples):
            losses = torch.nn.functional.cross_entropy(now.logits(batch), labels, reduction="none")
            root = (len(row.response) * len(now.rows) * samples) ** -0.5
            for loss in losses if by_token else losses.sum()[None]:
                g = influence.flat(torch.autograd.grad(loss * root, now.parameters, retain_graph=True)).double()
                total += torch.outer(g, g)
    return total


def covariances(now):
    """Of what each parameter's layer takes in: the sum over rows of the mean over places of x x', float64 (in, in)."""
    found = [torch.zeros(2 * parameter.shape[1:], dtype=torch.float64) for parameter in now.parameters]

    def watch(total, module, inputs):
        x = inputs[0].double()
        total += torch.einsum("nti,ntj->ij", x, x) / x.shape[1]

    layers = [module for module in now.peft_model.modules() if isinstance(module, torch.nn.Linear)]
    with contextlib.ExitStack() as stack, torch.no_grad():
        for parameter, total in zip(now.parameters, found, strict=True):
            layer = next(layer for layer in layers if layer.weight is parameter)
            stack.enter_context(layer.register_forward_pre_hook(functools.partial(watch, total)))
        for row in now.tokens(now.rows):
            now.logits(batch_of([row]))
    return found


def blocks_of(matrix, now):
    """The diagonal blocks of a matrix, one for each parameter."""
    sizes = [parameter.numel() for parameter in now.parameters]
    return [matrix[sum(sizes[:i]) :, sum(sizes[:i]) :][:size, :size] for i, size in enumerate(sizes)]


def test_where_all_inputs_are_one_it_is_the_dense_gauss_newton_inverse(place, at_work):
    """One token at one place is answered: x x' and g g' are then all there is. One of LoRA's matrices alone, and decay."""
    row = Row("1", (("user", "w1 w2 w3"),), "")
    now = at_work(stranger(place, "down_proj"), rows=[row, None])
    now.parameters[1].requires_grad_(False)
    now = replace(now, parameters=now.parameters[:1])
    assert now.forward.way == forward.ANSWERS and [len(tokens.response) for tokens in now.tokens(now.rows)] == [1]
    fisher = drawn_fisher(now, 30, by_token=True)
    b = torch.randn(len(fisher), generator=torch.Generator().manual_seed(0))
    solved = ekfac.solve(ekfac.compute(now, samples=30), b, DAMPINGS, now.decay)
    for damping in DAMPINGS:
        dense = torch.linalg.solve(fisher + (0.02 + damping) * torch.eye(len(b)), b.double())
        assert torch.allclose(solved[damping].x.double(), dense, rtol=1e-3, atol=1e-3 * dense.abs().max())
        assert solved[damping].residual < 1e-4 and solved[damping].products == 0


@pytest.mark.parametrize(
    ("targets", "blocks", "by_token"),
    [
        (("q_proj", "v_proj"), (1,), False),
        (("k_proj", "o_proj"), (0, 1), False),
        (("down_proj",), (1,), True),
        (("lm_head",), (), True),
    ],
)
def test_eigenvalues_are_the_diagonal_of_the_dense_block_in_its_basis(place, at_work, targets, blocks, by_token):
    now = at_work(stranger(place, *targets, blocks=blocks))
    now = replace(now, rows=now.rows[:6])
    factors, fisher = ekfac.compute(now, samples=2), drawn_fisher(now, 2, by_token)
    assert (now.forward.way == forward.ANSWERS) == by_token
    for layer, covariance, block in zip(factors, covariances(now), blocks_of(fisher, now), strict=True):
        turned = layer.inputs.T.double() @ covariance @ layer.inputs.double()
        assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-4 * turned.max())
        basis = torch.kron(layer.outputs, layer.inputs).double()  # a row-major vector of (out, in)
        assert torch.allclose(basis.T @ basis, torch.eye(len(basis)).double(), atol=1e-5)
        expected = (basis.T @ block @ basis).diagonal().view_as(layer.eigenvalues)
        assert expected.max() > 0
        assert torch.allclose(layer.eigenvalues.double(), expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_drawn_labels_have_gauss_newton_as_their_mean(place, at_work):
    """In the trace of each block: what a token weighs and by what rows are divided would show."""
    now = at_work(stranger(place, "v_proj", rank=1))
    factors = ekfac.compute(now, samples=12)
    n, batches = len(now.rows), now.batches(now.rows)
    product = influence.gauss_newton_product(lambda batch: (now.logits(batch), batch.weights / n), batches, now.parameters)
    size = sum(parameter.numel() for parameter in now.parameters)
    dense = torch.stack([product(unit) for unit in torch.eye(size)])
    for layer, block in zip(factors, blocks_of(dense, now), strict=True):
        assert layer.eigenvalues.sum().item() == pytest.approx(block.trace().item(), rel=0.15)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",)])
def test_padding_and_the_rows_beside_a_row_change_nothing(place, at_work, monkeypatch, targets):
    now = at_work(stranger(place, *targets))
    b = torch.randn(sum(p.numel() for p in now.parameters), generator=torch.Generator().manual_seed(0))
    together = ekfac.solve(ekfac.compute(now), b, DAMPINGS, 0.0)
    monkeypatch.setattr(batches, "TOKENS", 1)  # each row alone
    alone = ekfac.solve(ekfac.compute(replace(now, rows=now.rows[::-1])), b, DAMPINGS, 0.0)
    for damping in DAMPINGS:
        assert torch.allclose(together[damping].x, alone[damping].x, rtol=1e-3, atol=1e-3 * alone[damping].x.abs().max())


def test_factors_are_the_same_with_checkpointing(place, at_work):
    """Each layer's inputs are counted once, though blocks would be computed twice."""
    now, found = at_work(stranger(place, "q_proj", blocks=(0, 1))), []
    for now.forward.checkpointing in (False, True):
        found.append(torch.cat([part.flatten() for layer in ekfac.compute(now) for part in layer]))
    assert torch.equal(*found)


def test_what_a_killed_process_has_left_beside_the_factors_is_cleared_up(place, tmp_path, at_work):
    """Where they are written, and where they are only read."""
    now = replace(at_work(stranger(place, "q_proj")), source=shutil.copytree(stranger(place, "q_proj"), tmp_path / "a"))
    for _ in range(2):
        (tmp_path / ".a_ekfac.pth.unlearning-lock").write_text("a dead one", encoding="utf-8")
        (tmp_path / ".a_ekfac.pth.999999.unlearning-tmp").write_bytes(b"half")
        ekfac.factors_of(now)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a_ekfac.pth"]


@pytest.mark.parametrize("measured", [100, 20])
def test_a_step_has_the_length_that_gauss_newton_wants(place, at_work, monkeypatch, measured):
    """Of all multiples the least of the quadratic, on all rows, or on every second one, which stand for the others."""
    monkeypatch.setattr(ekfac, "MEASURED", measured)
    now = at_work(stranger(place, "v_proj", rank=1))
    now = replace(now, rows=[*now.rows[:39], None])
    some = [row for row in now.rows if row][:: 1 if measured == 100 else 2]
    size = sum(parameter.numel() for parameter in now.parameters)
    x, b = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    found = ekfac.fitted(now, b, {0.1: influence.Solution(x, 0.0, 0)})[0.1]
    weights = 39 / 40 / len(some)  # a row was taken out, and n is what it was
    product = influence.gauss_newton_product(
        lambda batch: (now.logits(batch), batch.weights * weights), now.batches(some), now.parameters
    )
    curved = product(x) + (0.02 + 0.1) * x
    assert torch.allclose(found.x, (b @ x) / (x @ curved) * x, rtol=1e-4)
    assert found.residual == pytest.approx((b - (b @ x) / (x @ curved) * curved).norm().item() / b.norm().item(), rel=1e-4)


def test_a_singular_system_without_damping_is_left_out():
    flat = ekfac.Layer(torch.eye(2), torch.eye(1), torch.tensor([[0.0, 1.0]]))
    assert list(ekfac.solve([flat], torch.ones(2), (0.0, 0.5), 0.0)) == [0.5]


def test_factors_lie_beside_the_adapter_and_are_of_it_alone(place, tmp_path, at_work):
    folder = tmp_path / "adapter"
    shutil.copytree(stranger(place, "q_proj", "v_proj"), folder)
    before = files(folder)
    now = at_work(folder)
    made, seconds = ekfac.factors_of(now)
    file = tmp_path / "adapter_ekfac.pth"
    assert seconds > 0 and ekfac.file_of(now) == file.resolve() and sorted(tmp_path.iterdir()) == [folder, file]
    assert files(folder) == before
    stored, seconds = ekfac.factors_of(now)
    b = torch.randn(sum(p.numel() for p in now.parameters))
    assert seconds == 0
    assert torch.equal(ekfac.solve(stored, b, [0.1], 0)[0.1].x, ekfac.solve(made, b, [0.1], 0)[0.1].x)

    other = replace(now, rows=[replace(now.rows[0], response="blue"), *now.rows[1:]])
    assert ekfac.factors_of(other)[1] > 0  # another row, and the file is of that now
    assert ekfac.factors_of(replace(now, rows=[None, *now.rows[1:]]))[1] > 0
    assert ekfac.factors_of(now)[1] > 0 and ekfac.factors_of(now)[1] == 0
    assert ekfac.factors_of(replace(now, record=now.record | {"config_sha256": "another"}))[1] > 0  # it computes otherwise
    assert ekfac.factors_of(now)[1] > 0
    rescaled = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8")) | {"lora_alpha": 1}
    (folder / adapters.CONFIG).write_text(json.dumps(rescaled), encoding="utf-8")
    assert ekfac.factors_of(now)[1] > 0
    with torch.no_grad():
        now.parameters[0].add_(0.1)
    moved, seconds = ekfac.factors_of(now)
    assert seconds > 0 and not torch.allclose(moved[0].eigenvalues, made[0].eigenvalues)


@pytest.mark.parametrize("content", [b"PK no such thing", None])
def test_a_damaged_file_of_factors_is_said_and_stays(place, tmp_path, at_work, content):
    folder, file = tmp_path / "adapter", tmp_path / "adapter_ekfac.pth"
    shutil.copytree(stranger(place, "q_proj", "v_proj"), folder)
    now = at_work(folder)
    if content is None:
        ekfac.factors_of(now)
        stored = torch.load(file)
        stored["layers"]["1"]["eigenvalues"] = stored["layers"]["1"]["eigenvalues"].T
        torch.save(stored, file)
    else:
        file.write_bytes(content)
    there = file.read_bytes()
    with pytest.raises(UserError, match=r"adapter_ekfac\.pth.* damaged") as error:
        ekfac.factors_of(now)
    assert "\n" not in str(error.value) and file.read_bytes() == there


def test_a_request_is_answered_by_ekfac_from_the_command_line(place, tmp_path, monkeypatch, capsys):
    common = ("--weights", tmp_path, "--quiet")
    train = ("--train", place / "rows.jsonl", "--validation", place / "unseen.jsonl", "--base", place / "base")
    trained = ("--targets", "q_proj", "v_proj", "--rank", 2, "--evaluations", 15, "--decay", 0.05)
    adapter = call(llmeraser, "finetune", *train, *trained, "--output", tmp_path / "adapter", *common)
    ask = ("remove", adapter, "--solver", "ekfac", *common)
    for wrong in (("--products", 5), ("--tolerance", 0.1), ("--curvature", "hessian")):
        with pytest.raises(UserError, match=wrong[0]):
            call(llmeraser, *ask, "--ids", 1, *wrong)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "curvlinops", None)
        patch.setattr(command, "session_of", None)  # it is said before the base is loaded
        with pytest.raises(UserError, match="needs curvlinops-for-pytorch"):
            call(llmeraser, *ask, "--ids", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "frozen"}

    found = []
    for name in (1, 2):
        capsys.readouterr()
        answered = call(llmeraser, *ask, "--ids", name, name + 10, "--damping", 0.01)
        entry = adapters.read_record(answered)["ledger"][-1]
        assert entry["asked"]["solver"] == "ekfac" and entry["found"]["curvature"] == "gauss-newton"
        assert entry["found"]["products"] == 1 and 0 < entry["found"]["residual"] < 1
        assert entry["found"]["asked_loss"] > entry["found"]["asked_loss_before"]
        assert str(answered) in capsys.readouterr().out
        found.append(entry["found"])
    assert found[0]["factors_seconds"] > 0 and "factors_seconds" not in found[1]
    assert (tmp_path / "adapter_ekfac.pth").exists()


def test_biases_of_lora_are_refused(place):
    """They are no linear layers' weights; conjugate gradients take them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    made = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True))
    for parameter in adapters.trainable(made):
        torch.nn.init.normal_(parameter, std=0.3)
    made.save_pretrained(place / "biased")
    flags = ("--train", place / "rows.jsonl", "--ids", 1, "--solver", "ekfac", "--weights", place, "--prompt", "plain")
    with pytest.raises(UserError, match="--solver ekfac takes LoRA without biases: take --solver cg"):
        call(llmeraser, "remove", place / "biased", *flags, "--output", place / "x", "--quiet")
