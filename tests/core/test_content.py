"""Rules for what a file may hold: each takes what it should, and names what it doesn't take."""

import pytest
import torch

from unlearning.core import content
from unlearning.core.content import Misfit, check, parse_json
from unlearning.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "it holds NaN, which is no number of JSON"),
        ("[-Infinity]", "it holds -Infinity"),
        ('{"a": 1, "b": 2, "a": 3}', "it has the key 'a' twice"),
        ("[" * 100_000, "its lists lie more than 64 deep in each other"),
        ("[" * 80 + "]" * 80, "holds lists more than 64 deep in each other"),
        ('{"a": ["\\ud800"]}', r"its a.0 is '\ud800', which is no text"),
        ('{"\\ud800": 1}', "which is no text"),
        ('{"a": 1e999}', "its a is inf"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": ' + "9" * 400 + "}", "its a is a number of 1329 bits"),
    ],
)
def test_json_that_other_readers_refuse_is_refused(text, message):
    with pytest.raises(ValueError) as error:
        parse_json(text)
    assert message in str(error.value) and len(str(error.value)) < 200


def test_json_is_read_as_it_is():
    assert parse_json('{"a": [1, 2.5, null, true, "\\u00e9"], "b": {}}') == {"a": [1, 2.5, None, True, "é"], "b": {}}


RULES = {
    "text": (content.text(3), ["a", "abc", "\udcff"], [None, 1, "", "abcd", "\ud800", "a\0"]),
    "whole": (content.whole(0, 5), [0, 5], [-1, 6, 1.0, True, "1", None, 10**400]),
    "number": (content.number(0), [0, 1.5], [-1, float("nan"), float("inf"), 1e308, True, "1", 10**400]),
    "above": (content.number(above=0), [1e-9], [0, -1]),
    "one_of": (content.one_of("a", 1), ["a", 1], [True, "b", 1.0, []]),
    "list": (content.list_of(content.whole(), 1), [[1], (1, 2)], [[], "1", {"a": 1}, [None]]),
    "map": (content.map_of(content.whole()), [{}, {"a": 1}], [[], {1: 1}, {"a": "b"}, {"\ud800": 1}]),
    "closed": (content.fields({"a": content.whole()}, closed=True), [{"a": 1}], [{}, {"a": 1, "b": 2}, None]),
    "positions": (
        content.positions(9),
        [torch.tensor([0, 3, 8]), torch.tensor([], dtype=torch.int64)],
        [
            torch.tensor([3, 3]),
            torch.tensor([4, 1]),
            torch.tensor([-1, 2]),
            torch.tensor([2, 9]),
            torch.tensor([1.0]),
            torch.tensor(1),
            torch.tensor([[1]]),
            [1, 2],
            torch.eye(2).to_sparse(),
        ],
    ),
    "tensor": (
        content.tensor(torch.float32, None, 2),
        [torch.zeros(3, 2)],
        [
            torch.zeros(2),
            torch.zeros(3, 3),
            torch.zeros(3, 2).double(),
            torch.full((1, 2), float("nan")),
            None,
            torch.empty(3, 2, device="meta"),
            torch.zeros(3, 2, dtype=torch.complex64),
        ],
    ),
    "numbered": (content.numbered(-1, 2), [torch.tensor([-1, 2, 2])], [torch.tensor([3]), torch.tensor([-2])]),
    "plain": (content.plain, [{"a": [1, None, "x", 2.5]}], [torch.zeros(1), {"a": float("nan")}, object(), {"a": {1j}}]),
    "optional": (content.optional(content.whole()), [None, 1], ["a"]),
    "path": (content.path, ["a/b.pth", "folder:/x", "a" * 255], ["a" * 256, "/é" + "é" * 127, "a\0", "a/" * 3000, "", None]),
    "either": (content.either(content.whole(), content.text()), [1, "a"], [None, 1.5]),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_what_fits_and_nothing_else(name):
    rule, right, wrong = RULES[name]
    for value in right:
        rule(value)
    for value in wrong:
        with pytest.raises(Misfit):
            rule(value)


def test_a_message_names_file_and_field_and_stays_short():
    rule = content.fields({"rows": content.list_of(content.fields({"seed": content.whole()}))})
    with pytest.raises(
        UserError, match=r"^x\.json: its rows\.1\.seed is -1, not a whole number from 0 to \d+: it is damaged$"
    ):
        check({"rows": [{"seed": 1}, {"seed": -1}]}, rule, "x.json")
    with pytest.raises(UserError, match=r"^x\.json: its rows is missing: it is damaged$"):
        check({}, rule, "x.json")
    for value in ("x" * 100_000, [0] * 100_000, 10**5000, torch.zeros(10_000), {"a" * 9999: 1}):
        with pytest.raises(UserError) as error:
            check({"rows": [{"seed": value}]}, rule, "x.json")
        assert len(str(error.value)) < 250
