"""Layouts of files: texts come back from each as they are, and what is no ordinary file isn't read."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.language.test_rows import GOOD, cell, lines, written
from unlearning.core import memory
from unlearning.core.errors import UserError
from unlearning.language.layouts import parse, read_text


def test_what_is_no_ordinary_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no cannot be read \(No such file"):
        read_text(tmp_path / "no", "--train")
    written(tmp_path, "x", "one.jsonl")
    with pytest.raises(UserError, match=r"is a folder: name a file of rows, such as one\.jsonl"):
        read_text(tmp_path, "--train")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="is no file: a pipe"):
            read_text(tmp_path / "pipe", "--train")
    file = written(tmp_path, lines(GOOD))
    os.truncate(file, 2**30 + 1)
    with pytest.raises(UserError, match=r"has 1,073,741,825 bytes, and may have"):
        read_text(file, "--train")
    os.truncate(file, 2**30)
    monkeypatch.setattr(memory, "available", lambda: 2**32)
    with pytest.raises(UserError, match=r"rows needs at least 6\.0 GiB of memory"):
        read_text(file, "--train")


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_texts_come_back_from_each_layout(pairs):
    objects = [{"question": question, "answer": answer} for question, answer in pairs]
    table = "question,answer\n" + "".join(f"{cell(question)},{cell(answer)}\n" for question, answer in pairs)
    for text in (lines(*objects), json.dumps(objects), table):
        _, records = parse(text, "")
        assert [tuple(record.value.values()) for record in records] == pairs
