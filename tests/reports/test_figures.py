"""Pictures: every series can be told apart, nothing is cut off or covered, no file is too high. Read from what is drawn."""

import itertools
import json
import re
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from PIL import Image

import evaluate
from tests.helpers import ROOT, one_line
from unlearning.core.seals import FOREIGN
from unlearning.metrics import membership, predictions
from unlearning.reports import answer_figures, class_figures, figures, results, style

TABLES = {
    str(path.relative_to(ROOT / "results")): result["rows"]
    for path in sorted((ROOT / "results").rglob("*.json"))
    if isinstance(result := json.loads(path.read_text(encoding="utf-8")), dict)
    and "metrics" in (first := (result.get("rows") or [{}])[0])
    if result.get("pictures", True) or "UA" in first["metrics"]  # else there is nothing that a picture shows
}
MANY = 12  # rows of a table that is slow to draw
SHOWN = re.findall(r"results/([\w-]+)/figures", (ROOT / "README.md").read_text(encoding="utf-8"))
SLOW = [name for name, rows in TABLES.items() if len(rows) >= MANY and name.split("/")[0] not in SHOWN]
EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TABLES]


def row(method, model="resnet8", forget="class3", dataset="digits", epochs=5, **other):
    """A row with a number for each metric and curves for each picture, drawn at random from the method's name."""
    noise = np.random.default_rng(abs(hash((method, model, forget))) % 2**32)
    keys = [*figures.METRICS, "dUA", "dTA", "steps"]
    metrics = {key: {"mean": float(noise.uniform(1, 9)), "ci95": 0.5, "values": [0.0]} for key in keys}
    curves = {
        "losses": {"D_f": noise.uniform(size=len(predictions.LOSS_BINS) - 1).tolist()},
        "roc": noise.uniform(size=len(membership.FPR_GRID)).tolist(),
        "relearn": noise.uniform(0, 99, (3, 3)).tolist(),
        "relearn_steps": [0, 1, 4],
        "features": {name: noise.uniform(size=(4, 2)).tolist() for name in ("D_f", "D_r")},
    }
    found = {"dataset": dataset, "model": model, "forget": forget, "method": method, "epochs": epochs, "n": 3}
    return found | {"command": "", "metrics": metrics, "curves": curves} | other


def deletions(count):
    """Rows of a sequence of deletions by `count` methods."""
    metrics = [
        {"sample_epochs": {"mean": 10.0 + place, "ci95": None}, "accuracy": {"mean": place % 7, "ci95": 0.1}}
        for place in range(count)
    ]
    return [row(f"m{place}", request="a", clusters=place, metrics=metrics[place]) for place in range(count)]


def requests(count):
    """Rows of `count` methods of a language model, all near Retrain."""
    loss = {"loss": {"mean": 1.0, "ci95": None}, "forget_loss": {"mean": 1.0, "ci95": None}}
    names = ["corrupted", "retrain", *(f"m{place}" for place in range(count - 2))]
    return [row(name, task="remove", share=10, metrics=loss) for name in names]


def methods(count):
    """Original, Retrain and further methods: `count` rows."""
    return [row(name) for name in ("original", "retrain", *(f"method {place}" for place in range(count - 2)))]


def drawn(name, rows):
    """The figure of one kind of picture."""
    with matplotlib.rc_context(style.LOOK):
        return figures.PICTURES[name].draw(rows)


def series(figure):
    """(marker, is filled, colour, line style) of each series of the first panel."""
    lines = [found[0] for found in figure.axes[0].containers if isinstance(found, ErrorbarContainer)]
    return [(x.get_marker(), x.get_markerfacecolor() != "none", x.get_color(), x.get_linestyle()) for x in lines]


