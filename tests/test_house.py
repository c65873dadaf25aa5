"""The house holds: who may import whom, sizes, annotations, no hidden state, quick start-up. Read from the source."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, shell

ORDER = (
    *("core", "metrics", "reports", "images", "data", "networks", "models"),
    *("vision", "language", "exact", "evaluation", "experiments"),
)
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in ("data", "models"))
BASELINES = sorted(path.stem for path in (ROOT / "baselines").glob("*.py"))
LIBRARY = [*sorted((ROOT / "unlearning").rglob("*.py")), ROOT / "models.py", ROOT / "data.py"]
COMMANDS = [*(ROOT / f"{name}.py" for name in SCRIPTS), *(ROOT / "baselines" / f"{name}.py" for name in BASELINES)]
ROOMS = ("unlearning", "baselines", "benchmarks", "tests")
SLOW = {
    "torchvision",
    "timm",
    "peft",
    "transformers",
    "sklearn",
    "scipy",
    "matplotlib",
    "torch_pruning",
    "onnx",
    "onnxruntime",
    "tabulate",
    "jinja2",
    "joblib",
    "rdata",
    "curvlinops",
}
GUARDS = ("not __package__", "TYPE_CHECKING", "__name__ == '__main__'")  # the only conditions at a module's top level
EVERY = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
BYTES = ("Image", "gzip", "archive", "zipfile")  # whose `open` gives bytes
UNIX = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "syslog"}
UNIX |= {f"os.{name}" for name in ("fork", "forkpty", "openpty", "wait4", "sysconf", "uname", "getuid", "geteuid", "chown")}
UNIX |= {f"os.{name}" for name in ("mkfifo", "killpg", "setsid", "sched_getaffinity", "getloadavg", "O_TMPFILE")}
UNIX |= {f"signal.{name}" for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm")}
READ_IN_ONE_SITTING = ("loraprune", *(f"unlearning/vision/{name}" for name in ("adapters", "pruning", "train", "run")))


@functools.lru_cache(maxsize=1)  # a test asks for one file several times
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """The modules that a file imports, anywhere in it, by their dotted names."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name):
    """The place of a module in ORDER; None for what lies above all rooms or outside of the project."""
    parts = name.split(".")
    here = parts[1] if parts[0] == "unlearning" and len(parts) > 1 else parts[0]
    return ORDER.index(here) if parts[0] in ("unlearning", "data", "models") and here in ORDER else None


def named(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]


def test_imports_point_downwards():
    seen = 0
    for path in LIBRARY:
        here = room(named(path))
        for name in imported(path):
            there = room(name)
            if there is not None:
                seen += 1
                assert there <= here, f"{path} imports {name}"
                assert {ORDER[here], ORDER[there]} != {"vision", "language"}, f"{path} imports {name}"
            assert name.split(".")[0] not in (*SCRIPTS, "baselines", "benchmarks"), f"{path} imports {name}"
    assert seen > 100


def test_no_command_imports_another():
    for path in COMMANDS:
        for name in imported(path):
            assert name.split(".")[0] not in (*SCRIPTS, "baselines", "benchmarks"), f"{path} imports {name}"
    by_name = {named(path) for path in [*LIBRARY, *COMMANDS] if "import_module" in path.read_text(encoding="utf-8")}
    assert all(name == "reproduce" or name.startswith("unlearning.experiments.") for name in by_name), by_name


def test_the_root_holds_commands_and_two_helpers():
    assert len(list(ROOT.glob("*.py"))) <= 16
    for path in COMMANDS:
        body = tree(path).body
        names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        names |= {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}
        assert {"parser", "run"} <= names, path
        assert ast.unparse(body[-1]) == "if __name__ == '__main__':\n    main(run, parser())", path


