"""Requests about rows by name: every form of a file, what is refused by name, what the rows become, and what is said."""

import json
from dataclasses import replace

import pytest

from unlearning.core.errors import UserError
from unlearning.language.requests import check_edits, edited, edits_of_names, in_words, read_request
from unlearning.language.rows import Row

ROWS = [
    Row("1", (("user", "Where is Rome?"),), "In Italy."),
    Row("2", (("user", "Name its colour."),), "Red", "an apple"),
    Row(
        "a-3",
        (("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And now?")),
        "Bye",
        "",
        ("Bye", "No"),
    ),
]


def written(folder, content):
    file = folder / "request"
    file.write_text(
        content if isinstance(content, str) else "".join(json.dumps(one) + "\n" for one in content), encoding="utf-8"
    )
    return file


def asked(folder, content, kind):
    """The edits of a file, as they are recorded."""
    return check_edits(read_request(written(folder, content), kind), kind, ROWS)


def refused(folder, content, kind, rows=ROWS, gone=()):
    with pytest.raises(UserError) as caught:
        check_edits(read_request(written(folder, content), kind), kind, rows, gone)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"--request {folder / 'request'}")


NAMES = ["a-3", "1"]


@pytest.mark.parametrize(
    "content",
    [
        *(
            "a-3\n1\n",
            "\ufeffa-3\r\n\r\n 1 ",
            '["a-3", 1]',
            "id\na-3\n1\n",
            "why,id\nx,a-3\ny,1\n",
            '{"id": "a-3"}\n{"id": 1}\n',
        ),
        '[{"id": "a-3", "prompt": "And now?"}, {"id": "1", "query": "Where is Rome?", "response": "In Italy."}]',
    ],
)
def test_names_of_rows_to_remove_stand_in_any_form(tmp_path, content):
    assert asked(tmp_path, content, "remove") == edits_of_names(NAMES)
    assert edited(ROWS, edits_of_names(NAMES)) == [None, ROWS[1], None]


@pytest.mark.parametrize("field", ["query", "question", "prompt", "instruction"])
def test_a_new_query_takes_the_place_of_the_last_users_message(tmp_path, field):
    edits = asked(tmp_path, [{"id": "a-3", field: "And then?"}, {"id": 2, field: "Say its shape."}], "modify")
    assert edits == [{"id": "a-3", "query": "And then?"}, {"id": "2", "query": "Say its shape."}]
    first, second, third = edited(ROWS, edits)
    assert first == ROWS[0]
    assert third == replace(ROWS[2], messages=(*ROWS[2].messages[:-1], ("user", "And then?")))
    assert second == Row("2", (("user", "Say its shape."),), "Red")  # its input has gone


def test_alpacas_input_comes_with_the_new_query_or_by_itself(tmp_path):
    both = asked(tmp_path, [{"id": 2, "instruction": "Say its shape.", "input": "a ball"}], "modify")
    assert edited(ROWS, both)[1] == Row("2", (("user", "Say its shape."),), "Red", "a ball")
    alone = asked(tmp_path, [{"id": 2, "input": "a ball"}], "modify")
    assert alone == [{"id": "2", "query": "Name its colour.", "input": "a ball"}]
    assert edited(ROWS, alone)[1] == replace(ROWS[1], input="a ball")
    assert asked(tmp_path, "id,instruction,input\n2,Say its shape.,\n", "modify") == [{"id": "2", "query": "Say its shape."}]


def test_an_input_belongs_to_a_new_query_however_that_is_called(tmp_path):
    """And one that isn't the row's is no part of a request to remove it."""
    for field in ("query", "question", "prompt", "instruction"):
        (edit,) = asked(tmp_path, [{"id": 2, field: "Say its shape.", "input": "a ball"}], "modify")
        assert edit == {"id": "2", "query": "Say its shape.", "input": "a ball"}
        line = refused(tmp_path, [{"id": 2, field: ROWS[1].messages[-1][1], "input": "a ball"}], "remove")
        assert "has another input than the row" in line


