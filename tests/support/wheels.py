"""Wheels of this checkout, under versions of a test's choice."""

import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheel(directory: Path) -> Path:
    """Build a wheel of this checkout in `directory` and return its path."""
    source = directory / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        str(directory),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = directory.glob("shoal-*.whl")
    return wheel


def as_version(wheel: Path, version: str, directory: Path) -> Path:
    """Write the same wheel as another version into a new directory and return that directory."""
    directory.mkdir()
    former = wheel.name.split("-")[1]
    rows: list[tuple[str, str, int | str]] = []
    with (
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(directory / wheel.name.replace(former, version), "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            content, named = old.read(name), name.replace(f"shoal-{former}.", f"shoal-{version}.")
            if name == "shoal/__init__.py" or name.endswith(".dist-info/METADATA"):
                content = content.replace(former.encode(), version.encode(), 1)
            if not name.endswith("/RECORD"):
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((named, f"sha256={digest}", len(content)))
                new.writestr(named, content)
        record = f"shoal-{version}.dist-info/RECORD"
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([*rows, (record, "", "")])
        new.writestr(record, table.getvalue())
    return directory
