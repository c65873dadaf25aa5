"""A table's folder of results, drawn from its result.json alone, and the page that lists all of them.

results/README.md
results/<table>/result.json, README.md, rows.csv, tables.tex, figures/*.png
results/benchmarks/<name>.json
"""

from pathlib import Path
from typing import Any

from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.reports import results, tables

FILES = {"json": "result.json", "markdown": "README.md", "csv": "rows.csv", "latex": "tables.tex"}  # form: file
BENCHMARKS = "benchmarks"
PAGE = "README.md"


def place(path: Path) -> tuple[Path, Path]:
    """(result file, its folder) of a folder of results or of a result file; x.json belongs to the folder x."""
    if path.is_dir():
        return path / FILES["json"], path
    return path, path.parent if path.name == FILES["json"] else path.with_suffix("")


def write(result: dict[str, Any], folder: Path) -> None:
    """Write every file of a table's folder. Pictures that an earlier, smaller table left there, under other names, go."""
    from unlearning.reports import figures  # takes a second

    pictures = figures.draw(result["rows"], folder / "figures") if result.get("pictures", True) else []
    for path in set((folder / "figures").glob("*.png")) - set(pictures):
        if path.stem.split("-")[0] in figures.PICTURES:
            path.unlink()
    for form, name in FILES.items():
        text = page(result, [path.name for path in pictures]) if form == "markdown" else tables.FORMS[form](result)
        write_text(folder / name, text)


def redraw(path: Path, overwrite: bool) -> Path:
    """Draw the result file or folder `path` again: its folder. Raises UserError where another result lies there already."""
    file, folder = place(path)
    result = results.read(file)
    there = folder / FILES["json"]
    if there.exists() and not overwrite and results.read(there) != result:
        raise UserError(f"{there} is another result; --overwrite replaces it")
    write(result, folder)
    return folder


def page(result: dict[str, Any], pictures: list[str]) -> str:
    """The Markdown page of a table's folder. pictures: names of the files in figures/."""
    lines = [f"# {result['table']}", ""]
    lines += [result["about"], ""] if "about" in result else []
    lines += [f"![{Path(name).stem}](figures/{name})" for name in pictures if name.startswith("metrics")]
    others = [f"[{Path(name).stem}](figures/{name})" for name in pictures if not name.startswith("metrics")]
    lines += ["", f"More pictures: {', '.join(others)}."] if others else []
    return "\n".join([*lines, "", ""]) + tables.markdown(result)


def index(root: Path) -> str:
    """The Markdown page of all results below the folder `root`, from their JSON files alone: what each shows and what made
    it."""
    rows = [_listed(path, path.parent.name, f"{path.parent.name}/") for path in sorted(root.glob(f"*/{FILES['json']}"))]
    speeds = [_listed(path, path.stem, f"{BENCHMARKS}/{path.name}") for path in sorted((root / BENCHMARKS).glob("*.json"))]
    header = ["result", "what", "rows", "command", "hardware", "date", "commit"]
    align = ["left", "left", "right", "left", "left", "right", "left"]
    lines = ["# Results", "", "Each number comes from a result.json, and tables and pictures are drawn from it alone.", ""]
    for title, listed in (("Tables", rows), ("Benchmarks", speeds)):
        lines += [f"## {title}", "", tables.drawn(header, listed, "pipe", align), ""] if listed else []
    return "\n".join(lines)


def _listed(path: Path, name: str, link: str) -> list[str]:
    """A line of the index: of a file that several runs have made, the last of them."""
    result = results.read_json(path)
    count = str(len(result["rows"])) if "rows" in result else "–"
    made = [f"`{result['command']}`", *(result.get(key, "–") for key in ("hardware", "date", "commit"))]
    return [f"[{name}]({link})", result.get("about", "–"), count, *made]
