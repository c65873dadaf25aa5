"""Rows about images, on a tiny random model of LLaVA's kind."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import llmeraser
from tests.helpers import call, one_line
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.language import generation, scores
from unlearning.language.adapters import read_record
from unlearning.language.forward import WHOLE, Forward
from unlearning.language.session import Place, Workspace, session_of

COLOURS = ("red", "green", "blue")
SIDE, PATCH = 28, 14  # four patches an image


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base that sees images, 24 of one colour each, a file of rows that asks for it, and an adapter of it."""
    folder = tmp_path_factory.mktemp("llava")
    words = ["<unk>", "</s>", "<image>", "what", "colour", "is", "this", *COLOURS]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>", "additional_special_tokens": ["<image>"]}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    sees = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    reads = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**sees, image_size=SIDE, patch_size=PATCH),
        text_config=transformers.LlamaConfig(**reads, num_key_value_heads=2, vocab_size=len(words), eos_token_id=1),
        image_token_index=2,
        image_seq_length=4,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "base")
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    options = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    transformers.LlavaProcessor(images, fast, image_token="<image>", **options).save_pretrained(folder / "base")
    rng, lines = np.random.default_rng(0), []
    for i in range(24):
        colour = i % 3
        pixels = rng.integers(60, size=(SIDE, SIDE, 3), dtype=np.uint8)
        pixels[..., colour] += 180
        Image.fromarray(pixels).save(folder / f"{i}.png")
        row = {"id": f"i{i}", "query": "what colour is this", "response": COLOURS[colour], "image": f"{i}.png"}
        lines.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines[:16]), encoding="utf-8")
    (folder / "unseen.jsonl").write_text("".join(lines[16:]), encoding="utf-8")
    unseen = ("--validation", folder / "unseen.jsonl", "--test", folder / "unseen.jsonl")
    shape = ("--targets", "q_proj", "v_proj", "--decay", 0.01, "--evaluations", 60)
    where = ("--weights", folder, "--output", folder / "adapter", "--quiet")
    call(llmeraser, "finetune", "--train", folder / "rows.jsonl", *unseen, "--base", folder / "base", *shape, *where)
    return folder


def session(place, folder):
    return session_of(read_record(folder), Place(place, place, Compute("cpu", None, place, quiet=True), Workspace()), folder)


