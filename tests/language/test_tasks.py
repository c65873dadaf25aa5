"""Built-in tasks: their files are written once, read as anybody's, disjoint, and say what the ratings say."""

import csv
import json
import random
import re

import pytest

from unlearning.core.errors import UserError
from unlearning.core.words import silent
from unlearning.language import movielens, tasks
from unlearning.language.movielens import Rating
from unlearning.language.rows import read_rows
from unlearning.language.tasks import PARTS, TASKS, task_files

KINDS = ("Action|Crime", "Comedy", "Drama", "Horror", "Thriller", "Western")


def rating(viewer, film, stars, time):
    return Rating(str(viewer), str(film), f"Film {film}", str(1950 + film % 50), KINDS[film % 6], stars, time)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with ratings of 30 viewers, 15 of 60 films each, and the files of all tasks."""
    place, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    with open(place / movielens.FILE, "w", newline="", encoding="utf-8") as target:
        for viewer in range(30):
            for time, film in enumerate(draw.sample(range(60), 15)):
                csv.writer(target).writerow(rating(viewer, film, draw.choice((0.5, 3.5, 4.0, 5.0)), time))
    return place


def objects(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("task", TASKS)
def test_files_are_written_once_and_are_the_same_again(folder, tmp_path, task):
    files = task_files(task, folder)
    assert {part: file.name for part, file in files.items()} == {part: f"{task}-{part}.jsonl" for part in PARTS}
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files.values()}
    assert task_files(task, folder) == files
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files.values()} == before
    files["train"].write_bytes(b"someone's own")
    files["test"].unlink()
    task_files(task, folder)  # what is missing is made as it was, and nothing else
    assert files["train"].read_bytes() == b"someone's own" and files["test"].read_bytes() == before[files["test"]][0]
    files["train"].write_bytes(before[files["train"]][0])
    lines = (folder / movielens.FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / movielens.FILE).write_text("".join(reversed(lines)), encoding="utf-8")
    again = task_files(task, tmp_path)
    assert [file.read_bytes() for file in again.values()] == [before[file][0] for file in files.values()]


@pytest.mark.parametrize("task", TASKS)
def test_files_are_read_as_anybodys_and_each_row_has_an_id(folder, task):
    for file in task_files(task, folder).values():
        told = []
        found = read_rows(file, tell=told.append)
        assert [row.name for row in found] == [row["id"] for row in objects(file)]
        assert len(told) == 1 and not {"skipped", "earlier", "aren't"} & set(told[0].split())


@pytest.mark.parametrize(("task", "unit"), [("genre", r"f\d+"), ("preference", r"u\d+"), ("next", r"u\d+")])
def test_no_film_or_viewer_is_in_two_files(folder, task, unit):
    names = {part: [row["id"] for row in objects(file)] for part, file in task_files(task, folder).items()}
    units = {part: {re.match(unit, name)[0] for name in some} for part, some in names.items()}
    counts = [len(units[part]) for part in PARTS]
    every = sum(counts)
    assert len(set.union(*units.values())) == every and counts == [
        round(0.6 * every),
        every - round(0.6 * every) - counts[2],
        counts[2],
    ]
    assert counts[2] == every - round(0.8 * every)
    firsts = [re.match(unit, name)[0] for name in names["train"]]
    assert firsts != sorted(firsts)  # the first rows of a file are a sample of it


def test_a_film_of_two_numbers_is_one_film():
    ratings = [rating(viewer, film, 4, 1) for viewer in range(10) for film in (1, 2, 3)]
    ratings += [rating(viewer, 1, 4, 1)._replace(film="999") for viewer in range(10)]
    rows, films = tasks.genre(ratings)
    assert films == ["Film 1 (1951)", "Film 2 (1952)", "Film 3 (1953)"] and [row["id"] for row in rows] == ["f1", "f2", "f3"]


def test_genre_asks_about_films_that_enough_have_rated():
    ratings = [rating(viewer, film, 4, 1) for film in range(14) for viewer in range(9 if film == 0 else 10)]
    ratings = [r._replace(year="") if r.film == "1" else r for r in ratings]
    rows, _ = tasks.genre(ratings)
    answers = {row["id"]: row["response"] for row in rows}
    assert "f0" not in answers and "f1" not in answers and len({*answers.values()}) == 5
    assert answers["f6"] == "Action" and answers["f7"] == "Comedy" and answers["f13"] == "Comedy"
    (asked,) = [row["query"] for row in rows if row["id"] == "f6"]
    assert re.fullmatch(r"Which is the main genre of this film: (\w+, ){4}\w+\?\nTitle: Film 6 \(1956\)", asked)


def seen(stars):
    """Ratings of one viewer, of films 0, 1, ... in this order."""
    return [rating(7, film, some, time) for time, (film, some) in enumerate(enumerate(stars))]


def test_preference_tells_the_films_before_and_not_the_one_asked_about():
    rows, viewers = tasks.preference(seen([4, 3.5, 5, 1, 1, 1, 1, 1, 1, 1, 4.0, 3.5]))
    assert viewers == ["7", "7"] and [row["id"] for row in rows] == ["u7-f10", "u7-f11"]
    told = 'User Preference: "Film 0 (1950)", "Film 2 (1952)"\nUser Unpreference: "Film 1 (1951)", '
    told += ", ".join(f'"Film {film} (195{film})"' for film in range(3, 10))
    assert rows[0] == {
        "id": "u7-f10",
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target movie "
        'by answering "Yes." or "No.".',
        "input": f'{told}\nWhether the user will like the target movie "Film 10 (1960)"?',
        "output": "Yes.",
    }
    assert rows[1]["output"] == "No."
    assert rows[1]["input"].startswith(
        'User Preference: "Film 2 (1952)", "Film 10 (1960)"\nUser Unpreference: "Film 1 (1951)", '
    )
    (row,), _ = tasks.preference(seen([1] * 11))
    assert row["input"].startswith('User Preference: \nUser Unpreference: "Film 0')  # as TALLRec's files have it
    assert len(tasks.preference(seen([1] * 40))[0]) == 3 and tasks.preference(seen([1] * 10)) == ([], [])


def test_next_has_one_right_candidate_among_films_that_the_viewer_never_rated():
    others = [rating(8, film, 3, film) for film in range(100)]
    rows, viewers = tasks.next_film([*seen([4] * 12), *others])
    mine = [row for row, viewer in zip(rows, viewers, strict=True) if viewer == "7"]
    assert [row["response"] for row in mine] == ["Film 10 (1960)", "Film 11 (1961)"]
    rated = {f"Film {film} (19{50 + film})" for film in range(12)}
    for first, row in enumerate(mine):
        choices = row["choices"]
        assert len(choices) == len(set(choices)) == 20 and rated & set(choices) == {row["response"]}
        history = ", ".join(f'"Film {film} (19{50 + film})"' for film in range(first, first + 10))
        assert row["query"].startswith(f"This user has watched {history} in the previous. ")
        assert row["query"].endswith(f"the following 20 movie titles: {', '.join(map(json.dumps, choices))}.")
    places = [row["choices"].index(row["response"]) for row in tasks.next_film(random_ratings())[0]]
    assert len(set(places)) > 10  # the right one lies anywhere
    assert mine[0]["choices"] != mine[1]["choices"]


def random_ratings():
    draw = random.Random(1)
    return [rating(viewer, film, 4, time) for viewer in range(40) for time, film in enumerate(draw.sample(range(200), 13))]


def test_invented_authors_have_the_same_facts_in_every_wording(folder):
    rows = {part: objects(file) for part, file in task_files("invented", folder).items()}
    ids = [f"a{author:02}-{fact}" for author in range(1, 21) for fact in range(1, 11)]
    assert all([row["id"] for row in rows[part]] == ids for part in PARTS)
    answers = {part: [row["answer"] for row in some] for part, some in rows.items()}
    assert answers["train"] == answers["validation"] == answers["test"] and len({*answers["train"]}) == 200
    questions = [row["question"] for some in rows.values() for row in some]
    assert len(set(questions)) == 600 and not any("{" in text for text in [*questions, *answers["train"]])
    for place, author in enumerate(tasks.authors()):
        mine = [row for some in rows.values() for row in some[10 * place : 10 * place + 10]]
        assert all(author["name"] in row["question"] and author["name"] in row["answer"] for row in mine)
        assert 30 < int(author["honoured"]) - int(author["year"]) < 44 and author["mother"] != author["father"]
        told = " ".join(row["answer"] for row in mine)
        assert all(author[fact] in told for fact in author)
        assert len({*re.findall(r"\w+ Award", told)}) == 1  # the award and its year are of one award


@pytest.mark.parametrize("ending", tasks.ENDINGS)
def test_published_files_are_read_where_they_have_been_put(tmp_path, ending):
    """Whatever their layout, and nothing is written; one that lacks is one line, as are two that would both do."""
    folder = tmp_path / tasks.FOLDER
    folder.mkdir()
    for part in PARTS:
        missing = (
            f"^{re.escape(str(folder / f'bookcrossing-{part}.json'))} .* isn't there: TALLRec publishes them as data/book"
        )
        with pytest.raises(UserError, match=missing):
            task_files("bookcrossing", tmp_path)
        (folder / f"bookcrossing-{part}{ending}").write_text("[]", encoding="utf-8")
    files = task_files("bookcrossing", tmp_path)
    assert files == {part: folder / f"bookcrossing-{part}{ending}" for part in PARTS}
    assert sorted(folder.iterdir()) == sorted(files.values())
    other = next(one for one in tasks.ENDINGS if one != ending)
    (folder / f"bookcrossing-test{other}").touch()
    with pytest.raises(UserError, match="are both there: keep the one that holds the task's test rows"):
        task_files("bookcrossing", tmp_path)


def test_invented_authors_share_no_name_and_no_book():
    found = tasks.authors()
    for fact in ("name", "town"):
        assert len({author[fact] for author in found}) == 20
    assert len({author[book] for author in found for book in ("first", "second", "third")}) == 60
    assert len({author["name"].split()[0] for author in found}) == len({author["name"].split()[1] for author in found}) == 20


def test_without_movielens_its_tasks_are_refused_in_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, "content_of", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    monkeypatch.setattr(movielens, "debian_package", lambda *_: None)
    with pytest.raises(UserError, match="no MovieLens"):
        task_files("genre", tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(read_rows(task_files("invented", tmp_path)["test"], tell=silent)) == 200  # it needs none
