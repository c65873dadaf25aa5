"""A table's folder of results, drawn from its result.json alone, and the page that lists all of them.

results/README.md
results/<table>/result.json, README.md, rows.csv, tables.tex, figures/*.png
results/benchmarks/<name>.json
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearning.core.errors import UserError
from unlearning.core.files import first_line, recover_within, write_bytes, write_text
from unlearning.core.locks import locked
from unlearning.core.words import say
from unlearning.reports import results, tables

FILES = {"json": "result.json", "markdown": "README.md", "csv": "rows.csv", "latex": "tables.tex"}  # form: file
STARTS = {"csv": "dataset,model,forget,method,epochs,n,command", "latex": r"% \usepackage{booktabs,graphicx}"}  # of ours
BENCHMARKS = "benchmarks"
PAGE = "README.md"
HEAD = "# Results\n\nEach number comes from a result.json, and tables and pictures are drawn from it alone.\n"


def place(path: Path) -> tuple[Path, Path]:
    """(result file, its folder) of a folder of results or of a result file; x.json belongs to the folder x.

    Raises UserError for a file whose name doesn't end in .json.
    """
    if path.is_dir():
        return path / FILES["json"], path
    if path.suffix != ".json":
        raise UserError(f"{path}: the name of a result file ends in .json")
    return path, path.parent if path.name == FILES["json"] else path.with_suffix("")


def check_ours(folder: Path) -> None:
    """Raise UserError where a folder, which is to be written, has files that this project hasn't written there, for nothing
    replaces these: the result is read, and the others say by their beginning whose they are."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, where a folder of results is to be")
    if (folder / FILES["json"]).exists():
        results.read(folder / FILES["json"])
    strange = [FILES["markdown"]] if (folder / FILES["markdown"]).exists() and _drawn(folder) is None else []
    strange += [FILES[form] for form, start in STARTS.items() if not _starts_with(folder / FILES[form], start)]
    if strange:
        raise UserError(f"{folder} has files of its own ({', '.join(strange)}): move them elsewhere, or write elsewhere")


def _starts_with(path: Path, start: str) -> bool:
    """True of a text file with this beginning, and where there is nothing."""
    if not path.exists():
        return True
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(len(start)) == start
    return False


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on a table's folder, cleared of what killed processes have left in it. Raises as `check_ours`."""
    with locked(folder):
        for each in (folder, folder / "figures"):
            recover_within(each)
        check_ours(folder)
        yield


def write(result: dict[str, Any], folder: Path) -> None:
    """Write every file of a table's folder, the result itself first, which may have taken days. Only for who holds it."""
    before = _drawn(folder) or []
    write_text(folder / FILES["json"], results.dump(result))
    _write_drawn(_drawings(result), folder, before)


def _drawings(result: dict[str, Any]) -> tuple[dict[str, memoryview], dict[str, str]]:
    """What is drawn from a result: pictures by their names in figures/, and texts by the names of their files."""
    from unlearning.reports import figures  # takes a second

    pictures = figures.pictures(result["rows"]) if result.get("pictures", True) else {}
    texts = {FILES["markdown"]: page(result, list(pictures))}
    return pictures, texts | {FILES[form]: tables.FORMS[form](result) for form in ("csv", "latex")}


def _write_drawn(drawn: tuple[dict[str, memoryview], dict[str, str]], folder: Path, before: list[str]) -> None:
    """Write `_drawings` into a folder. before: the pictures that its page showed; those that this table no longer has go.

    Raises UserError where a picture would replace one that neither was there before nor says that it was drawn here.
    """
    from unlearning.reports import style  # matplotlib

    pictures, texts = drawn
    style.check_own(folder / "figures" / name for name in pictures.keys() - set(before))
    for name, content in pictures.items():
        write_bytes(folder / "figures" / name, content)
    for name in set(before) - pictures.keys():
        (folder / "figures" / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def _drawn(folder: Path) -> list[str] | None:
    """The pictures that the folder's page shows; None where that page isn't one of this project's."""
    page, file = folder / FILES["markdown"], folder / FILES["json"]
    if not (page.is_file() and file.is_file()):
        return None
    text, name = page.read_text(encoding="utf-8", errors="replace"), results.read_json(file).get("table")
    ours = text.startswith(f"# {tables.in_markdown(str(name))}\n")
    return re.findall(r"\(figures/([^/)]+\.png)\)", text) if ours else None


def redraw(path: Path, overwrite: bool) -> Path:
    """Draw the result file or folder `path` again: its folder.

    Raises UserError where another result or somebody's own files lie there already, and for what is no result.
    """
    file, folder = place(path)
    result = results.read(file)
    there = folder / FILES["json"]
    check_ours(folder)
    with held(folder):
        if not overwrite and there != file and there.exists() and results.read(there) != result:
            raise UserError(f"{there} is another result; --overwrite replaces it")
        try:
            drawn = _drawings(result)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UserError(
                f"{file} is not a result that can be drawn ({type(error).__name__}: {first_line(error)})"
            ) from None
        before = _drawn(folder) or []
        write_text(there, results.dump(result))
        _write_drawn(drawn, folder, before)
    return folder


def page(result: dict[str, Any], pictures: list[str]) -> str:
    """The Markdown page of a table's folder. pictures: names of the files in figures/."""
    lines = [f"# {tables.in_markdown(result['table'])}", ""]
    lines += [tables.in_markdown(result["about"]), ""] if "about" in result else []
    lines += [f"![{Path(name).stem}](figures/{name})" for name in pictures if name.startswith("metrics")]
    others = [f"[{Path(name).stem}](figures/{name})" for name in pictures if not name.startswith("metrics")]
    lines += ["", f"More pictures: {', '.join(others)}."] if others else []
    return "\n".join([*lines, "", ""]) + tables.markdown(result)


def index(root: Path) -> str:
    """The Markdown page of all results below the folder `root`, from their JSON files alone: what each shows and what made
    it. A file that can't be read is left out, and named on stderr."""
    found = [(path, path.parent.name, f"{path.parent.name}/") for path in sorted(root.glob(f"*/{FILES['json']}"))]
    speeds = [(path, path.stem, f"{BENCHMARKS}/{path.name}") for path in sorted((root / BENCHMARKS).glob("*.json"))]
    header = ["result", "what", "rows", "command", "hardware", "date", "commit"]
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
