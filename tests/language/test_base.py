"""Bases: one out of a package is there whole or not at all, what is none is one line, and bars are as they were."""

import hashlib
import json
import shutil
from functools import partial

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file

import llmeraser
from tests.helpers import files, one_line, while_waiting
from tests.language.conftest import save_base
from unlearning.core.errors import UserError
from unlearning.language import base
from unlearning.language.base import base_fingerprint, load_base


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
    where = ("--train", place / "train.jsonl", "--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "finetune", "--base", tmp_path / name, *where)
    assert code == 2 and f"{tmp_path / name}" in line and message in line


def test_a_base_out_of_a_package_is_there_whole_or_not_at_all(place, tmp_path, monkeypatch):
    """It is dequantised into a folder that gets its name at the end; what was stopped begins again."""
    quantised, tokenizer, _ = load_base(str(place / "base"), place)
    quantised.config.quantization_config = {"of": "the package"}
    monkeypatch.setattr(base, "package_file", lambda wanted, file, *_: (file.parent.mkdir(exist_ok=True), file.touch()))
    for kind, made in ((transformers.AutoModelForCausalLM, quantised), (transformers.AutoTokenizer, tokenizer)):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, made=made, **how: made)
    full = "No space left on device"
    for fails in (transformers.PreTrainedModel, type(tokenizer)):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=full):
            patch.setattr(fails, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, full)))
            base._smollm2(tmp_path, quiet=True)
        assert not (tmp_path / base.SMOLLM2).exists()
    folder = base._smollm2(tmp_path, quiet=True)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files(folder).keys()
    assert list(tmp_path.iterdir()) == [folder]
    whole = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, quantised.state_dict()[name]) for name, value in whole.items())


def test_a_base_without_its_output_layer_is_refused(tmp_path):
    """transformers draws it at random, each time anew, with no more than a warning; a layer that is tied to embeddings, or a
    constant that is made again, isn't missing."""
    whole = save_base(tmp_path / "whole")
    transformers.AutoModel.from_pretrained(whole).save_pretrained(whole)
    with pytest.raises(UserError, match=f"--base {whole} is no whole language model: it lacks lm_head.weight"):
        load_base(str(whole), tmp_path)
    for config in (transformers.GPT2Config, transformers.Gemma3TextConfig, transformers.GPTNeoXConfig):
        small = {
            "vocab_size": 19,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
        }
        tied = save_base(
            tmp_path / config.model_type, config=config(**small, head_dim=8, num_key_value_heads=1, bos_token_id=1)
        )
        assert load_base(str(tied), tmp_path)


def test_a_quantised_base_of_the_hub_is_refused_by_name(tmp_path, monkeypatch):
    """One that the Hub's library has fetched before, so that nothing is asked for now."""
    place, commit = tmp_path / "models--me--small", "0" * 40
    folder = save_base(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    load_base("me/small", tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantised = {"quantization_config": {"quant_method": "fbgemm_fp8"}}
    (folder / "config.json").write_text(json.dumps(config | quantised), encoding="utf-8")
    with pytest.raises(UserError, match=r"--base me/small is quantised \(fbgemm_fp8\)"):
        load_base("me/small", tmp_path)


def test_of_two_commands_that_begin_at_once_one_dequantises(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base, "package_file", lambda *_: pytest.fail("fetched twice"))
    folder = tmp_path / base.SMOLLM2
    assert while_waiting(folder, partial(base._smollm2, tmp_path, True), folder.mkdir, capsys) == folder


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


def test_a_base_is_known_again_by_its_weights(place):
    """In one precision; a single weight that differs makes another."""
    model, *_ = load_base(str(place / "base"), place)
    first = base_fingerprint(model)
    assert first == base_fingerprint(load_base(str(place / "base"), place)[0])
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training
    assert first != base_fingerprint(load_base(str(place / "base"), place, precision="bf16")[0])
    model.model.norm.weight[3] += 1e-3
    assert first != base_fingerprint(model)


def test_a_base_with_a_single_number_among_its_tensors_is_known_again():
    """A buffer of no dimension, as models keep scales and counts; other bases' fingerprints stay what they were."""
    model = torch.nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert base_fingerprint(model) == digest.hexdigest()
    model.register_buffer("scale", torch.tensor(3.0))
    first = base_fingerprint(model)
    model.scale += 1
    assert base_fingerprint(model) != first