def test_functions_are_short_and_public_ones_annotated():
    for path in [*LIBRARY, *COMMANDS]:
        for node in functions(path):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{path}: {node.name} has {length} lines"
        public = [node for node in tree(path).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        classes = [node for node in public if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        public += [child for node in classes for child in node.body]
        for node in public:
            if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                arguments += filter(None, (node.args.vararg, node.args.kwarg))
                bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls", "context")]
                assert not bare and node.returns is not None, f"{path}: {node.name} lacks annotations {bare}"
                assert node.name == "__init__" or ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_modules_have_no_state_and_do_nothing_when_imported():
    harmless = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If)
    for path in [*LIBRARY, *COMMANDS]:
        for place, node in enumerate(tree(path).body):
            assert place == 0 or isinstance(node, harmless), f"{path}:{node.lineno} does something"
            assert not isinstance(node, ast.If) or ast.unparse(node.test) in GUARDS, f"{path}:{node.lineno} depends"
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in filter(None, targets):
                for name in map(ast.unparse, target.elts if isinstance(target, ast.Tuple) else [target]):
                    constant = name.isidentifier() and name.strip("_")[:1].isupper()
                    assert constant or (name == "run" and path in COMMANDS), f"{path}:{node.lineno}: {name} is state"
                # What is empty when imported is there to be filled later.
                assert ast.unparse(node.value) not in ("[]", "{}", "set()"), f"{path}:{node.lineno} is state"
        used = {*imported(path), *(ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute))}
        assert not used & {"functools.cache", "functools.lru_cache"}, f"{path}: a cache that lives as long as the process"
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree(path))), f"{path}: global"
        assert not any(name.startswith("unittest") for name in used), path


def test_text_is_read_and_written_as_utf8():
    """Windows would take the encoding of its language, and table cells have a ± in them."""
    seen = 0
    for path in EVERY:
        for call in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = {keyword.arg for keyword in call.keywords}
            whole = name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
            opened = name in ("open", "fdopen", "NamedTemporaryFile") and not ast.unparse(call.func).startswith(BYTES)
            modes = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)] if opened else []
            as_text = opened and not any(isinstance(mode, str) and re.fullmatch("[rwax]?b[+]?", mode) for mode in modes)
            seen += whole
            if whole or as_text or given & {"text", "universal_newlines"}:
                assert "encoding" in given, f"{path}:{call.lineno}: {ast.unparse(call)}"
    assert seen > 50


def test_nothing_is_asked_of_unix_alone():
    """What Windows lacks is used by functions that ask for the system, or for what it can."""
    seen, words = 0, re.compile(rf"posix_|\b({'|'.join(name.split('.')[-1] for name in UNIX)})\b")
    for path in [path for path in EVERY if words.search(path.read_text(encoding="utf-8"))]:
        asking = [node for node in functions(path) if re.search(r"win32|hasattr\(os, ", ast.unparse(node))]
        guarded = {line for node in asking for line in range(node.lineno, node.end_lineno + 1)}
        for node in ast.walk(tree(path)):
            used = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            used |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            used |= {ast.unparse(node)} if isinstance(node, ast.Attribute) else set()
            if wrong := [name for name in used if name in UNIX or name.startswith("os.posix_")]:
                seen += 1
                assert node.lineno in guarded, f"{path}:{node.lineno}: {wrong[0]}"
    assert seen >= 3


def test_loraprune_is_read_in_one_sitting():
    lines = {name: len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in READ_IN_ONE_SITTING}
    assert sum(lines.values()) < 500, lines


def test_no_slow_library_before_arguments_are_parsed():
    """Nor, by llmeraser.py, which is the first here, anything of the vision side."""
    names = sorted([*SCRIPTS, *(f"baselines.{name}" for name in BASELINES)], key=lambda name: name != "llmeraser")
    code = f"import sys, importlib\nfor name in {names}:\n    importlib.import_module(name).parser().format_help()\n"
    done = shell("-c", code + "    print(name, *sys.modules)")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, *loaded = line.split()
        assert not SLOW & set(loaded), name
        if name == "llmeraser":
            assert "unlearning.language.session" in loaded
            assert not [module for module in loaded if module.startswith("unlearning.vision")]
    assert len(done.stdout.splitlines()) == len(names)


def cpu_seconds(runs, *arguments):
    """CPU time of a process, user and system, the least of some runs."""
    if sys.platform == "win32":
        pytest.skip("Windows doesn't tell what a process took")
    times = []
    for _ in range(runs):
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


@pytest.mark.slow
def test_help_takes_half_a_second_more_than_torch():
    torch = cpu_seconds(3, "-c", "import torch")
    for command in [*([f"{name}.py"] for name in SCRIPTS), *(["-m", f"baselines.{name}"] for name in BASELINES)]:
        taken, base = cpu_seconds(1, *command, "--help"), torch
        if taken >= base + 0.5:  # on a busy machine torch alone varies by as much: both again, one right after the other
            base, taken = cpu_seconds(3, "-c", "import torch"), cpu_seconds(3, *command, "--help")
        assert taken < base + 0.5, (command, taken, base)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_says_how_it_is_run(name):
    done = shell(Path("baselines") / f"{name}.py", "--help")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"python -m baselines.{name}" in done.stderr