def test_messages_modify_their_last_users_and_correct_the_assistants_last(tmp_path):
    before = [{"role": role, "content": content} for role, content in ROWS[2].messages[:-1]]
    new = {"role": "user", "content": [{"type": "text", "text": "And then?"}]}
    for some in ([new], [*before, new], [*before, new, {"role": "assistant", "content": "Bye"}]):
        assert asked(tmp_path, [{"id": "a-3", "messages": some}], "modify") == [{"id": "a-3", "query": "And then?"}]
    old, answer = {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "No"}
    for some in ([answer], [*before, old, answer]):
        assert asked(tmp_path, [{"id": "a-3", "messages": some}], "correct") == [{"id": "a-3", "response": "No"}]


@pytest.mark.parametrize("field", ["response", "output", "completion", "answer"])
def test_a_new_response_leaves_the_query(tmp_path, field):
    edits = asked(tmp_path, [{"id": "1", field: 7}], "correct")
    assert edits == [{"id": "1", "response": "7"}] and edited(ROWS, edits) == [replace(ROWS[0], response="7"), *ROWS[1:]]
    assert asked(tmp_path, f"id;{field}\n1;7\n", "correct") == edits


def test_edits_follow_each_other_and_none_follows_a_removal():
    first, second = {"id": "1", "query": "Where is Paris?"}, {"id": "1", "response": "In France."}
    assert edited(ROWS, [first, second])[0] == Row("1", (("user", "Where is Paris?"),), "In France.")
    with pytest.raises(UserError, match="row 1: it isn't there"):
        edited(ROWS, [{"id": "1", "remove": True}, second])
    with pytest.raises(UserError, match="row x: it isn't there"):
        edited(ROWS, [{"id": "x", "remove": True}])
    assert edited([None, ROWS[1]], [{"id": "2", "response": "Green"}]) == [None, replace(ROWS[1], response="Green")]


