"""Adapters of PEFT from anywhere: what is supported computes as PEFT does, and all else is refused by name."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import llmeraser
from tests.helpers import files, one_line
from tests.language.conftest import foreign, record_of, request, save_base, session
from unlearning.core.errors import RunFailed, UserError
from unlearning.language import adapters, influence
from unlearning.language.adapters import adapted, lora_config, read_config, read_record, trainable, write_adapter
from unlearning.language.base import _no_progress_bars, load_base
from unlearning.language.session import digest_of

IDS = torch.tensor([[14, 2, 3, 7, 9, 15]])
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_of(place, name="base"):
    return load_base(str(place / name), place)[0]


SUPPORTED = {
    "all layers": {},
    "one layer": {"layers_to_transform": [1]},
    "a regex": {"target_modules": r".*\.[12]\.self_attn\.(q|k)_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "the output layer": {"target_modules": ["lm_head"]},
    "the embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "rslora": {"use_rslora": True},
    "other ranks": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 32}},
    "lora_bias": {"lora_bias": True},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.filterwarnings("ignore")  # PEFT's, about embeddings
def test_loras_of_every_kind_compute_as_pefts_own(place, tmp_path, name):
    """In fp32, with all of their parameters to be trained and nothing of the base; which is what it was, afterwards."""
    folder = foreign(place / "base", tmp_path / "a", **SUPPORTED[name])
    there, model = files(tmp_path), base_of(place)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    read_config(folder)
    with adapted(model, folder) as peft_model:
        found = peft_model(IDS).logits.detach()
        weights = load_file(folder / "adapter_model.safetensors")
        size = sum(tensor.numel() for key, tensor in weights.items() if "lora_" in key)
        assert influence.flat(trainable(peft_model)).shape == (size,)
    with _no_progress_bars():
        plain = transformers.AutoModelForCausalLM.from_pretrained(place / "base", attn_implementation="eager")
    bare = plain(IDS).logits
    expected = PeftModel.from_pretrained(plain, folder).eval()(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (bare - expected).abs().max() > 0.01
    assert files(tmp_path) == there
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["bf16", "bin"])
def test_weights_of_half_precision_and_of_torch_are_read_and_trained_in_fp32(place, tmp_path, kind):
    folder = foreign(place / "base", tmp_path / "a")
    weights = load_file(folder / "adapter_model.safetensors")
    if kind == "bf16":
        weights = {key: value.bfloat16() for key, value in weights.items()}
        save_file(weights, folder / "adapter_model.safetensors")
    else:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(weights, folder / "adapter_model.bin")
    assert len(digest_of(folder)) == 64
    with adapted(base_of(place), folder) as peft_model:
        assert all(parameter.dtype == torch.float32 for parameter in trainable(peft_model))
        sums = sum(float(value.float().sum()) for value in weights.values())
        assert float(influence.flat(trainable(peft_model)).sum()) == pytest.approx(sums, rel=1e-4)


def test_an_adapter_is_fp32_on_a_base_of_half_precision(place, tmp_path):
    folder = foreign(place / "base", tmp_path / "a")
    model, *_ = load_base(str(place / "base"), place, precision="bf16")
    with adapted(model, folder) as peft_model:
        assert {parameter.dtype for parameter in trainable(peft_model)} == {torch.float32}
        assert peft_model.base_model.model.lm_head.weight.dtype == torch.bfloat16


def changed(**fields):
    def change(folder, place):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")

    return change


def weights_changed(by):
    def change(folder, place):
        weights = load_file(folder / "adapter_model.safetensors")
        save_file(by(weights), folder / "adapter_model.safetensors")

    return change


def replaced(**config):
    def change(folder, place):
        foreign(place / "base", folder, **config)

    return change


def prefix_tuned(folder, place):
    shutil.rmtree(folder)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(base_of(place), config).save_pretrained(folder)


def of_another_shape(folder, place):
    config = transformers.LlamaConfig(
        vocab_size=19, hidden_size=16, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    foreign(save_base(folder.parent / "narrow", config=config), folder)


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if name not in key}


def with_bin(content):
    def change(folder, place):
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(content)

    return change


REFUSED = {
    "DoRA": (replaced(use_dora=True), "DoRA"),
    "modules to save": (
        replaced(modules_to_save=["lm_head"]),
        "modules that were trained beside LoRA (modules_to_save)",
    ),
    "biases": (replaced(bias="lora_only"), "has trained biases (bias: lora_only)"),
    "tokens": (replaced(trainable_token_indices=[3]), "trained embeddings of tokens (trainable_token_indices)"),
    "repeated blocks": (changed(layer_replication=[[0, 2], [1, 3]]), "blocks that are repeated (layer_replication)"),
    "PiSSA": (changed(init_lora_weights="pissa_niter_4"), "began with pissa_niter_4, which changes the base itself"),
    "prefix tuning": (prefix_tuned, "is an adapter of PREFIX_TUNING: only LoRA is unlearned"),
    "LoHa": (changed(peft_type="LOHA"), "is an adapter of LOHA"),
    "untrained": (
        weights_changed(lambda w: {k: v * ("lora_B" not in k) for k, v in w.items()}),
        "is untrained: all of its lora_B are zero",
    ),
    "not a number": (
        weights_changed(lambda w: {k: v.log() if "1.self_attn.v_proj.lora_A" in k else v for k, v in w.items()}),
        "has weights that aren't numbers",
    ),
    "a lost key": (
        weights_changed(without("2.self_attn.v_proj.lora_B")),
        "it lacks base_model.model.model.layers.2.self",
    ),
    "a key too many": (
        weights_changed(lambda w: w | {"base_model.model.model.layers.7.self_attn.v_proj.lora_A.weight": torch.ones(4, 32)}),
        "the base has no place for base_model.model.model.layers.7",
    ),
    "a trained embedding": (
        weights_changed(lambda w: w | {"base_model.model.model.embed_tokens.weight": torch.ones(19, 32)}),
        "has weights beside LoRA that the base hasn't (base_model.model.model.embed_tokens.weight)",
    ),
    "another shape": (of_another_shape, "no such adapter on this model"),
    "no such layers": (changed(target_modules=["query"]), "no such adapter on this model"),
    "no weights": (lambda folder, place: (folder / "adapter_model.safetensors").unlink(), "has no weights"),
    "half of its weights": (
        lambda folder, place: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64),
        "no such adapter on this model",
    ),
    "a pointer in the place of its weights": (
        with_bin(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"),
        "no such adapter on this model",
    ),
    "an empty file": (with_bin(b""), "no such adapter on this model"),
    "no JSON": (
        lambda folder, place: (folder / "adapter_config.json").write_bytes(b"{"),
        "adapter_config.json can't be read",
    ),
    "no config": (lambda folder, place: (folder / "adapter_config.json").unlink(), "is no adapter of PEFT"),
    "an odd rank": (changed(r="many"), "its r"),
    "no base": (changed(base_model_name_or_path=None), "doesn't say of which base it is: give --base"),
    "an empty base": (changed(base_model_name_or_path=""), "doesn't say of which base it is: give --base"),
    "a lost base": (changed(base_model_name_or_path="/nowhere/llama"), "there is no such folder"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_what_isnt_plain_trained_lora_on_this_base_is_refused_by_name(place, tmp_path, capsys, name):
    """In one line, and nothing is written beside it or into it."""
    change, message = REFUSED[name]
    folder = foreign(place / "base", tmp_path / "a")
    change(folder, place)
    there = files(tmp_path)
    base = ("--base", place / "base") if name == "another shape" else ()
    ask = ("--ids", 3, "--train", place / "train.jsonl", *base, "--weights", tmp_path / "w", "--quiet")
    code, line = one_line(llmeraser, capsys, "remove", folder, *ask)
    assert code == 2 and message in line
    assert files(tmp_path) == there


ODD = [
    {"layers_pattern": "layers"},
    {"task_type": "NOTHING"},
    {"target_modules": ".*q_proj", "layers_to_transform": [1]},
    {"eva_config": 3},
]


@pytest.mark.parametrize("method", ["retrain", "noadapter"])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: "-".join(odd))
@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_a_configuration_that_peft_doesnt_take_is_one_line(place, tmp_path, capsys, odd, method):
    """Retrain, too, which reads it to begin as the adapter began."""
    folder = foreign(place / "base", tmp_path / "a")
    changed(**odd)(folder, place)
    told = ("--epochs", 1, "--lr", 1e-3, "--batch-size", 8) if method == "retrain" else ()
    ask = ("--ids", 3, "--train", place / "train.jsonl", "--weights", tmp_path / "w", "--quiet", "--method", method, *told)
    code, line = one_line(llmeraser, capsys, "remove", folder, *ask)
    taken = (
        f"PEFT doesn't take {folder / 'adapter_config.json'} (" if method == "retrain" else "no such adapter on this model"
    )
    assert code == 2 and taken in line


def test_an_adapter_that_names_an_empty_base_is_taken_with_base(place, tmp_path):
    folder = foreign(place / "base", tmp_path / "a")
    changed(base_model_name_or_path="")(folder, place)
    flags = ("--train", place / "train.jsonl", "--base", place / "base", "--method", "noadapter")
    assert record_of(request(folder, "remove", tmp_path / "b", "--ids", 3, *flags))["base"] == str(place / "base")


@pytest.mark.parametrize("at", ["base", "adapter"])
def test_a_quantised_base_is_refused(place, tmp_path, capsys, at):
    """Its weights' curvature isn't that of plain ones."""
    base = shutil.copytree(place / "base", tmp_path / "base")
    folder = foreign(base, tmp_path / "a")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(config | quantised), encoding="utf-8")
    where = ("--train", place / "train.jsonl", "--weights", tmp_path, "--quiet")
    words = ("finetune", "--base", base) if at == "base" else ("remove", folder, "--ids", 1)
    code, line = one_line(llmeraser, capsys, *words, *where)
    assert code == 2 and "is quantised (bitsandbytes)" in line


def test_new_adapters_sit_on_the_named_layers_of_the_last_blocks(place):
    model = base_of(place)

    def chosen(targets, blocks=1):
        return lora_config(model, 4, 8, targets, blocks).target_modules

    assert chosen(None) == {"model.layers.2.mlp.down_proj"}
    assert chosen(["q_proj", "mlp.up_proj"], 2) == {
        f"model.layers.{block}.{name}" for block in (1, 2) for name in ("self_attn.q_proj", "mlp.up_proj")
    }
    for target in ("lm_head", "proj", "attention"):
        with pytest.raises(UserError) as caught:
            chosen([target])
        assert str(caught.value).startswith(f"--targets {target}: no linear layer of a block; there are self_attn.q_proj, ")
        assert all(name in str(caught.value) for name in LINEAR)
    with pytest.raises(UserError, match="--blocks 4: the model has 3"):
        chosen(None, 4)
    config = lora_config(model, 4, 8, ["v_proj"], 3)
    torch.manual_seed(0)
    with adapted(model, config) as peft_model:
        shapes = sorted(tuple(parameter.shape) for parameter in trainable(peft_model))
        assert shapes == sorted([(4, 32), (16, 4)] * 3) and not config.fan_in_fan_out


@pytest.mark.parametrize("target", ["lm_head", "c_proj"])
def test_a_target_that_isnt_there_is_refused_before_anything_is_written(place, tmp_path, capsys, target):
    where = ("--train", place / "train.jsonl", "--base", place / "base", "--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "finetune", *where, "--targets", target)
    assert code == 2 and f"--targets {target}: no linear layer of a block; there are self_attn.q_proj" in line
    assert not files(tmp_path)


def test_a_record_that_doesnt_belong_to_its_weights_or_to_this_version_is_refused(place, tmp_path):
    folder = shutil.copytree(place / "adapter", tmp_path / "a")
    assert read_record(folder) == record_of(folder)
    record = record_of(folder)
    for said, message in (
        (record | {"format": 1}, "is of an earlier version, whose adapters chose among answers"),
        (record | {"format": 3}, "is not an adapter of this project's format 2"),
        ([record], "is not an adapter of this project's format 2"),
        (record | {"adapter_sha256": "0" * 64}, "is missing, or not what record.json beside it was written with"),
    ):
        (folder / "record.json").write_text(json.dumps(said), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_record(folder)
    (folder / "record.json").unlink()
    assert read_record(folder) is None  # taken as one from elsewhere


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

    with session(folder, tmp_path.parent / f"{tmp_path.name}-weights") as now:
        where, name = (Path, "write_text") if at == "record" else (type(now.peft_model), "save_pretrained")
        monkeypatch.setattr(where, name, full)
        with pytest.raises(RunFailed, match="No space left"):
            write_adapter(now.peft_model, folder, record | {"seed": 99}, "")
    assert files(tmp_path) == before


def test_a_card_with_a_name_that_is_no_text_is_written(place, tmp_path):
    """Bytes of a file's name that aren't UTF-8, as Python holds them."""
    with session(place / "adapter", tmp_path / "weights") as now:
        write_adapter(now.peft_model, tmp_path / "written", now.record, "trained on caf\udce9")
    assert r"caf\udce9" in (tmp_path / "written/README.md").read_text(encoding="utf-8")


def test_an_adapter_that_was_answered_loads_with_plain_peft_and_its_card_names_no_row(place, tmp_path):
    """The base's files are what they were, and so is the adapter that was asked."""
    there = files(place / "base"), files(place / "adapter")
    folder = request(place / "adapter", "remove", tmp_path / "x", "--ids", 5, "--method", "noadapter")
    with session(folder, tmp_path) as now:
        found = now.peft_model(IDS).logits.detach()
    with _no_progress_bars():
        loaded = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(place / "base"), folder).eval()
    torch.testing.assert_close(loaded(IDS).logits, found, rtol=1e-4, atol=1e-4)
    assert (files(place / "base"), files(place / "adapter")) == there
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "1 of them were removed by noadapter" in card and "60 rows" in card
    assert set(path.name for path in folder.iterdir()) == adapters.FILES


def test_a_base_stays_what_it_is_where_an_adapter_brings_an_embedding(place, tmp_path):
    """PEFT would read it into the base, which later adapters are put on."""
    folder, model = foreign(place / "base", tmp_path / "a"), base_of(place)
    REFUSED["a trained embedding"][0](folder, place)
    before = model.state_dict()["model.embed_tokens.weight"].clone()
    with pytest.raises(UserError, match="has weights beside LoRA"), adapted(model, folder):
        pass
    assert torch.equal(model.state_dict()["model.embed_tokens.weight"], before)
