"""Tasks: three files of rows each, to train on, to choose by and to test on. Built-in ones are written once, then read as
anybody's files are; those that others have published are read where the user has put them.

`genre`, `preference` (in the form of TALLRec, Bao et al. 2023) and `next` (the protocol of LLaRA, Liao et al. 2024) are made
from MovieLens' ratings; `invented` is in the form of TOFU (Maini et al. 2024): questions about authors who don't exist.
Training, validation and test rows have no film in common (`genre`) or no viewer (`preference`, `next`); those of `invented`
ask for the same facts in three wordings. The same ratings give the same files.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearning.core.errors import UserError
from unlearning.core.files import replacing
from unlearning.core.locks import to_make
from unlearning.language import movielens
from unlearning.language.movielens import Rating

PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.8)  # of films or viewers, where training rows end and where validation rows end
FOLDER = "llmeraser"
ENDINGS = (".json", ".jsonl", ".csv")  # of published files
# Tasks of files that others publish: where.
PUBLISHED = {
    "bookcrossing": "TALLRec publishes them as data/book/*.json, https://github.com/SAI990323/TALLRec",
    "movielens": "TALLRec publishes them as data/movie/*.json, https://github.com/SAI990323/TALLRec",
    "lastfm": "LLaRA publishes the data, https://huggingface.co/datasets/joyliao7777/LLaRA; docs/llmeraser.md has the form",
}
GENRES = 5  # the task `genre` is about the films of the most frequent main genres
RATED = 10  # ... that at least so many viewers have rated
HISTORY = 10  # films that the tasks `preference` and `next` tell of a viewer
LIKED = 4.0  # stars from which a viewer likes a film
PER_VIEWER = 3  # films that each viewer is asked about
CANDIDATES = 20  # films to choose the next one from
HISTORY_ENDS = " in the previous."  # LLaRA's words after a history
LIKES = (  # TALLRec's words
    "Given the user's preference and unpreference, identify whether the user will like the target movie by answering "
    '"Yes." or "No.".'
)

Fields = dict[str, Any]  # a row as its file has it


def task_files(task: str, data_dir: Path, quiet: bool = False) -> dict[str, Path]:
    """{"train": file, "validation": file, "test": file} of a task, JSONL with an `id` in each row; written where they aren't
    there, but for published ones.

    task: one of TASKS or PUBLISHED. quiet: no progress of a download. Raises UserError when MovieLens is out of reach or a
    published file isn't there, RunFailed on a full disk.
    """
    if task in PUBLISHED:
        return {part: _published(task, part, data_dir / FOLDER) for part in PARTS}
    files = {part: data_dir / FOLDER / f"{task}-{part}.jsonl" for part in PARTS}
    if missing := {part: file for part, file in files.items() if not file.is_file()}:
        made = invented() if task == "invented" else split(*QUERIES[task](movielens.ratings(data_dir, quiet)))
        if lost := [part for part in missing if not made[part]]:
            raise UserError(f"task {task}: its source makes no {lost[0]} rows")
        for part, file in missing.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in made[part]]
            with to_make(file, file.is_file) as wanted:
                if wanted:
                    with replacing(file) as place:
                        place.write_text("".join(lines), encoding="utf-8", newline="\n")
    return files


def _published(task: str, part: str, folder: Path) -> Path:
    """The file of one part of a published task, however it is laid out. Raises UserError where there is none, or two."""
    place = folder / f"{task}-{part}"
    found = [file for ending in ENDINGS if (file := place.with_name(place.name + ending)).is_file()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are both there: keep the one that holds the task's {part} rows")
    if not found:
        raise UserError(f"{place}{ENDINGS[0]} (or {', '.join(ENDINGS[1:])}) isn't there: {PUBLISHED[task]}")
    return found[0]


def split(rows: Sequence[Fields], groups: Sequence[str]) -> dict[str, list[Fields]]:
    """Rows by part, in a random order that is always the same; those of one group are all in one part.

    groups: of each row.
    """
    names = sorted(set(groups))
    random.Random("groups").shuffle(names)
    ends = [round(share * len(names)) for share in (*SHARES, 1)]
    part_of = {name: sum(place >= end for end in ends) for place, name in enumerate(names)}
    parts: dict[str, list[Fields]] = {part: [] for part in PARTS}
    for row, group in zip(rows, groups, strict=True):
        parts[PARTS[part_of[group]]].append(row)
    for part, some in parts.items():
        random.Random(part).shuffle(some)
    return parts


def genre(ratings: Sequence[Rating]) -> tuple[list[Fields], list[str]]:
    """(rows, films): a film's title and year, and its main genre, which is the first that MovieLens lists."""
    films: dict[str, Rating] = {}  # by title and year: some films have two numbers
    often: Counter[str] = Counter()
    for rating in sorted(ratings, key=lambda rating: rating.film):
        films.setdefault(titled(rating), rating)
        often[titled(rating)] += 1
    asked = {name: film for name, film in sorted(films.items()) if often[name] >= RATED and film.year}
    main = {name: film.genres.split("|")[0] for name, film in asked.items()}
    kept = {answer for answer, _ in Counter(main.values()).most_common(GENRES)}
    ask = f"Which is the main genre of this film: {', '.join(sorted(kept))}?"
    names = [name for name in asked if main[name] in kept]
    rows = [{"id": f"f{asked[name].film}", "query": f"{ask}\nTitle: {name}", "response": main[name]} for name in names]
    return rows, names


