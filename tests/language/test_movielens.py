"""MovieLens' ratings: both sources give the same lines, and what is damaged or out of reach is one line."""

import contextlib
import io
import urllib.request
import zipfile
import zlib
from functools import partial

import numpy as np
import pandas
import pytest
import rdata

from tests.helpers import packed_again, while_waiting
from unlearning.core.errors import RunFailed, UserError
from unlearning.language import movielens, tasks

FILMS = {1: ("Heat", 1995, "Action|Crime"), 2: ("Brazil", 1985, "Comedy"), 3: ("Nameless", None, "Drama")}
RATINGS = [(user, film, 5.0 if (user + film) % 2 else 2.5, 100 * user + film) for user in range(12) for film in FILMS]


def grouplens(folder):
    """GroupLens' archive with these films and ratings."""
    titles = {film: f"{title} ({year})" if year else title for film, (title, year, _) in FILMS.items()}
    films = "movieId,title,genres\n" + "".join(f"{film},{titles[film]},{FILMS[film][2]}\n" for film in FILMS)
    ratings = "userId,movieId,rating,timestamp\n" + "".join(",".join(map(str, row)) + "\n" for row in RATINGS)
    with zipfile.ZipFile(folder / "ml-latest-small.zip", "w") as archive:
        archive.writestr("ml-latest-small/movies.csv", films)
        archive.writestr("ml-latest-small/ratings.csv", ratings)


def dslabs(folder):
    """Debian's package with the same, in R's lazy-load format: a length and a zlib stream."""
    base = folder / "debian-r-cran-dslabs/files/usr/lib/R/site-library/dslabs/data/Rdata"
    base.parent.mkdir(parents=True)
    columns = {
        "movieId": [film for _, film, _, _ in RATINGS],
        "title": [FILMS[film][0] for _, film, _, _ in RATINGS],
        "year": pandas.array([FILMS[film][1] for _, film, _, _ in RATINGS], dtype="Int32"),
        "genres": pandas.Categorical([FILMS[film][2] for _, film, _, _ in RATINGS]),
        "userId": [user for user, _, _, _ in RATINGS],
        "rating": [stars for _, _, stars, _ in RATINGS],
        "timestamp": [time for _, _, _, time in RATINGS],
    }
    plain = folder / "frame.rds"
    rdata.write_rds(plain, pandas.DataFrame(columns), compression=None)
    packed = zlib.compress(plain.read_bytes())
    base.with_suffix(".rdb").write_bytes(b"xxx" + len(plain.read_bytes()).to_bytes(4, "big") + packed)
    rdata.write_rds(base.with_suffix(".rdx"), {"variables": {"movielens": np.array([3, 4 + len(packed)], dtype=np.int32)}})
    return folder / "debian-r-cran-dslabs/files"


def no_network(*_, **__):
    raise OSError("no network")