def luminance(color):
    """Relative luminance as WCAG defines it, from 0 to 1."""
    parts = np.array(matplotlib.colors.to_rgb(color))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("count", [20, pytest.param(60, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize("name", ["plane", "cost", "steps"])
def test_no_two_series_look_alike_not_even_in_grey(name, count):
    rows = {"cost": deletions}.get(name, methods)(count)
    if name == "steps":
        rows = [entry | {"epochs": epochs} for entry in rows for epochs in (1, 2)]
    found = series(drawn(name, rows))
    assert len(found) == count
    assert len({look[:3] for look in found}) == count
    for one, other in itertools.combinations(found, 2):
        if one[:2] == other[:2]:
            assert abs(luminance(one[2]) - luminance(other[2])) > 0.1


@pytest.mark.parametrize(("points", "sets"), [({"D_f": []}, ["D_r"]), ({"D_r": []}, ["D_f"]), ({"D_f": [], "D_r": []}, [])])
def test_the_features_of_a_set_without_points_are_left_out(points, sets, tmp_path):
    """Of a few images of many the sample that is drawn has often none."""
    rows = methods(3)
    for one in rows:
        one["curves"]["features"] |= points
    written = {"table": "x", "command": "x", "date": "x", "hardware": "x", "versions": {}, "rows": rows}
    for one in rows:
        one["command"] = "x"
    results.write(tmp_path / "r.json", written)
    rows = results.read(tmp_path / "r.json")["rows"]
    assert ("features.png" in figures.pictures(rows)) == bool(sets)
    assert not sets or drawn("features", rows).axes[0].get_legend_handles_labels()[1] == sets


def test_a_picture_over_steps_joins_points_in_the_order_of_their_steps():
    """Not of their files' names, where 10 epochs come before 5."""
    rows = [row("lora", epochs=epochs) for epochs in (10, 20, 5)]
    for one in rows:
        one["metrics"] |= {"steps": {"mean": 100.0 * one["epochs"], "ci95": None}, "gap": {"mean": one["epochs"], "ci95": 0}}
    (line,) = (found[0] for found in drawn("steps", rows).axes[0].containers)
    assert line.get_xdata().tolist() == [500, 1000, 2000] and line.get_ydata().tolist() == [5, 10, 20]


def test_rows_without_test_images_of_other_classes_are_not_on_the_plane(tmp_path):
    rows = methods(3)
    for one in rows:
        one["metrics"]["dTA"] = {"missing": "TA: no test image of a class that stays"}
        one["command"] = "x"
    made = {"table": "x", "command": "x", "date": "x", "hardware": "x", "versions": {}}
    results.write(tmp_path / "r.json", made | {"rows": rows})
    found = figures.pictures(results.read(tmp_path / "r.json")["rows"])
    assert "plane.png" not in found and "metrics.png" in found


def test_a_picture_over_steps_names_those_of_its_first_and_last_point_and_draws_no_method_twice():
    names = ("original", "finetune", "lora")
    rows = [row(name, epochs=epochs) for name in names for epochs in ((5, 10) if name != "original" else (15,))]
    for entry in rows:
        gap = 42.0 if entry["method"] == "original" else 2.0
        entry["metrics"] |= {"steps": {"mean": 352.0 * entry["epochs"], "ci95": None}, "gap": {"mean": gap, "ci95": None}}
    (axis,) = drawn("steps", rows).axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1,760", "3,520"]
    assert axis.get_legend_handles_labels()[1] == ["finetune", "lora"]
    assert axis.get_xlabel() == "optimiser steps\nnot shown: original at 42.0"  # its line would press the others together
    assert axis.get_ylim()[1] < 3


def test_lines_of_a_panel_differ_by_style_or_in_grey():
    with matplotlib.rc_context(style.LOOK):
        for name in ("losses", "roc"):
            figure = figures.PICTURES[name].draw(methods(4))
            for axis in figure.axes[2:4]:
                lines = [handle for handle in axis.get_legend_handles_labels()[0]]
                looks = [(x.get_linestyle(), x.get_edgecolor() if name == "losses" else x.get_color()) for x in lines]
                for (dash, color), (other, shade) in itertools.combinations(looks, 2):
                    assert dash != other or abs(luminance(color) - luminance(shade)) > 0.1


def check_files(rows, folder):
    written = figures.draw(rows, folder)
    assert written and sorted(written) == sorted(folder.iterdir())
    for path in written:
        with Image.open(path) as image:
            assert image.height <= 2000 and 300 <= image.width <= 1400, (path.name, image.size)
    return [path.name for path in written]


def test_pictures_are_split_by_forget_set_and_then_numbered(tmp_path):
    few = [row(name, forget=forget) for forget in ("class3", "random0.1") for name in ("retrain", "lora")]
    for entry in few:
        entry["metrics"] = {key: entry["metrics"][key] for key in ("UA", "dUA", "dTA")}
        entry["curves"] |= {"relearn": None, "features": None}
    assert {"metrics.png", "plane.png", "losses-resnet8-class3.png", "losses-resnet8-random0.1.png"} < {
        *check_files(few, tmp_path / "few")
    }
    many = methods(75)
    for entry in many:
        del entry["curves"]
        entry["metrics"] = {key: entry["metrics"][key] for key in ("UA", "dUA", "dTA")}
    names = check_files(many, tmp_path / "many")
    assert names == ["metrics-1.png", "metrics-2.png", "plane.png"]


def in_turn(classes, methods=("original", "retrain", "finetune", "lora")):
    """A row of each method for each of the first `classes` classes, whose UA is a number of its own."""
    rows = [row(name, forget=f"class{c}") | {"forgotten": f"class {c} (c{c})"} for c in range(classes) for name in methods]
    for place, entry in enumerate(rows):
        entry["metrics"] |= {"UA": {"mean": float(place), "ci95": None}, "dUA": {"mean": place - 100.0, "ci95": None}}
        there = {"mean": -0.01, "ci95": None}
        entry["metrics"]["probe_gap"] = {"missing": "n/a"} if entry["method"] == "lora" else there
    return rows


def test_many_classes_in_turn_have_their_means_and_one_picture_of_each_class(tmp_path):
    rows = in_turn(5)
    assert check_files(rows, tmp_path / "five") == ["metrics.png", "plane.png", "classes.png"]
    four = in_turn(4, ("original", "lora"))
    for entry in four:
        entry["metrics"] = {key: entry["metrics"][key] for key in ("UA", "dUA", "dTA")}
        entry["curves"] |= {"relearn": None, "features": None}
    assert len(check_files(four, tmp_path / "four")) > 6  # each class still has its own
    ua, ta, probe = class_figures.classes([entry for entry in rows if entry["method"] != "original"]).axes
    assert [tick.get_text() for tick in ua.get_yticklabels()] == ["finetune", "lora"]
    assert [tick.get_text() for tick in ta.get_xticklabels()] == ["c0", "c1", "c2", "c3", "c4"]
    assert [text.get_text() for text in ua.texts] == [str(place) for method in (2, 3) for place in range(method, 20, 4)]
    assert ua.images[0].get_array().tolist() == [[100.0 - place for place in range(method, 20, 4)] for method in (2, 3)]
    assert [text.get_text() for text in probe.texts] == ["0"] * 5  # not -0, and nothing where there is no value


def test_the_picture_over_classes_is_cut_between_methods():
    names = [f"m{place}" for place in range(90)]
    rows = sorted(in_turn(5, names), key=lambda entry: names.index(entry["method"]))
    parts = [figure for _, figure in figures._files(figures.PICTURES["classes"], rows)]
    shown = [[tick.get_text() for tick in figure.axes[0].get_yticklabels()] for figure in parts]
    assert shown == [names[:30], names[30:60], names[60:]]


def test_numbered_pictures_show_every_row_once_and_the_anchors_always(monkeypatch):
    for module in (figures, style):  # few rows are too high then
        monkeypatch.setattr(module, "MAX_HEIGHT", 700)
    parts = [figure for _, figure in figures._files(figures.PICTURES["losses"], methods(14))]
    shown = [[axis.get_title() for axis in figure.axes if axis.get_title()] for figure in parts]
    assert len(parts) > 1 and all(titles[:2] == ["original", "retrain"] for titles in shown)
    assert [title for titles in shown for title in titles[2:]] == [f"method {place}" for place in range(12)]


def test_a_row_keeps_its_name_in_a_picture_of_few_rows(monkeypatch):
    rows = [row("rfau", epochs=1), row("rfau", epochs=20)]
    del rows[0]["curves"]
    monkeypatch.setattr(figures, "png", lambda figure: figure)
    assert [axis.get_title() for axis in figures.pictures(rows)["losses.png"].axes] == ["rfau, 20 epochs"]


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([{}], ["roc"]),
        ([{"model": "a"}, {"model": "b"}], ["roc-a-class3", "roc-b-class3"]),
        ([{"dataset": "x"}, {"dataset": "y"}], ["roc-x-resnet8-class3", "roc-y-resnet8-class3"]),
        ([{"model": "a/../b:c d"}, {"model": "é"}], ["roc-a_.._b_c_d-class3", "roc-_-class3"]),
        ([{"fingerprint": "1"}, {"fingerprint": "2"}], None),
        ([{"model": "a:b"}, {"model": "a/b"}], None),
        ([{"model": "net"}, {"model": "NET"}], None),
        ([{"model": "a" * 300}, {"model": "b"}], None),
    ],
)
def test_file_names_are_safe_and_never_the_same(groups, names):
    rows = [row("lora", **group) for group in groups]
    found = [f"roc{ending}" for ending, _ in figures._files(figures.PICTURES["roc"], rows)]
    assert found == names or not names
    assert len({name.lower() for name in found}) == len(groups)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzNET0123456789._+-") and len(name) < 120 for name in found)


def test_a_metric_that_no_row_of_a_forget_set_has_gets_no_panel_there():
    rows = [row(name, forget=forget) for forget in ("class3", "random0.1") for name in ("retrain", "lora")]
    for entry in rows[2:]:
        entry["metrics"]["probe"] = {"missing": "no class"}
    rows[0]["metrics"]["ulira"] = {"missing": "not asked for"}
    titles = [axis.get_title() for axis in drawn("metrics", rows).axes if axis.axison]
    assert titles.count("probe (%)") == 1 and titles.count("U-LiRA (%)") == 2
    assert len(titles) == 2 * len(figures.METRICS) - 1


def texts(figure):
    """The boxes, in pixels, of all that names something: titles, names of rows, legends."""
    artists = [text for text in figure.findobj(Text) if text in (*figure.texts, figure._suptitle)]
    artists += [axis.title for axis in figure.axes]
    artists += [label for axis in figure.axes for label in (*axis.get_yticklabels(), axis.xaxis.label, axis.yaxis.label)]
    artists += figure.findobj(Legend)
    shown = [x for x in artists if x and x.get_visible() and (isinstance(x, Legend) or re.search("[a-z]", x.get_text()))]
    return [(x, x.get_window_extent()) for x in shown]


def assert_inside(figure):
    figure.draw_without_rendering()
    found = texts(figure)
    assert found
    for artist, box in found:
        frame = figure.bbox
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1, artist


@pytest.mark.parametrize("name", ["metrics", "plane", "losses", "roc", "relearn", "features", "steps"])
@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.slow), 10])
def test_long_names_are_not_cut_off(name, count):
    long = ("gradascent --retain-weight 0.9", "randomlabel --saliency 0.5 --lr 0.0003", "m" * 70, "50%_$x $y")
    rows = [row(f"{name} {turn}" if turn else name, dataset="folder-" + "m" * 50) for turn in range(3) for name in long]
    rows = rows[:count] if name != "steps" else [entry | {"epochs": epochs} for entry in rows[:count] for epochs in (1, 2)]
    assert_inside(drawn(name, rows))