REFUSED = [
    ("remove", "1\n2\n1\n", "named twice: 1"),
    ("remove", "gone\n", "removed already: gone"),
    ("remove", "a-4\nb\n", "not among the 3 rows that the adapter was trained on: a-4, b; did you mean a-3?"),
    ("remove", "zzz\n", "not among the 3 rows that the adapter was trained on: zzz"),
    ("remove", "\n", ": it is empty"),
    ("remove", "[]", "nothing is asked: give --ids or a --request file with rows"),
    ("remove", "id\n", "nothing is asked"),
    ("remove", [{"query": "Where is Rome?"}], ", line 1: it has no id"),
    ("remove", "[true]", ", row 1 (line 1): its id is True"),
    ("remove", [{"id": 1, "response": "In Spain."}], "row 1: the request, which is to remove it, has another response than"),
    ("modify", [{"id": 1, "response": "x"}], ", line 1: a request to modify needs its new query: one of instruction, p"),
    ("modify", [{"id": 1, "query": "Where is Rome?"}], "row 1: its new query is the one that it has"),
    ("modify", [{"id": 2, "query": "Name its colour.\nan apple"}], "row 2: its new query is the one that it has"),
    ("modify", [{"id": 2, "input": "an apple"}], "row 2: its new query is the one that it has"),
    ("modify", [{"id": 1, "query": " \n"}], "row 1: its new query is empty"),
    ("modify", [{"id": 1, "query": "a", "prompt": "b"}], ", line 1: it has both prompt and query: keep one"),
    ("correct", [{"id": 1, "messages": [], "response": "x"}], ", line 1: it has both messages and response: keep one"),
    ("modify", [{"id": 1, "query": "a", "response": "In Spain."}], "row 1: the request, which is to modify it, has anot"),
    ("modify", [{"id": 1, "messages": [{"role": "assistant", "content": "x"}]}], ", line 1: a request to modify needs"),
    ("modify", [{"id": "a-3", "prompt": [{"role": r, "content": "x"} for r in ("system", "user")]}], "row a-3: the req"),
    ("modify", "1\n", ", line 1: it is neither JSON nor"),
    ("modify", '["1"]', ", row 1 (line 1): it is '1', not an object"),
    ("modify", [{"id": 1, "query": "x" * 1_000_000}], "row 1: with its new query it has more than 1,000,000"),
    ("correct", [{"id": 1, "query": "x"}], ", line 1: a request to correct needs its new response: one of output, com"),
    ("correct", [{"id": 1, "response": "In Italy."}], "row 1: its new response is the one that it has"),
    ("correct", [{"id": 1, "response": None}], "row 1: its new response is empty"),
    ("correct", [{"id": 1, "query": "Where is Bonn?", "response": "x"}], "row 1: the request, which is to correct it, ha"),
    ("correct", [{"id": "a-3", "response": "Yes"}], "row a-3: 'Yes' is none of its choices"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "content", "line"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_cant_be_met_is_refused_by_name(tmp_path, kind, content, line):
    found = refused(tmp_path, content, kind, gone={"gone"})
    assert found.startswith(line), found


def test_a_row_that_is_gone_is_no_row_any_more(tmp_path):
    assert refused(tmp_path, "1\n", "remove", [None, *ROWS[1:]]).startswith("not among the 2 rows")
    assert refused(tmp_path, "1\n", "remove", [None, *ROWS[1:]], ["1"]) == "removed already: 1"


def test_a_request_is_said_with_the_beginning_of_each_row():
    rows = [*ROWS, None, *(Row(f"n{n}", (("user", "q"),), "r") for n in range(500))]
    said = in_words("remove", edits_of_names(["1", "a-3"]), rows)
    assert said == [
        "removes 2 of 503 rows",
        '  row 1: "Where is Rome?", answered "In Italy."',
        '  row a-3: "And now?", answered "Bye"',
    ]
    assert in_words("correct", [{"id": "2", "response": "Green"}], rows) == [
        "corrects 1 of 503 rows",
        '  row 2: "Name its colour. an apple", answered "Red", becomes "Green"',
    ]
    said = in_words("remove", edits_of_names(f"n{n}" for n in range(7)), rows, limit=4)
    assert len(said) == 6 and said[4].startswith("  row n3:") and said[5] == "  and 3 more"
    assert len(in_words("remove", edits_of_names(f"n{n}" for n in range(4)), rows, limit=4)) == 5


def test_long_texts_are_said_by_both_ends_and_a_modified_one_from_where_it_differs():
    ask = "Which is the main genre of this film, of all those that are listed here: Action, Comedy, Crime, Drama?\nTitle: "
    row = Row("1", (("user", ask + "Heat (1995)"),), "x" * 1000)
    (_, line) = in_words("modify", [{"id": "1", "query": ask + "Brazil (1985)"}], [row])
    assert '"Which is the main genre of this film, of all ... ' in line and 'Title: Heat (1995)", answered "xxx' in line
    assert line.endswith('its query becomes "... Crime, Drama? Title: Brazil (1985)"') and len(line) < 300
    (_, line) = in_words("modify", [{"id": "1", "query": ask + "Heat"}], [row])  # what is cut off shows too
    assert line.endswith('becomes "... Drama? Title: Heat"')
    (_, line) = in_words("modify", [{"id": "1", "query": "So?"}], [row])
    assert line.endswith('its query becomes "So?"')


def test_no_sign_reaches_the_terminal_that_it_would_obey():
    row = Row("a\x1b[2J", (("user", "q\x1b]0;x\x07\u202e\u2028z"),), "r\x00\x9b")
    for kind, change in (
        ("remove", {"remove": True}),
        ("modify", {"query": "\x1b[1m"}),
        ("correct", {"response": "\r\x08"}),
    ):
        said = in_words(kind, [{"id": row.name} | change], [row])
        assert all(line.isprintable() for line in said) and len(said) == 2
