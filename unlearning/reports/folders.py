"""A table's folder of results, drawn from its result.json alone, and the page that lists all of them.

results/README.md
results/<table>/result.json, README.md, rows.csv, tables.tex, figures/*.png
results/benchmarks/<name>.json
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.files import write_bytes
from unlearning.core.locks import check_place, locked, recover_within
from unlearning.core.paths import named
from unlearning.core.words import encoded, first_line, listed, say
from unlearning.reports import results, tables

FILES = {"json": "result.json", "markdown": "README.md", "csv": "rows.csv", "latex": "tables.tex"}  # form: file
DRAWN = ("markdown", "csv", "latex")  # forms of texts that are drawn from the result
UNDRAWABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)  # of what is no result
BENCHMARKS = "benchmarks"
PAGE = "README.md"
HEAD = "# Results\n\nEach number comes from a result.json, and tables and pictures are drawn from it alone.\n"


def place(path: Path) -> tuple[Path, Path]:
    """(result file, its folder) of a folder of results or of a result file; x.json belongs to the folder x.

    Raises UserError for a file whose name doesn't end in .json, and for a folder that isn't there.
    """
    if path.is_dir():
        return path / FILES["json"], path
    if not path.suffix and not os.path.lexists(path):
        raise UserError(f"there is no folder {path}")
    if path.suffix != ".json":
        raise UserError(f"{path}: the name of a result file ends in .json")
    return path, named(path.parent) if path.name == FILES["json"] else path.with_suffix("")


def check_ours(folder: Path, read: Path | None = None) -> None:
    """Raise UserError where a folder, which is to be written, has files that this project hasn't written there, or that
    somebody has changed since, for nothing replaces these.

    read: the result that is read now, and isn't replaced. Texts of earlier versions have no seal: they are known again by
    being what is drawn from the result beside them.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, where a folder of results is to be")
    check_place(folder)
    file = folder / FILES["json"]
    strange = []
    if file.exists():
        results.read(file)
        strange = [file] if file != read and seals.is_changed(file) else []
    texts = [path for path in (folder / FILES[form] for form in DRAWN) if os.path.lexists(path) and not seals.is_own(path)]
    figures = folder / "figures"
    strange += [path for path in texts if not _is_of_earlier_version(path, file)] + strange_pictures(figures)
    strange += [figures] if os.path.lexists(figures) and not figures.is_dir() else []
    if strange:
        names = listed(path.relative_to(folder).as_posix() for path in strange)
        raise UserError(f"{folder} has files of its own, or changed ones ({names}): move or delete them, or write elsewhere")


def _is_of_earlier_version(path: Path, result: Path) -> bool:
    """True for a text without a seal that says what is drawn from the result."""
    if not (path.is_file() and result.is_file()):
        return False
    try:
        content = path.read_bytes()
        return seals.split(content)[1] is None and content == encoded(_drawings(results.read(result))[1][path.name])
    except (UserError, *UNDRAWABLE):
        return False


def strange_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder that are called as pictures of rows are, and that this project hasn't drawn."""
    found = [path for path in sorted(folder.glob("*.png")) if not seals.is_own(path)]
    if not found:
        return []
    from unlearning.reports import figures  # takes a second

    return [path for path in found if path.name.split(".")[0].split("-")[0] in figures.PICTURES]


@contextlib.contextmanager
def held(folder: Path, read: Path | None = None) -> Iterator[None]:
    """Hold the lock on a table's folder, cleared of what killed processes have left in it. Arguments and errors are those of
    `check_ours`."""
    with locked(folder):
        recover_within(folder, *FILES.values())
        recover_within(folder / "figures", "*.png")
        check_ours(folder, read)
        yield


def write(result: dict[str, Any], folder: Path) -> None:
    """Write every file of a table's folder, the result itself first, which may have taken days. Only for who holds it."""
    results.write(folder / FILES["json"], result)
    _write_drawn(_drawings(result), folder)