def test_grouplens_and_debian_give_the_same_ratings(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    grouplens(tmp_path / "one")
    monkeypatch.setattr(movielens, "debian_package", lambda name, root, quiet: dslabs(root))
    first, second = movielens.ratings(tmp_path / "one"), movielens.ratings(tmp_path / "two")
    assert first == second and len(first) == len(RATINGS)
    assert first[0] == movielens.Rating("0", "1", "Heat", "1995", "Action|Crime", 5.0, 1)
    assert first[2].title == "Nameless" and first[2].year == ""
    assert not list((tmp_path / "two").glob("*debian*"))
    (tmp_path / "one/ml-latest-small.zip").unlink()
    assert movielens.ratings(tmp_path / "one") == first  # kept


def test_of_two_commands_that_begin_at_once_one_fetches(tmp_path, monkeypatch, capsys):
    """The other waits for it: of ratings, and of a task's files, which are made of them."""
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    grouplens(tmp_path)
    first = movielens.ratings(tmp_path)
    (tmp_path / "ml-latest-small.zip").unlink()
    file, content = tmp_path / movielens.FILE, (tmp_path / movielens.FILE).read_bytes()
    file.unlink()
    assert while_waiting(file, partial(movielens.ratings, tmp_path), partial(file.write_bytes, content), capsys) == first
    there = tasks.task_files("invented", tmp_path)["test"]
    content = there.read_bytes()
    there.unlink()
    made = partial(tasks.task_files, "invented", tmp_path)
    assert while_waiting(there, made, partial(there.write_bytes, content), capsys)["test"] == there


def test_without_a_source_one_line_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(movielens, "debian_package", lambda name, root, quiet: None)
    with pytest.raises(UserError, match=r"no MovieLens and no download \(no network\); put https://.*zip into"):
        movielens.ratings(tmp_path)
    (tmp_path / "ml-latest-small.zip").write_bytes(io.BytesIO(b"half a file").getvalue())
    with pytest.raises(UserError, match="no MovieLens"):
        movielens.ratings(tmp_path)
    monkeypatch.setitem(FILMS, 1, ("Heat, The", 1995, "Crime"))  # a comma without quotes
    grouplens(tmp_path)
    with pytest.raises(UserError, match=r"no MovieLens .*a line of movies.csv has more or fewer cells than its first"):
        movielens.ratings(tmp_path)
    assert not (tmp_path / movielens.FILE).exists()


def test_the_folder_of_the_data_is_made_and_a_broken_write_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    grouplens(tmp_path / "there")
    lines = movielens._from_grouplens(tmp_path / "there")
    monkeypatch.setattr(movielens, "_from_grouplens", lambda root, quiet: lines)
    assert len(movielens.ratings(tmp_path / "new")) == len(RATINGS)
    monkeypatch.setattr(movielens, "_from_grouplens", lambda root, quiet: broken())

    def broken():
        yield lines[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFailed, match="No space left"):
        movielens.ratings(tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,Heat,1995,Action,nan,5", "nan stars"),
        ("1,2,Heat,1995,Action,7,5", "7 stars"),
        ("1,2,Heat,1995,Action,4", "a line of 6 cells, not 7"),
        ("1,2,Heat,1995,Action,4,soon", "invalid literal for int"),
        ("1,2,Heat,1995,Action,4," + "9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_damaged_file_of_ratings_is_one_line(tmp_path, line, message):
    (tmp_path / movielens.FILE).write_text(f"1,1,Heat,1995,Action,4,5\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"movielens.csv, after 1 ratings: .*{message}.*; delete it"):
        movielens.ratings(tmp_path)


def test_a_file_without_ratings_makes_no_task(tmp_path):
    (tmp_path / movielens.FILE).write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"movielens\.csv has no ratings; delete it, and it is made again"):
        tasks.task_files("genre", tmp_path)
    (tmp_path / movielens.FILE).write_text("1,1,Heat,1995,Action,4,5\n", encoding="utf-8")
    with pytest.raises(UserError, match="task genre: its source makes no train rows"):
        tasks.task_files("genre", tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_damaged_archive_is_one_line(tmp_path, monkeypatch):
    """Whatever of it is: zlib, and not zipfile, sees what is wrong within."""
    grouplens(tmp_path)
    file = tmp_path / "ml-latest-small.zip"
    packed_again(file, zipfile.ZIP_DEFLATED)
    whole = bytearray(file.read_bytes())
    monkeypatch.setattr(movielens, "debian_package", lambda *_: None)
    for place in range(60, len(whole) - 60, 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UserError):
            movielens.ratings(tmp_path)
        (tmp_path / movielens.FILE).unlink(missing_ok=True)


def test_an_archive_of_another_kind_is_one_line(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as archive:
        archive.writestr("other.txt", "x")
    monkeypatch.setattr(movielens, "debian_package", lambda *_: None)
    with pytest.raises(UserError, match="no MovieLens and no download"):
        movielens.ratings(tmp_path)
