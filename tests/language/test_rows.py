"""Rows of files: every form that people have gives the same rows, names are the file's own, and what is odd is one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unlearning.core.errors import UserError
from unlearning.core.words import silent
from unlearning.language.rows import Row, as_recorded, digest, read_rows, write_rows

TEXTS = [("Who?\u2028Me\u0085 \u2029or\ryou", ' Ann, "A"\n'), ("Ä\r\nwhere", "\there"), ("why", "12")]


def written(folder, content, name="rows"):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def lines(*objects, end="\n"):
    return "".join(json.dumps(one, ensure_ascii=False) + end for one in objects)


def rows(folder, content, name="rows"):
    return read_rows(written(folder, content, name), tell=silent)


def said(folder, content):
    told = []
    read_rows(written(folder, content), tell=told.append)
    (line,) = told
    return line.removeprefix(f"--train {folder / 'rows'}: ")


def complaint(folder, content):
    """The one line about a file that isn't read, without its beginning, which names flag and file."""
    file = written(folder, content)
    with pytest.raises(UserError) as caught:
        read_rows(file, "--test", tell=silent)
    line = str(caught.value)
    assert line.startswith(f"--test {file}") and "\n" not in line
    return line.removeprefix(f"--test {file}")


def cell(text):
    return '"' + text.replace('"', '""') + '"'


