"""Whatever one field of a file holds: commands take it or refuse it in one line, and never end in a traceback."""

import random
import warnings

import pytest

from tests.helpers import built_once, files
from tests.storm import malformed, sound
from unlearning.core.errors import RunFailed, UserError
from unlearning.vision.shared import Shared

# How many of a kind's damaged files are read in `make test`; all of them take an hour (STORM).
SOME = {"original": 12, "lora": 12, "public": 4, "system": 14, "part": 6, "result": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return built_once(tmp_path_factory, "sound", sound.build)


def survives(case, folder, place, shared):
    """Let every command read a damaged file: whether one has refused it."""
    sound.damage(case, folder, place)
    before, refused = files(place), False
    for read in sound.readers(case.kind, folder, place, shared):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except (UserError, RunFailed) as error:
            refused = True
            assert isinstance(error, UserError) and str(error), case
            assert files(place) == before, (case, "wrote something")
        except BaseException as error:
            raise AssertionError(f"{case.kind}: {case.field} {case.fault} ends in {error!r}") from error
        before = files(place)
    return refused


@pytest.mark.parametrize("kind", sound.KINDS)
def test_a_field_that_is_wrong_never_ends_in_a_traceback(folder, tmp_path, kind):
    every, shared = sound.all_cases(kind, folder), Shared(64)
    some = random.Random(0).sample(every, SOME[kind])
    assert any(survives(case, folder, tmp_path / "x", shared) for case in some)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sound.KINDS)
def test_no_field_that_is_wrong_ends_in_a_traceback(folder, tmp_path, kind):
    shared = Shared(64)
    for case in sound.all_cases(kind, folder):
        survives(case, folder, tmp_path / "x", shared)


def test_every_field_of_a_file_is_damaged_in_every_way():
    content = {"a": {"b": [1, 2, 3]}, "c": "x"}
    places = list(malformed.fields_of(content))
    assert places == [("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1), ("c",)]
    assert malformed.damaged(content, ("a", "b", 1), None) == {"a": {"b": [1, None, 3]}, "c": "x"}
    assert malformed.damaged(content, ("c",), malformed.GONE) == {"a": {"b": [1, 2, 3]}}
