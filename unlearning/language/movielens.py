"""MovieLens' ratings, from wherever they can be had.

GroupLens' ml-latest-small (Harper and Konstan, "The MovieLens Datasets", 2015) is looked for in `data_dir`, then fetched
from GroupLens, else, on Debian or Ubuntu, read out of the package `r-cran-dslabs`, which carries an earlier edition of it
(100,004 ratings by 671 viewers of 9,066 films) in R's lazy-load format. R itself isn't needed.
"""

import csv
import io
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from unlearning.core.errors import UserError
from unlearning.core.fetch import content_of, debian_package
from unlearning.core.files import replacing
from unlearning.core.locks import to_make
from unlearning.core.memory import UNREADABLE

URL = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
FILE = "movielens.csv"  # one line a rating: viewer, film, title, year, genres, rating, time


# What an archive that is damaged, or another one, raises.
DAMAGED = (OSError, LookupError, csv.Error, *UNREADABLE)


class Rating(NamedTuple):
    """What a viewer gave a film: stars from 0.5 to 5, at a time in seconds."""

    viewer: str
    film: str
    title: str
    year: str
    genres: str
    stars: float
    time: int


def ratings(data_dir: Path, quiet: bool = False) -> list[Rating]:
    """All ratings, a list of Rating, downloaded the first time. Raises UserError when the data are out of reach."""
    file = data_dir / FILE
    with to_make(file, file.exists) as missing:  # by one of several tables that begin at once
        if missing:
            _write(file, quiet)
    found: list[Rating] = []
    try:
        with open(file, newline="", encoding="utf-8") as source:
            for row in csv.reader(source):
                found.append(_rating(row))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}, after {len(found):,} ratings: {error}; delete it, and it is made again") from None
    if not found:
        raise UserError(f"{file} has no ratings; delete it, and it is made again")
    return found


def _write(file: Path, quiet: bool) -> None:
    """Write the ratings from wherever they can be had. Raises UserError when they are out of reach."""
    try:
        lines = _from_grouplens(file.parent, quiet)
    except DAMAGED as error:
        lines = _from_debian(file.parent, quiet)
        if lines is None:
            raise UserError(f"no MovieLens and no download ({error}); put {URL} into {file.parent}") from None
    with replacing(file) as part, open(part, "w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows(lines)


def _rating(row: list[str]) -> Rating:
    """A line of FILE. Raises ValueError for any other."""
    if len(row) != len(Rating._fields):
        raise ValueError(f"a line of {len(row)} cells, not {len(Rating._fields)}")
    viewer, film, title, year, genres, stars, time = row
    if not 0 <= float(stars) <= 5:
        raise ValueError(f"{stars} stars")
    return Rating(viewer, film, title, year, genres, float(stars), int(time))


def _from_grouplens(data_dir, quiet=False):
    """Lines for FILE out of GroupLens' archive, in `data_dir` or downloaded."""
    there = data_dir / URL.rsplit("/", 1)[1]
    content = there.read_bytes() if there.exists() else content_of(URL, "MovieLens", data_dir, quiet)
    archive = zipfile.ZipFile(io.BytesIO(content))

    def table(name):
        for row in csv.DictReader(io.TextIOWrapper(archive.open(f"ml-latest-small/{name}.csv"), "utf-8")):
            if None in row or None in row.values():
                raise ValueError(f"a line of {name}.csv has more or fewer cells than its first")
            yield row

    films = {row["movieId"]: (*_title_and_year(row["title"]), row["genres"]) for row in table("movies")}
    return [
        (row["userId"], row["movieId"], *films[row["movieId"]], row["rating"], row["timestamp"]) for row in table("ratings")
    ]


def _title_and_year(text):
    """ "Heat (1995)" to ("Heat", "1995"); without a year to ("Heat", "")."""
    title, bracket, rest = text.strip().rpartition(" (")
    return (title, rest[:4]) if bracket and rest[:4].isdigit() else (text.strip(), "")


def _from_debian(data_dir, quiet=False):
    """Lines for FILE out of Debian's package, or None. R keeps each data set as a 4-byte length and a zlib stream."""
    import rdata

    files = debian_package("r-cran-dslabs", data_dir, quiet)
    if files is None:
        return None
    base = files / "usr/lib/R/site-library/dslabs/data/Rdata"
    with warnings.catch_warnings():  # about R classes that data frames of numbers don't use
        warnings.simplefilter("ignore")
        first, length = (int(n) for n in rdata.read_rds(base.with_suffix(".rdx"))["variables"]["movielens"])
        packed = base.with_suffix(".rdb").read_bytes()[first : first + length]
        frame = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed[4:])))
    shutil.rmtree(files.parent)
    names = ["userId", "movieId", "title", "year", "genres", "rating", "timestamp"]
    return frame[names].astype("string").fillna("").values.tolist()