def messages(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


PAIRS = (("query", "response"), ("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
FORMS = [
    *([{ask: question, answered: answer} for question, answer in TEXTS] for ask, answered in PAIRS),
    [{"messages": messages(*pair)} for pair in TEXTS],
    [dict(zip(("prompt", "completion"), ([m] for m in messages(*pair)), strict=True)) for pair in TEXTS],
    [
        {"messages": [m | {"content": [{"type": "text", "text": t} for t in m["content"]]} for m in messages(*pair)]}
        for pair in TEXTS
    ],
]


@pytest.mark.parametrize("objects", FORMS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_form_gives_the_same_rows_with_the_texts_as_they_are(tmp_path, objects, mark):
    expected = [Row(str(n), (("user", question),), answer) for n, (question, answer) in enumerate(TEXTS, 1)]
    assert rows(tmp_path, mark + lines(*objects)) == expected
    assert rows(tmp_path, mark + lines(*objects, end="\r\n\r\n")) == [
        replace(row, name=str(line)) for row, line in zip(expected, (1, 3, 5), strict=True)
    ]
    assert rows(tmp_path, mark + json.dumps(objects, indent=1)) == expected
    assert rows(tmp_path, mark + json.dumps(objects), "a.csv") == expected  # content counts, not the file's name


@pytest.mark.parametrize(("ask", "answered"), PAIRS)
@pytest.mark.parametrize("sign", [",", "\t", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_names_its_columns_and_a_row_by_the_line_where_it_begins(tmp_path, ask, answered, sign, end):
    head = sign.join(["", answered, ask.upper()])
    body = [sign.join(["7", cell(answer), cell(question)]) for question, answer in TEXTS]
    found = rows(tmp_path, "\ufeff" + end.join([head, *body, ""]))
    assert [(row.query, row.response) for row in found] == TEXTS
    assert [row.name for row in found] == ["2", "4", "6"]  # the first answer and the second query have a line end within


def test_other_fields_of_alpaca_and_of_all_forms(tmp_path):
    objects = [
        {"instruction": "Is it?", "input": "A film", "output": True, "id": 70, "image": "a/b.png", "source": "web"},
        {"instruction": "Count", "input": "", "output": 3.0, "id": " b-1 ", "choices": [2, "3.0"]},
        {"instruction": "Count", "output": -12, "id": None},
    ]
    expected = [
        Row("70", (("user", "Is it?"),), "true", "A film", (), "a/b.png"),
        Row("b-1", (("user", "Count"),), "3.0", "", ("2", "3.0")),
        Row("3", (("user", "Count"),), "-12"),
    ]
    assert rows(tmp_path, lines(*objects)) == expected
    assert [row.query for row in expected] == ["Is it?\nA film", "Count", "Count"]
    table = 'id,instruction,input,output,choices\n70,Is it?,A film,true,\n,Count,,3.0,"[2, ""3.0""]"\n'
    assert rows(tmp_path, table) == [replace(expected[0], image=""), replace(expected[1], name="3")]
    assert said(tmp_path, lines(*objects)) == "3 rows of instruction/input/output in JSONL; fields that aren't read: source"


def test_the_last_assistant_message_is_the_response_and_what_comes_before_are_the_messages(tmp_path):
    talk = [{"role": "system", "content": "Be short."}, *messages("a", "b"), *messages("c", "d")]
    expected = (("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    (row,) = rows(tmp_path, lines({"messages": talk}))
    assert (row.messages, row.response, row.query) == (expected, "d", "c")
    (row,) = rows(tmp_path, lines({"prompt": talk[:-1], "completion": "d"}))
    assert (row.messages, row.response) == (expected, "d")
    assert rows(tmp_path, "messages\n" + cell(json.dumps(talk)) + "\n")[0].messages == expected


def test_tallrecs_files_are_read_as_they_are_published(tmp_path):
    told = 'User Preference: "Heat (1995)", "Taxi Driver (1976)"\nUser Unpreference: \nWhether the user will like "Scream"?'
    published = [{"instruction": 'Answer "Yes." or "No.".', "input": told, "output": answer} for answer in ("No.", "Yes.")]
    found = rows(tmp_path, json.dumps(published, indent=4))
    assert [row.response for row in found] == ["No.", "Yes."] and [row.name for row in found] == ["1", "2"]
    assert found[0].query == f'Answer "Yes." or "No.".\n{told}'


def test_what_is_skipped_and_what_is_there_twice_is_said_in_one_line(tmp_path):
    blank = [{"query": "a", "response": " \n"}, {"query": "", "response": "b"}, {"query": None, "response": "b"}]
    good = [{"query": "a", "response": "b", "id": f"x{n}"} for n in range(3)]
    line = said(tmp_path, lines(*blank, *blank, *good))
    assert line == (
        "3 rows of query/response in JSONL; 6 skipped as empty: 1, 2, 3, 4, 5 and 1 more; "
        "2 with the content of an earlier row: x1, x2"
    )
    assert said(tmp_path, json.dumps(good[:1])) == "1 rows of query/response in a JSON array"
    odd = {"id": "a, b\x1b[2J\u202e", "query": "", "response": "b", "\x1b[1m": 1}
    line = said(tmp_path, lines(odd, good[0]))
    assert line.isprintable() and "1 skipped as empty: 'a, b" in line


def test_a_digest_is_of_everything_but_the_name():
    row = Row("1", (("system", "s"), ("user", "q")), "r", "i", ("r", "x"), "p.png")
    assert digest(row) == digest(replace(row, name="2")) and len(digest(row)) == 16
    changes = [
        {"messages": row.messages[1:]},
        {"messages": (("user", "s"), ("user", "q"))},
        {"response": "x"},
        {"input": ""},
    ]
    changes += [{"choices": ("x", "r")}, {"image": ""}]
    assert len({digest(replace(row, **change)) for change in [{}, *changes]}) == 7
    assert digest(Row("1", (("user", "q"),), "r")) == "79257234c13a1d5d"  # records keep it


def test_rows_that_changed_or_are_gone_are_named_and_later_ones_are_allowed():
    old = [Row(f"r{n}", (("user", f"q{n}"),), "yes") for n in range(9)]
    recorded = {row.name: digest(row) for row in old}
    told = []
    later = Row("new", (("user", "n"),), "no")
    assert as_recorded(recorded, [later, *reversed(old)], tell=told.append) == (old, [later])
    assert told == ["--train: 1 rows are new since the adapter was trained: new"]
    assert as_recorded(recorded, old, tell=pytest.fail) == (old, [])
    bad = [replace(row, response="no") if n in (1, 2) else row for n, row in enumerate(old) if n != 4]
    with pytest.raises(UserError, match=r"^--train f: not the rows .*; changed: r1, r2, gone: r4$"):
        as_recorded(recorded, bad, "--train f", tell=pytest.fail)
    with pytest.raises(UserError, match=r"gone: r0, r1, r2, r3, r4 and 2 more$"):
        as_recorded(recorded, old[7:], tell=pytest.fail)


def test_a_line_put_in_before_the_others_is_seen_for_what_it_is(tmp_path):
    objects = [{"query": f"q{n}", "response": "yes"} for n in range(6)]
    recorded = {row.name: digest(row) for row in rows(tmp_path, lines(*objects))}
    shifted = rows(tmp_path, lines({"query": "first", "response": "no"}, *objects))
    with pytest.raises(
        UserError, match=r"changed: 1, 2, 3, 4, 5 and 1 more; 6 of them have other lines or names now: where rows"
    ):
        as_recorded(recorded, shifted, tell=pytest.fail)


GOOD = {"query": "a", "response": "b"}
WRONG = [
    ("", ": it is empty"),
    (" \n\n", ": it is empty"),
    ("[]", ": it has no rows"),
    ("query,response\n", ": it has no rows"),
    (lines({"query": "", "response": "b"}), ": no row has a query and a response"),
    (lines(GOOD) + "\n{'query': 1}\n", ", line 3: it is no JSON (Expecting property name enclosed in double quotes at "),
    (lines(GOOD, {"query": "a", "answer": "b"}), ", line 2: its fields are 'query', 'answer', while line 1 has query/re"),
    (lines({"text": "a"}), ", line 1: its fields are 'text'; a row needs messages, instruction/output,"),
    (lines(GOOD | {"question": "a", "answer": "b"}), ", line 1: it has the fields of two forms, query/response and qu"),
    (lines(GOOD, ["a"]), ", line 2: it is a list of 1, not an object"),
    (lines(GOOD | {"id": 3}, GOOD, GOOD | {"id": "3"}), ": line 1 and line 3 both have the name 3"),
    (lines(GOOD, GOOD | {"id": "1"}), ": line 1 and line 2 both have the name 1"),
    (lines(GOOD | {"id": 1.5}), ", line 1: its id is 1.5, neither"),
    (lines(GOOD | {"id": True}), ", line 1: its id is True, neither"),
    (lines({"query": ["a"], "response": "b"}), ", line 1: its query 1 has no role and content"),
    (lines({"query": {"a": 1}, "response": "b"}), ", line 1: its query is a dict of 1, not a text"),
    ('{"query": "a", "query": "b", "response": "c"}', ", line 1: it has the key 'query' twice"),
    ('{"query": "a", "response": NaN}', ", line 1: it holds NaN"),
    ('{"query": "\\ud800", "response": "b"}', ", line 1: its query is '\\ud800', which is no text"),
    ('{"query": "\\udc80", "response": "b"}', ", line 1: its query holds half a surrogate pair"),
    ('{"query": "a\\u0000", "response": "b"}', ", line 1: its query is 'a\\x00', and holds a NUL"),
    ("query,response\na,b\0\n", ", line 2: its response is 'b\\x00', and holds a NUL"),
    (lines(GOOD, GOOD | {"query": "x" * 1_000_001}), ", line 2: its query has 1,000,001 characters"),
    (lines(GOOD, {"query": "x" * 600_000, "response": "y" * 400_001}), ", line 2: it has 1,000,001 characters, and may h"),
    ("query,response\na," + "x" * 1_000_001 + "\n", ", line 2: field larger than field limit (1000000)"),
    (json.dumps([GOOD, GOOD], indent=0)[:-9], ", row 2 (line 6): it is no JSON ("),
    ("[" + json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "]", ", row 1 (line 1): after it comes neither a comma nor the end"),
    (json.dumps([GOOD]) + "\n\n{}", ", line 3: more text after the end"),
    (json.dumps([GOOD])[:-1] + ",]", ", row 2 (line 1): it is no JSON"),
    ("[" * 5000, ", row 1 (line 1): its lists lie"),
    (lines(GOOD).encode() + b'{"query": "\xe9", "response": "b"}', ", line 2: its byte 0xe9 is no UTF-8: save it as UTF-8"),
    (lines(GOOD).encode("utf-16"), ", line 1: it is UTF-16: save it as UTF-8"),
    ("some words\nof text\n", ", line 1: it is neither JSON nor the names of columns"),
    ("query,response\na,b\nc\n", ", line 3: it has 1 cells, and the first line has 2"),
    ('query,response\na,b\n"c,d\n', ", line 3: unexpected end of data"),
    ("query,Query,response\na,b,c\n", ", line 1: two columns are named 'query'"),
    ("query,response,choices\na,b,no\n", ", line 2: its choices are no JSON"),
    (lines(GOOD | {"choices": "b"}), ", line 1: its choices are 'b', not a list"),
    (lines(GOOD | {"choices": ["a", "c"]}), ", line 1: its response 'b' is none of its choices"),
    (lines(GOOD | {"choices": ["b", "b"]}), ", line 1: of its choices two are the same"),
    (lines({"messages": [*messages("a", "b"), messages("c", "d")[0]]}), ", line 1: its last two messages aren't"),
    (lines({"messages": messages("a", "b")[1:]}), ", line 1: its last two messages aren't"),
    (lines({"messages": []}), ", line 1: before its response its messages end with nothing"),
    (lines({"messages": [*messages("a", "b"), *messages("c", "d")[1:]]}), ", line 1: before its response its messages end"),
    (lines({"messages": "a"}), ", line 1: its messages are 'a', not a list"),
    (lines({"messages": [{"role": "tool", "content": "a"}]}), ", line 1: the role of its messages 1 is 'tool', none of"),
    (lines({"messages": [{"content": "a"}]}), ", line 1: its messages 1 has no role"),
    (lines({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), ", line 1: its messages 1 has a part 'im"),
    (lines({"prompt": "a", "completion": messages("a", "b")}), ", line 1: its completion is a list of 2 messages"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_is_no_file_of_rows_is_one_line_that_names_file_and_line(tmp_path, content, line):
    found = complaint(tmp_path, content)
    assert found.startswith(line), found


def test_fields_of_messages_that_arent_read_are_named(tmp_path):
    said = []
    call = {"role": "assistant", "content": "b", "tool_calls": [], "name": "x"}
    (tmp_path / "f").write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, call]}), encoding="utf-8")
    read_rows(tmp_path / "f", tell=said.append)
    assert said[0].endswith("fields that aren't read: name of messages, tool_calls of messages")


def test_a_blank_answer_is_skipped_though_it_is_none_of_the_choices(tmp_path):
    good = {"question": "q", "answer": "a", "choices": ["a", "b"]}
    assert [row.name for row in rows(tmp_path, lines(good | {"answer": ""}, good))] == ["2"]


@pytest.mark.parametrize("image", ["A" * 300, "iVBORw0KGgo" * 1000, "a/" * 3000])
def test_an_image_that_is_no_path_is_one_line(tmp_path, image):
    line = complaint(tmp_path, lines({"question": "q", "answer": "a", "image": image}))
    assert line.startswith(", line 1: its image is ") and line.endswith(", no path of a file") and len(line) < 200


def test_rows_that_are_written_are_read_as_they_were(tmp_path):
    """Also TRL's plain ones, and images, which lie where they did."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(b"a picture")
    (tmp_path / "elsewhere").mkdir()
    for one in (
        {"prompt": "The sky is", "completion": " blue"},
        {"query": "what is this", "response": "red", "image": "pictures/0.png"},
        {"instruction": "say", "input": "w1", "output": "w2"},
    ):
        (before,) = rows(tmp_path, lines(one))
        write_rows(tmp_path / "elsewhere" / "rows", [before])
        (after,) = read_rows(tmp_path / "elsewhere" / "rows", tell=silent)
        assert replace(after, image=before.image, name=before.name) == before and after.raw == before.raw
        assert not after.image or Path(after.folder, after.image).read_bytes() == b"a picture"


TALK = [{"role": "system", "content": "be short"}, {"role": "user", "content": "w1"}]
ANSWER = {"role": "assistant", "content": "w2"}


@pytest.mark.parametrize(
    "mixed",
    [
        [{"messages": [*TALK, ANSWER]}, {"messages": [TALK[1], ANSWER]}],
        [{"prompt": "The sky is", "completion": " blue"}, {"prompt": TALK, "completion": [ANSWER]}],
        [{"prompt": [TALK[1]], "completion": [ANSWER]}, {"prompt": "The sky is", "completion": " blue"}],
    ],
)
def test_rows_of_unlike_lengths_are_written_in_one_form(tmp_path, mixed):
    """Read again, they are what they were, to the name and to how they are put to a model."""
    before = rows(tmp_path, lines(*mixed))
    write_rows(tmp_path / "written", before)
    after = read_rows(tmp_path / "written", tell=silent)
    assert after == before and [row.raw for row in after] == [row.raw for row in before]


def test_rows_that_no_one_form_holds_are_one_line(tmp_path):
    one = rows(tmp_path, lines({"instruction": "say", "input": "w1", "output": "w2"}))
    other = rows(tmp_path, lines({"messages": [*TALK, ANSWER]}))
    with pytest.raises(UserError, match="no form holds rows of several messages"):
        write_rows(tmp_path / "written", [*one, *other])
    assert not (tmp_path / "written").exists()
