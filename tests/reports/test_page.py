"""The page for whoever asked to be forgotten, from a result made by hand: what it says, and that nothing in it can act."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlearning.reports import page
from unlearning.reports.answers import Account, Answers, Asked, File, unlearned

HOSTILE = """<script>document.title = 'broken'</script> & "x" '</td>"""
VOID = {"meta", "img", "br"}


class Read(HTMLParser):
    """A page as tags with attributes, text, and cells of tables; fails where tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.tables = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append((dict(attrs)["class"], []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][1][-1][-1] = self.tables[-1][1][-1][-1].strip()

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][1][-1][-1] += data

    def of(self, kind):
        """The tables of a class, each as rows of cells."""
        return [rows for name, rows in self.tables if name == kind]


def metric(mean, ci95=None):
    return {"mean": mean, "ci95": ci95, "values": [mean]}


def metrics(*seven):
    return {
        key: metric(value) for key, value in zip(("UA", "RA", "TA", "MIA", "gap", "probe", "seconds"), seven, strict=True)
    }


def file(method, seed=0, name=None):
    path = Path(name or f"{method}_s{seed}.pth")
    return File(path, method, f"{ord(method[0]):02x}" * 32, seed, f"python {method}.py", "a CPU", "2025-01-02", False, True)


def make(answered, name="ant", count=3, classes=("ant", "bee", "cat"), **fields):
    """A result of three rows and their accounts: four of ten images of class 0 are forgotten.

    answered: after unlearning, how many of the four each class was answered for.
    """
    classes = [name, *classes[1:]]
    images = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    digests = "d" * 64, "f" * 64
    asked = Asked(4, 30, [(name, 4, 10)], *digests, classes, [], images, [name] * 4, False)
    test = np.diag([5] * count)

    def answers(method, row):
        forgotten = np.zeros((count, count), dtype=np.int64)
        forgotten[0, : len(row)] = row
        picked = [classes[c] for c, n in enumerate(row) for _ in range(n)]
        return Answers(file(method), test, forgotten, [(c, 0.25) for c in picked], False)

    before = answers("original", (4, 0, 0))
    after = {"original": before, "retrain": answers("retrain", (1, 2, 1)), "lora": answers("lora", answered)}
    numbers = {
        "original": metrics(0, 99, 98, 1, 50, 97, 60.25),
        "retrain": metrics(75.5, 96, 95, 70, 0, 10, 55.5),
        "lora": metrics(25, 94, 93, 60, 12.345, 80, 2.5) | {"gap": metric(12.345, 0.5)},
    }
    common = {"dataset": "insects", "model": "resnet8", "forget": "file1a2b3c4d", "forgotten": "list 1a2b3c4d", "n": 1}
    rows = [
        common | {"method": m, "epochs": 5, "command": f"python {m}.py", "device": "a CPU", "metrics": numbers[m]} | fields
        for m in after
    ]
    run = {"command": "python evaluate.py", "date": "2025-01-03", "hardware": "a CPU", "versions": {"torch": "2.11"}}
    accounts = [Account(asked, before, answers, after.get("retrain"), (answers.file,)) for answers in after.values()]
    return {"table": "evaluate", **run, "attack": "svc", "rows": rows}, accounts


def without(result, accounts, *methods):
    """The result without the rows of some methods; no row then knows an original, if that is one of them."""
    kept = [i for i, account in enumerate(accounts) if account.method not in methods]
    accounts = [replace(accounts[i], before=None) if "original" in methods else accounts[i] for i in kept]
    accounts = [replace(account, retrained=None) if "retrain" in methods else account for account in accounts]
    return result | {"rows": [result["rows"][i] for i in kept]}, accounts


def test_of_many_names_some_are_shown_and_all_are_in_the_digest():
    result, accounts = make((1, 3, 0))
    names = [f"train/ant/{i:02}.png" for i in range(23)]
    accounts = [replace(one, asked=replace(one.asked, names=names)) for one in accounts]
    words = Read(page.html(result, accounts)).words
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    assert f"Names{', '.join(names[:20])} and 3 more Names, SHA-256{digest} Positions" in words


def test_counts_of_a_sample_are_not_those_of_the_whole_request():
    """Four of the forget set's images were scored: of 4 the page says nothing, of 40 that they are some of these."""
    result, accounts = make((1, 3, 0))
    assert "that were scored" not in (words := Read(page.html(result, accounts)).words) and "images, 4 of" not in words
    accounts = [replace(one, asked=replace(one.asked, count=1040, per_class=[("ant", 1040, 1040)])) for one in accounts]
    words = Read(page.html(result, accounts)).words
    assert "lora: 1 of the 4 forgotten training images that were scored, of 1,040, are still answered" in words
    assert "Forgotten training images, 4 of 1,040" in words