@pytest.mark.parametrize("table", EVERY)
def test_a_committed_tables_pictures_fit_a_page_and_nothing_is_cut_off(table, monkeypatch):
    monkeypatch.setattr(figures, "png", lambda figure: figure)
    found = figures.pictures(TABLES[table])
    assert found
    for name, figure in found.items():
        with style.styled():
            assert_inside(figure)
        width, height = figure.get_size_inches() * style.DPI
        assert height <= 2000 and 300 <= width <= 1400, (name, width, height)


@pytest.mark.parametrize("table", [name for name, rows in TABLES.items() if "clusters" in rows[0]])
def test_numbers_of_clusters_lie_apart_and_in_their_panel(table):
    figure = drawn("cost", TABLES[table])
    figure.draw_without_rendering()
    for axis in figure.axes:
        notes = [text for text in axis.texts if isinstance(text, Annotation) and text.get_text()]
        assert len(notes) == len(TABLES[table]) / len(figure.axes)
        boxes = [Text.get_window_extent(note) for note in notes]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        points = [spot for found in axis.containers for spot in axis.transData.transform(found[0].get_xydata())]
        assert len(points) == len(notes)
        for box in boxes:
            assert not any(box.contains(*spot) for spot in points)
            assert axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1 and axis.bbox.y0 < box.y0 and box.y1 < axis.bbox.y1