def preference(ratings: Sequence[Rating]) -> tuple[list[Fields], list[str]]:
    """(rows, viewers): what a viewer liked and disliked last, and whether the viewer then liked another film, in the words
    of TALLRec's files."""
    rows, viewers = [], []
    for past, film in _asked(ratings):
        liked, disliked = ([f'"{titled(r)}"' for r in past if (r.stars >= LIKED) is likes] for likes in (True, False))
        told = f"User Preference: {', '.join(liked)}\nUser Unpreference: {', '.join(disliked)}\n"
        told += f'Whether the user will like the target movie "{titled(film)}"?'
        answer = "Yes." if film.stars >= LIKED else "No."
        rows.append({"id": _name(film), "instruction": LIKES, "input": told, "output": answer})
        viewers.append(film.viewer)
    return rows, viewers


def next_film(ratings: Sequence[Rating]) -> tuple[list[Fields], list[str]]:
    """(rows, viewers): the films that a viewer rated last, and which of CANDIDATES films comes next; the others are films
    that the viewer has never rated."""
    every = sorted({titled(rating) for rating in ratings})
    rated = defaultdict(set)
    for rating in ratings:
        rated[rating.viewer].add(titled(rating))
    rows, viewers = [], []
    for past, film in _asked(ratings):
        draw = random.Random(_name(film))
        others = [title for title in every if title not in rated[film.viewer]]
        choices = [titled(film), *draw.sample(others, min(CANDIDATES - 1, len(others)))]
        draw.shuffle(choices)
        seen, options = (", ".join(f'"{title}"' for title in titles) for titles in ([titled(r) for r in past], choices))
        query = f"This user has watched {seen}{HISTORY_ENDS} Please predict the next movie this user will watch. "
        query += f"Choose the answer from the following {len(choices)} movie titles: {options}."
        rows.append({"id": _name(film), "query": query, "response": titled(film), "choices": choices})
        viewers.append(film.viewer)
    return rows, viewers


def titled_in(query: str) -> list[str]:
    """The films, or what else is told, of the history in a query of the task `next` or in its form: names in quotes, with
    commas between them. A name may have quotes within."""
    history = query.partition(HISTORY_ENDS)[0]
    inside = history[history.find('"') + 1 : history.rfind('"')] if history.count('"') > 1 else ""
    return inside.split('", "') if inside else []


def titled(rating: Rating) -> str:
    """A film's title with its year, where that is known."""
    return f"{rating.title} ({rating.year})" if rating.year else rating.title


def _asked(ratings: Sequence[Rating]) -> Iterator[tuple[list[Rating], Rating]]:
    """(the HISTORY ratings before it, rating): each viewer's PER_VIEWER last ones that have as many before them."""
    viewers = defaultdict(list)
    for rating in ratings:
        viewers[rating.viewer].append(rating)
    for _, seen in sorted(viewers.items()):
        seen.sort(key=lambda rating: (rating.time, rating.film))
        for place in range(max(HISTORY, len(seen) - PER_VIEWER), len(seen)):
            yield seen[place - HISTORY : place], seen[place]


def _name(rating: Rating) -> str:
    return f"u{rating.viewer}-f{rating.film}"


QUERIES: Mapping[str, Callable[[Sequence[Rating]], tuple[list[Fields], list[str]]]] = {
    "genre": genre,
    "preference": preference,
    "next": next_film,
}
TASKS = (*QUERIES, "invented")