def test_it_says_what_was_asked_and_what_was_measured():
    read = Read(page.html(*make((1, 3, 0))))
    for said in (
        "insects, resnet8, list 1a2b3c4d",
        "4 of 30 training images (13.3 %)",
        "ant: 4 of 10",
        "d" * 64,
        "lora: 1 of the 4 forgotten training images are still answered with their own class. Of the original's answers 4 "
        "were. Of the answers of Retrain, which never saw them, 1 are. The average gap from Retrain is 12.35 ± 0.50 points.",
        "Measured on 2025-01-03",
        "python lora.py",
        "torch 2.11",
        "one network",
        "From the features of lora a probe still reads 80.00 %",
    ):
        assert said in read.words, said
    (numbers,), (columns,), (files,) = read.of("numbers"), read.of("columns"), read.of("files")
    assert numbers[0][3:] == ["UA %", "RA %", "TA %", "MIA-Efficacy %", "average gap", "probe %", "seconds"]
    assert numbers[3] == ["lora", "5", "1", "25.00", "94.00", "93.00", "60.00", "12.35 ± 0.50", "80.00", "2.5"]
    assert [row[0] for row in columns[1:]] == numbers[0][3:]
    assert columns[1][2] == "Retrain's, 75.50, not 100" and columns[5][2] == "0, as Retrain has by definition"
    assert files[3] == ["lora_s0.pth", "lora", "0", "2025-01-02", "6c" * 32]


def test_the_deviation_over_draws_stands_beside_mia():
    result, accounts = make((1, 3, 0))
    for row, value in zip(result["rows"], (0.5, 36.6, 29.8), strict=True):
        row["metrics"]["MIA_draw_sd"] = metric(value)
    read = Read(page.html(result, accounts))
    (numbers,), (columns,) = read.of("numbers"), read.of("columns")
    place = numbers[0].index("MIA-Efficacy %")
    assert [row[place : place + 3] for row in numbers] == [
        ["MIA-Efficacy %", "MIA sd over draws", "average gap"],
        ["1.00", "0.50", "50.00"],
        ["70.00", "36.60", "0.00"],
        ["60.00", "29.80", "12.35 ± 0.50"],
    ]
    assert next(row for row in columns if row[0] == "MIA sd over draws")[2] == "0: all draws say the same"


def test_matrices_show_every_answer_of_original_method_and_retrain():
    read = Read(page.html(*make((1, 3, 0))))
    forgotten, before, after = read.of("matrix")
    assert forgotten == [
        ["true class", "network", "0", "1", "2"],
        ["ant", "original", "4", "·", "·"],
        ["ant", "lora", "1", "3", "·"],
        ["ant", "retrain", "1", "2", "1"],
    ]
    assert before == after
    assert after[1:] == [["ant", "5", "·", "·"], ["bee", "·", "5", "·"], ["cat", "·", "·", "5"]]


def test_whole_classes_are_marked_and_many_classes_get_a_matrix_for_each_network():
    result, accounts = make((1, 3, 0))
    asked = replace(accounts[0].asked, whole=[0], per_class=[(name, 4, 4) for name in "abcde"])
    read = Read(page.html(result, [replace(account, asked=asked) for account in accounts]))
    original, lora, retrain, *tests = read.of("matrix")
    assert [shown[1] for shown in (original, lora, retrain)] == [
        ["▸ ant", "4", "·", "·"],
        ["▸ ant", "1", "3", "·"],
        ["▸ ant", "1", "2", "1"],
    ]
    assert len(tests) == 2 and all([row[0][0] for row in shown[1:]] == ["▸", "b", "c"] for shown in tests)
    assert "Forgotten training images, after: lora (1 of 4 answered with their own class)" in read.words