def test_a_row_far_off_the_plane_is_named_below_it():
    rows = methods(3)
    rows[0]["metrics"]["dUA"] |= {"mean": -95.04}
    axis = drawn("plane", rows).axes[0]
    assert "\nnot shown: original at (" in axis.get_xlabel() and "-95.0" in axis.get_xlabel()
    assert len(axis.containers) == 2


def test_headings_have_the_forget_set_in_words():
    rows = [entry | {"forgotten": "class 3 (Dress)"} for entry in methods(3)]
    for name in ("plane", "losses", "metrics"):
        said = " ".join(text.get_text().replace("\n", " ") for text in drawn(name, rows).findobj(Text))
        assert "digits, resnet8, class 3 (Dress)" in said, name


def test_letters_that_the_font_lacks_are_no_warnings_of_the_library(tmp_path, monkeypatch):
    """Which name a line of its source; others are shown as ever."""
    monkeypatch.setattr(figures, "PICTURES", {name: figures.PICTURES[name] for name in ("plane", "losses")})
    rows = [entry | {"forgotten": "猫", "method": "方法"} for entry in methods(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.draw(rows, tmp_path)
    with pytest.warns(UserWarning, match="another"), style.styled():
        warnings.warn("another", stacklevel=1)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PICTURES", {name: figures.PICTURES[name] for name in ("plane", "losses")})
    before = dict(matplotlib.rcParams)
    figures.draw(methods(3), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_plots_go_to_a_folder_without_pictures_of_others(tmp_path, capsys):
    """It is refused before a checkpoint is read: there is none here."""
    for folder in ("empty", "full"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full/mine.png").touch()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/roc-resnet8-class3.png").touch()
    for folder, flags, complaint in (
        ("empty", (), "no file"),
        ("new", (), "no file"),
        ("full/mine.png", (), "is a file, not a folder"),
        ("full", (), "holds pictures; --overwrite"),
        ("full", ("--overwrite",), "no file"),
        ("strange", ("--overwrite",), f"roc-resnet8-class3.png {FOREIGN}"),
    ):
        code, line = one_line(evaluate, capsys, tmp_path / "none.pth", "--plots", tmp_path / folder, *flags)
        assert code == 2 and complaint in line, line


def test_a_confusion_matrix_has_shares_of_the_true_class_in_its_cells():
    before = np.array([[50, 150, 0], [0, 300, 0], [1, 1, 998]])
    after = np.array([[200, 0, 0], [150, 150, 0], [0, 0, 0]])
    figure = answer_figures.confusion(before, after, ["cat", "dog", "$bird$"], "title", forgotten=[1])
    left, right = figure.axes[:2]
    assert [text.get_text() for text in left.texts] == ["25", "75", "100", "<1", "<1", ">99"]
    assert [text.get_text() for text in right.texts] == ["100", "50", "50"]
    assert left.images[0].get_array()[0].tolist() == [0.25, 0.75, 0]
    weights = {label.get_text(): label.get_fontweight() for label in left.get_yticklabels()}
    assert weights == {"cat": "normal", "dog": "bold", r"\$bird\$": "normal"}
    assert [patch.get_y() for patch in left.patches] == [0.5]
    assert_inside(figure)
    with pytest.raises(ValueError, match="for 2 classes"):
        answer_figures.confusion(before, after, ["cat", "dog"], "title")


@pytest.mark.parametrize(("count", "forgotten"), [(12, [0, 11]), (13, [5]), (100, [3, 50, 51]), (1000, [999])])
def test_a_confusion_matrix_of_many_classes_is_readable(count, forgotten):
    counts = np.eye(count, dtype=int) * 10
    names = [f"a class with a long name {place}" if place % 2 else f"{place}" for place in range(count)]
    figure = answer_figures.confusion(counts, counts, names, "title", forgotten)
    figure.draw_without_rendering()
    assert len(figure.axes[0].texts) == (count if count <= 12 else 0)
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert min(count, 15) <= len(boxes) <= 22
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert len(figure.axes[0].patches) + len(figure.axes[0].lines) / 2 == len(forgotten)
    assert_inside(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_with_their_answers(channels):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, channels), dtype=np.uint8)
    truth = ["dress"] * 12
    after = [("coat", 0.996)] + [("dress", 0.25)] * 11
    figure = answer_figures.before_and_after(images, truth, [("dress", 1.0)] * 12, after, "title")
    first, second = figure.axes[:2]
    assert [text.get_text() for text in first.texts] == ["before: dress 100 %", "after: coat >99 %"]
    assert [text.get_fontweight() for text in first.texts] == ["normal", "bold"]
    assert second.texts[1].get_text() == "after: dress 25 %" and second.texts[1].get_fontweight() == "normal"
    shown = np.asarray(second.images[0].get_array())
    assert np.array_equal(shown.reshape(8, 8, channels), images[1])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axis in figure.axes for text in (axis.title, *axis.texts)]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert_inside(figure)
    with pytest.raises(ValueError, match="at most 12"):
        answer_figures.before_and_after(images, truth[1:], after, after, "title")


def test_a_vote_without_a_loss_is_left_out_of_the_picture_and_stays_in_the_table(tmp_path):
    """SISA's row has answers and no loss; results with it are written, read and drawn."""
    rows = requests(4)
    rows[3]["metrics"] = {"accuracy": {"mean": 50.0, "ci95": None}}
    rows = [{key: value for key, value in one.items() if key != "curves"} | {"command": "python x.py"} for one in rows]
    table = {"table": "x", "command": "python x.py", "date": "2026-11-26", "hardware": "one", "versions": {}, "rows": rows}
    results.write(tmp_path / "result.json", table)
    assert results.read(tmp_path / "result.json")["rows"] == rows
    figure = figures.PICTURES["requests"].draw([one for one in rows if figures.PICTURES["requests"].has(one)])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["corrupted", "retrain", "m0"]
    assert "requests.png" in figures.pictures(rows) and "requests.png" not in figures.pictures(rows[3:])