def test_answers_depend_on_the_image_and_the_short_way_sees_it(place):
    """The frozen part is kept, image and all: the logits are the whole model's; four places stand for an image."""
    with session(place, place / "adapter") as now:
        assert now.forward.way != WHOLE
        (batch,) = now.batches(now.rows)
        assert int((batch.ids == 2).sum(1).unique()) == (SIDE // PATCH) ** 2
        whole = Forward(now.peft_model, way=WHOLE, pixels=now.forward.pixels)
        with torch.no_grad():
            assert torch.allclose(now.logits(batch), whole.logits(batch), atol=1e-4)
        said = generation.answers(now, now.test)
        assert said == [row.response for row in now.test] and len(set(said)) == 3


@pytest.mark.parametrize(
    ("kind", "request_"),
    [("remove", {}), ("modify", {"query": "this colour is what"}), ("correct", {"response": "green"})],
)
def test_the_three_requests_are_answered(place, tmp_path, kind, request_):
    (tmp_path / "request.jsonl").write_text(json.dumps({"id": "i3"} | request_) + "\n", encoding="utf-8")
    flags = ("--request", tmp_path / "request.jsonl", "--weights", place, "--quiet", "--output", tmp_path / "answered")
    call(llmeraser, kind, place / "adapter", *flags)
    losses = []
    for folder in (place / "adapter", tmp_path / "answered"):
        with session(place, folder) as now:
            trained = next(row for row in session_rows(place) if row.name == "i3")
            losses.append(now.losses_of([trained]).item())
    assert losses[1] > losses[0] if kind != "modify" else losses[1] != losses[0]


def session_rows(place):
    with session(place, place / "adapter") as now:
        return now.rows


def reaching(place, folder, targets):
    """Write an adapter as PEFT does, its weights random, on these layers of the base that sees images."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(place / "base")
    torch.manual_seed(0)
    peft_model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=targets))
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    peft_model.save_pretrained(folder)
    return folder


HOW = [
    ("--solver", "cg"),
    ("--solver", "cg", "--curvature", "hessian", "--damping", 300),
    ("--solver", "adam", "--products", 3, "--tolerance", 0.5),
    ("--solver", "ekfac"),
    ("--method", "gradascent"),
    ("--method", "npo"),
    ("--method", "retrain", "--epochs", 1, "--lr", 1e-3, "--batch-size", 2),
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(map(str, how[:4])))
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*vision_tower.*\.(q|v)_proj"], ids=["all", "seeing"])
def test_layers_that_no_row_reaches_have_no_gradient(place, tmp_path, targets, how):
    """LLaVA reads the last but one layer of what sees: no loss depends on the last one, nor on any without an image."""
    source, words = reaching(place, tmp_path / "own", targets), {"query": "what colour is this", "response": "red"}
    lines = (place / "rows.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    lines.append(json.dumps(words | {"id": "plain"}))
    rows = place / "some.jsonl"
    rows.write_text("\n".join(lines), encoding="utf-8")
    flags = ("--train", rows, "--validation", place / "unseen.jsonl", "--prompt", "plain", "--weights", tmp_path, "--quiet")
    ids = ("plain", "i3") if "--solver" in how else ("plain",)
    flags += ("--base", place / "base", "--ids", *ids, *(("--damping", 0.3) if "--solver" in how else ()))
    call(llmeraser, "remove", source, *flags, *how, "--output", tmp_path / "answered")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (source, tmp_path / "answered"))
    if "retrain" not in how:
        last = [name for name in before if "vision_tower" in name and "layers.1." in name]
        assert last and all(torch.equal(before[name], after[name]) for name in last)
        moves = "--solver" in how or isinstance(targets, list)  # a row without an image changes nothing of what sees
        assert moves or all(torch.equal(before[name], after[name]) for name in before)
        if "--solver" in how:
            assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_image_that_isnt_there_and_a_base_that_sees_none_are_one_line(place, tmp_path, capsys):
    row = {"query": "what colour is this", "response": "red", "image": "lost.png"}
    lines = [json.dumps(row), json.dumps(row | {"response": "blue"})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    flags = ("--train", tmp_path / "rows.jsonl", "--weights", tmp_path, "--quiet", "--output", tmp_path / "x")
    code, line = one_line(llmeraser, capsys, "finetune", "--base", place / "base", *flags)
    assert code == 2 and "lost.png cannot be read" in line and not (tmp_path / "x").exists()


def test_another_image_of_the_same_name_is_another_row(place, tmp_path, capsys):
    """What was kept of the old one is of no use; an adapter that was trained on it is asked no more."""
    own = shutil.copytree(place, tmp_path / "own")
    file = own / "rows.jsonl"
    flags = ("--train", file, "--test", own / "unseen.jsonl", "--weights", own, "--quiet")

    def scores():
        capsys.readouterr()
        call(llmeraser, "evaluate", own / "adapter", *flags, "--generate", 2)
        return capsys.readouterr().out

    before = scores()
    for i in range(16, 24):  # test images of another colour
        shutil.copy(own / f"{(i + 1) % 3}.png", own / f"{i}.png")
    after = scores()
    shutil.rmtree(own / "frozen")
    assert scores() == after != before
    shutil.copy(own / "0.png", own / "4.png")
    code, line = one_line(llmeraser, capsys, "remove", own / "adapter", "--ids", "i2", *flags, "--output", tmp_path / "x")
    assert code == 2 and "not the rows that the adapter was trained on; changed: i4" in line


def test_first_tokens_are_of_rows_with_their_images(place):
    """Open answers are compared by these: rows that differ in their image alone are answered otherwise."""
    with session(place, place / "adapter") as now:
        logits = scores._first_tokens(now, now.test)
        assert {row.query for row in now.test} == {"what colour is this"}
        said = [now.processor.tokenizer.decode(token) for token in logits.argmax(1)]
        assert said == [row.response for row in now.test]


def test_a_query_may_have_the_images_place_as_in_llavas_files(place, tmp_path, capsys):
    with session(place, place / "adapter") as now:
        row = replace(now.rows[0], messages=(("user", "<image>\nwhat colour is this"),))
        assert now.tokens([row]) == now.tokens(now.rows[:1])
        for messages, images, complaint in (
            ((("user", "<image> <image>\nwhat colour is this"),), row.image, "has 2 places for its one image (<image>)"),
            ((("user", "<image>\nwhat colour is this"),), "", "has a place for an image (<image>), and no image"),
        ):
            with pytest.raises(UserError, match=re.escape(complaint)):
                now.tokens([replace(row, messages=messages, image=images)])