def test_many_classes_are_folded_and_no_image_is_lost():
    result, accounts = make((1, 3, 0), count=40, classes=[f"c{i}" for i in range(40)])
    rng = np.random.default_rng(0)
    tests = np.diag([9] * 40), np.diag([9] * 40)
    tests[1][30] = rng.multinomial(9, [1 / 40] * 40)  # what changed has a row of its own
    before = replace(accounts[2].before, test=tests[0])
    accounts[2] = replace(accounts[2], before=before, after=replace(accounts[2].after, test=tests[1]))
    _, old, new = Read(page.html(result, accounts)).of("matrix")
    for shown in (old, new):
        assert len(shown) == page.NAMED + 2 and shown[-1][0] == shown[0][-1] == "other"
        assert sum(int(cell) for row in shown[1:] for cell in row[1:] if cell != "·") == 360
    assert {"ant", "c30"} <= {row[0] for row in new}
    assert new[[row[0] for row in new].index("c30")] != old[[row[0] for row in old].index("c30")]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_shown_as_they_are_each_with_its_answers(channels):
    result, accounts = make((1, 3, 0))
    asked = replace(accounts[0].asked, images=accounts[0].asked.images[..., :channels])
    read = Read(page.html(result, [replace(account, asked=asked) for account in accounts]))
    shown = [attributes["src"] for tag, attributes in read.tags if tag == "img"]
    assert len(shown) == 4 and "holds images of the forget set" in read.words
    for source, image in zip(shown, asked.images, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))
        assert np.array_equal(pixels, image.squeeze(-1) if channels == 1 else image)
    assert "true class: ant original ant (25 %) retrain bee (25 %) lora bee (25 %)" in read.words


def test_without_images_there_is_none():
    result, accounts = make((1, 3, 0))
    asked = replace(accounts[0].asked, images=accounts[0].asked.images[:0], truth=[])
    text = page.html(result, [replace(account, asked=asked) for account in accounts])
    assert "<img" not in text and "base64" not in text and "holds images" not in text


def test_what_is_missing_is_said_in_words():
    made = make((1, 3, 0))
    read = Read(page.html(*without(*made, "retrain")))
    assert "No Retrain was found" in read.words and "Retrain's, which is not known here" in read.words
    assert "There is no Retrain to compare with" in read.words
    read = Read(page.html(*without(*made, "original")))
    assert "No Original was found" in read.words and len(read.of("matrix")) == 2
    read = Read(page.html(*without(*made, "retrain", "original")))
    assert "No Original was found" in read.words and "No Retrain was found" in read.words
    assert read.of("matrix")[0][1:] == [["ant", "lora", "1", "3", "·"]]
    read = Read(page.html(*without(*made, "retrain", "lora")))
    assert "nothing was unlearned" in read.words and not read.of("matrix")
    read = Read(page.html(*without(*made, "lora")))  # Retrain has forgotten too
    assert "retrain: 1 of the 4" in read.words and len(read.of("matrix")) == 3
    result, accounts = made
    result["rows"][2]["metrics"]["probe"] = {"missing": "probe: no class is forgotten as a whole"}
    assert "n/a: probe: no class is forgotten as a whole." in Read(page.html(result, accounts)).words


def test_every_seed_s_file_is_named():
    result, accounts = make((1, 3, 0))
    accounts[2] = replace(accounts[2], files=(file("lora", 0), file("lora", 7)))
    result["rows"][2]["n"] = 2
    (files,) = Read(page.html(result, accounts)).of("files")
    assert [row[0] for row in files[1:]] == ["original_s0.pth", "retrain_s0.pth", "lora_s0.pth", "lora_s7.pth"]


def test_retrain_is_a_method_only_where_there_is_no_other():
    reported = list(zip(*[made if i else made["rows"] for i, made in enumerate(make((1, 3, 0)))], strict=True))
    assert [account.method for _, account in unlearned(reported)] == ["lora"]
    assert [account.method for _, account in unlearned(reported[:2])] == ["retrain"]