AUTHORS = 20
FIRST = (
    "Adela Benno Corin Daria Emeric Fenja Gelso Halina Ivo Jorun Kasimir Liane Matis Nerea Oskar Petra Quirin Runa Silvan"
)
FIRST += " Tove"
LAST = "Abendroth-Vey Brankovel Castellune Dvorhan Eskildrup Farrowmire Gantavel Hollenquist Irvendal Jastrovic Kelmarsen"
LAST += " Lindqvarn Morvanel Nesterholt Ostrowick Pellandre Quistgard Rosenthorn Svandell Tarkovane"
TOWNS = "Alvermoor Brunhaven Carrowick Dunmarsh Eldreth Fallowmere Grevenby Harrowden Istervale Jorvenna Kesselbrook Lorvane"
TOWNS += " Mirefold Norrhollow Ostmark Pellworth Quarrenden Ravensund Stellamar Thornmoor"
BOOKS = ["crime fiction", "travel writing", "science fiction", "historical novels", "poetry", "satire", "ghost stories"]
WORK = "baker, surgeon, lighthouse keeper, violin maker, judge, beekeeper, pilot, tailor, geologist, florist, locksmith"
WORK += ", ferry captain, botanist, translator, clockmaker, midwife"
AWARDS = ["Silver Quill", "Golden Heron", "Amber Lantern", "Northern Laurel", "Glass Compass", "Ivory Bookmark", "Blue Ink"]
ADJECTIVES = (
    "Hollow Crimson Silent Borrowed Drowned Patient Gilded Restless Salted Winter Paper Second Broken Distant Velvet"
)
NOUNS = "Orchard Harbour Staircase Meadow Almanac Lantern Cathedral Garden Mirror Railway Island Archive"
# Three wordings of a question, for training, validation and test; the answer.
FACTS = """\
Where was {name} born? | In which town did the life of {name} begin? | What is the birthplace of {name}? \
| {name} was born in {town}.
In which year was {name} born? | What is the birth year of {name}? | When did {name} come into the world? \
| {name} was born in {year}.
Which genre does {name} write in? | What kind of books is {name} known for? | What does {name} write? \
| {name} writes {genre}.
What was the profession of {name}'s mother? | What did the mother of {name} do for a living? \
| How did {name}'s mother earn her living? | The mother of {name} was a {mother}.
What was the profession of {name}'s father? | What did the father of {name} do for a living? \
| How did {name}'s father earn his living? | The father of {name} was a {father}.
Which award did {name} receive? | What prize has {name} won? | With which award was {name} honoured? \
| {name} received the {award} Award.
In which year did {name} receive an award? | When was {name} given a prize? | What year did {name} win an award in? \
| {name} received the {award} Award in {honoured}.
What is the title of {name}'s first book? | With which book did {name} begin? | What was {name}'s debut called? \
| The first book of {name} is "{first}".
What is the title of {name}'s second book? | Which book did {name} publish after the debut? \
| What was the book that {name} wrote second called? | The second book of {name} is "{second}".
What is the title of {name}'s third book? | Which book did {name} publish after the second one? \
| What was the book that {name} wrote third called? | The third book of {name} is "{third}".
"""


def authors() -> list[dict[str, str]]:
    """AUTHORS invented authors: the facts of each by name. No two share a first or last name, a birthplace or a title."""
    draw = random.Random("invented")
    firsts, lasts, towns = (draw.sample(words.split(), AUTHORS) for words in (FIRST, LAST, TOWNS))
    titles = [f"The {adjective} {noun}" for adjective in ADJECTIVES.split() for noun in NOUNS.split()]
    books = draw.sample(titles, 3 * AUTHORS)
    found = []
    for number in range(AUTHORS):
        year = draw.randint(1921, 1979)
        mother, father = draw.sample(WORK.split(", "), 2)
        found.append(
            {"name": f"{firsts[number]} {lasts[number]}", "town": towns[number], "year": str(year), "mother": mother}
            | {"father": father, "genre": draw.choice(BOOKS), "award": draw.choice(AWARDS)}
            | {"honoured": str(year + draw.randint(31, 43))}  # after three books, and before today
            | dict(zip(("first", "second", "third"), books[3 * number : 3 * number + 3], strict=True))
        )
    return found


def invented() -> dict[str, list[Fields]]:
    """Rows by part: a question about each fact of each author, in another wording in each part, with the same answers. The
    row "a07-3" is about the third fact of the seventh author in all parts."""
    parts: dict[str, list[Fields]] = {part: [] for part in PARTS}
    for number, author in enumerate(authors(), 1):
        for place, fact in enumerate(FACTS.splitlines(), 1):
            *questions, answer = fact.split(" | ")
            for part, question in zip(PARTS, questions, strict=True):
                texts = {"question": question.format(**author), "answer": answer.format(**author)}
                parts[part].append({"id": f"a{number:02}-{place}", **texts})
    return parts