def _drawings(result: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What is drawn from a result: pictures by their names in figures/, and texts by the names of their files."""
    from unlearning.reports import figures  # takes a second

    pictures = figures.pictures(result["rows"]) if result.get("pictures", True) else {}
    texts = {FILES["markdown"]: page(result, list(pictures))}
    return pictures, texts | {FILES[form]: tables.FORMS[form](result) for form in ("csv", "latex")}


def _write_drawn(drawn: tuple[dict[str, bytes], dict[str, str]], folder: Path) -> None:
    """Write `_drawings` into a folder; pictures that its page showed and this table no longer has go. Raises UserError where
    a picture would replace one that wasn't drawn here."""
    pictures, texts = drawn
    before = _shown(folder / FILES["markdown"])
    seals.check_own(folder / "figures" / name for name in pictures)
    for name, content in pictures.items():
        write_bytes(folder / "figures" / name, content)
    for name in set(before) - pictures.keys():
        if seals.is_own(folder / "figures" / name):
            (folder / "figures" / name).unlink()
    for form in DRAWN:
        write_bytes(folder / FILES[form], seals.sealed(encoded(texts[FILES[form]]), form))


def _shown(page: Path) -> list[str]:
    """The names of the pictures that a folder's page shows."""
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    return re.findall(r"\(figures/([^/)]+\.png)\)", text)


def redraw(path: Path, overwrite: bool) -> Path:
    """Draw the result file or folder `path` again: its folder.

    Raises UserError where another result or somebody's own files lie there already, and for what is no result.
    """
    file, folder = place(path)
    result = results.read(file)
    there = folder / FILES["json"]
    check_ours(folder, file)
    results.say_if_changed(file)
    with held(folder, file):
        if not overwrite and there != file and there.exists() and results.read(there) != result:
            raise UserError(f"{there} is another result; --overwrite replaces it")
        try:
            drawn = _drawings(result)
        except UNDRAWABLE as error:
            raise UserError(
                f"{file} is not a result that can be drawn ({type(error).__name__}: {first_line(error)})"
            ) from None
        if there != file:
            results.write(there, result)
        _write_drawn(drawn, folder)
    return folder


def page(result: dict[str, Any], pictures: list[str]) -> str:
    """The Markdown page of a table's folder. pictures: names of the files in figures/."""
    lines = [f"# {tables.in_markdown(result['table'])}", ""]
    lines += [tables.in_markdown(result["about"]), ""] if "about" in result else []
    lines += [f"![{Path(name).stem}](figures/{name})" for name in pictures if name.startswith("metrics")]
    others = [f"[{Path(name).stem}](figures/{name})" for name in pictures if not name.startswith("metrics")]
    lines += ["", f"More pictures: {', '.join(others)}."] if others else []
    return "\n".join([*lines, "", ""]) + tables.markdown(result)


def tables_below(root: Path) -> list[Path]:
    """The folders of the results in the folder `root` and in its own, such as results/classes/, which one scenario filled:
    sorted by name."""
    return sorted(path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{FILES['json']}"))


def index(root: Path) -> str:
    """The Markdown page of all results below the folder `root`, from their JSON files alone: what each shows and what made
    it. A file that can't be read is left out, and named on stderr."""
    names = [folder.relative_to(root).as_posix() for folder in tables_below(root)]
    found = [(root / name / FILES["json"], name, f"{name}/") for name in names]
    speeds = [(path, path.stem, f"{BENCHMARKS}/{path.name}") for path in sorted((root / BENCHMARKS).glob("*.json"))]
    header = ["result", "what", "rows", "last command, of the version that made it", "hardware", "date", "commit"]
    align = ["left", "left", "right", "left", "left", "right", "left"]
    lines = [HEAD]
    for title, files in (("Tables", found), ("Benchmarks", speeds)):
        listed = [line for file in files if (line := _listed(*file))]
        lines += [f"## {title}", "", tables.drawn(header, listed, "pipe", align), ""] if listed else []
    return "\n".join(lines)


def _listed(path: Path, name: str, link: str) -> list[str] | None:
    """A line of the index: of a file that several runs have made, the last of them. None where it can't be read."""
    try:
        result = results.read_json(path)
        count = str(len(result["rows"])) if "rows" in result else "–"
        made = [tables.code(str(result["command"])), *(str(result.get(key, "–")) for key in ("hardware", "date", "commit"))]
        return [f"[{name}]({link})", str(result.get("about", "–")), count, *made]
    except (UserError, LookupError, TypeError, AttributeError) as error:
        say(f"left out of the list of results: {path} ({error})")
        return None