def hostile(text=HOSTILE):
    """A page whose every text from outside is, or ends with, this one."""
    result, accounts = make((1, 3, 0), name=text, dataset=text, model=text, forgotten=text)
    for row in result["rows"]:
        row["method"] += text
        row["metrics"]["probe"] = {"missing": text}
        row["metrics"]["MIA"] = {"missing": text, "cell": text}
    outside = {"command": text, "device": text, "date": text}
    for i, account in enumerate(accounts):
        path = Path(f"<b>{account.method}{text.replace('/', '')}\udcff.pth")
        named = replace(account.after.file, **outside, path=path)
        after = replace(account.after, file=named)
        accounts[i] = replace(account, before=accounts[0].after if i else after, after=after, files=(named,))
    result |= {"command": text, "hardware": text, "date": text, "versions": {text: text}, "attack": text}
    return page.html(result, accounts)


def test_text_from_outside_stays_text():
    text = hostile()
    read, plain = Read(text), Read(hostile("harmless"))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in read.tags] == [sorted(attributes) for _, attributes in plain.tags]
    assert read.words.count(HOSTILE) > 40
    text.encode()  # a name that is no text has become one


def test_nothing_is_fetched():
    text = hostile()
    for tag, attributes in Read(text).tags:
        assert tag not in ("script", "link", "iframe", "object", "a"), tag
        assert not any(name.startswith("on") or name == "href" for name in attributes), attributes
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None) or pytest.skip("no Chromium on PATH")


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it_and_runs_nothing(tmp_path, width):
    """Opened without its own ban on scripts, so that escaping alone has to hold; nothing runs out of the window."""
    text = re.sub(r"<meta http-equiv=.*>\n", "", hostile())
    assert "default-src" not in text
    measure = "<script>document.body.dataset.wide = document.documentElement.scrollWidth</script></body>"
    (tmp_path / "page.html").write_text(text.replace("</body>", measure), encoding="utf-8")
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},3000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"]
    address = (tmp_path / "page.html").as_uri()
    shot = f"--screenshot={tmp_path / 'page.png'}"
    subprocess.run([*command, shot, address], check=True, capture_output=True, timeout=120)
    done = subprocess.run([*command, "--dump-dom", address], check=True, capture_output=True, encoding="utf-8", timeout=120)
    assert "<title>Unlearning report</title>" in done.stdout
    assert done.stdout.count("<script") == 1  # the one of this test
    window = max(width, 500)  # Chromium's own least
    assert int(re.search(r'data-wide="(\d+)"', done.stdout)[1]) <= window
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == width
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50  # text and shaded cells


def test_retrain_is_that_of_the_same_seed_and_rows_have_names_of_their_own():
    result, accounts = make((1, 3, 0))
    other = replace(accounts[1].after, forgotten=np.roll(accounts[1].after.forgotten, -1, axis=1))
    twice = [*accounts, replace(accounts[2], retrained=other)]
    result = result | {"rows": [*result["rows"], result["rows"][2] | {"epochs": 9}]}
    words = Read(page.html(result, twice)).words
    assert "lora, 5 epochs: 1 of the 4" in words and "lora, 9 epochs: 1 of the 4" in words
    counts = re.findall(r"Of the answers of Retrain, which never saw them, (\d+) are", words)
    assert counts == [str(np.trace(accounts[1].after.forgotten)), str(np.trace(other.forgotten))]
    assert counts[0] != counts[1]


def test_a_page_about_a_subclass_says_what_a_probe_reads_and_not_that_none_can_tell():
    """No class is forgotten as a whole, and the subclass is. Without a probe, of images of several, none can tell."""
    result, accounts = make((0, 3, 1), forget="subclass69", forgotten="subclass 69 (rocket)")
    words = Read(page.html(result, accounts)).words
    assert "a probe still reads 80.00 % of the forgotten subclass's test images right" in words
    assert "so no probe can tell" not in words
    for row in result["rows"]:
        row["metrics"]["probe"] = {"missing": "probe: no class is forgotten as a whole"}
    words = Read(page.html(result, accounts)).words
    assert "a probe still reads" not in words
    assert "No class is forgotten as a whole, so no probe can tell what is left beneath the last layer." in words
    whole = [replace(account, asked=replace(account.asked, whole=[0])) for account in accounts]
    assert "so no probe can tell" not in Read(page.html(result, whole)).words
    result, accounts = make((0, 3, 1))
    whole = [replace(account, asked=replace(account.asked, whole=[0])) for account in accounts]
    assert "80.00 % of the forgotten class's test images right" in Read(page.html(result, whole)).words
