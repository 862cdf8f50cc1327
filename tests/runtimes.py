"""Programs that run ONNX files, fetched into pytest's cache: other versions of ONNX Runtime, OpenVINO, node, headers.

They are none of the package's own libraries, so tests fetch them from the registries of Python, npm and Debian, once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

OPENVINO = "openvino==2026.4.1"
WEB = "onnxruntime-web@1.30.0"
"""The same library as in browsers; it needs no binary of the machine."""
_MIRROR = "http://deb.debian.org/debian"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SECONDS = 900


def _fetched(folder: Path, fetch: Callable[[Path], None], what: str) -> Path:
    """A folder that is filled once; a test that needs it is skipped where it cannot be."""
    whole = folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            fetch(folder)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"{what} cannot be fetched here, which needs a network: {said.strip().splitlines()[-1][:200]}")
        whole.touch()
    return folder


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=True, timeout=_SECONDS
    )
    return done.stdout


def python_with(cache: pytest.Cache, name: str, *requirements: str) -> Path:
    """The interpreter of an environment of its own with some packages."""

    def fetch(folder: Path) -> None:
        _run(sys.executable, "-m", "venv", folder)
        _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--only-binary=:all:", *requirements)

    return _fetched(cache.mkdir("runtimes") / name, fetch, " ".join(requirements)) / "bin" / "python"


def packages(cache: pytest.Cache, name: str, *requirements: str) -> Path:
    """A folder with some packages for this interpreter, without what they need."""
    flags = ("--quiet", "--no-deps", "--only-binary=:all:")

    def fetch(folder: Path) -> None:
        _run(sys.executable, "-m", "pip", "install", *flags, "--target", folder / "site", *requirements)

    return _fetched(cache.mkdir("runtimes") / name, fetch, " ".join(requirements)) / "site"


def old_onnxruntime(cache: pytest.Cache) -> Path:
    """The interpreter of an environment with ONNX Runtime 1.15.1, of June 2023."""
    if sys.version_info[:2] > (3, 11):
        pytest.skip("ONNX Runtime 1.15.1 has wheels for Python 3.8 to 3.11 only; run this test with Python 3.11")
    return python_with(cache, "onnxruntime-1.15.1", "onnxruntime==1.15.1", "numpy<2")


def node_modules(cache: pytest.Cache) -> Path:
    """A folder in which node finds onnxruntime-web."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm, which run ONNX Runtime as browsers do, are not installed")
    flags = ("--no-audit", "--no-fund", "--ignore-scripts")
    return _fetched(
        cache.mkdir("runtimes") / "web", lambda folder: _run("npm", "install", *flags, WEB, cwd=folder) and None, WEB
    )


def headers(cache: pytest.Cache) -> Path:
    """The folder of onnxruntime_cxx_api.h: the system's, or out of Debian's package libonnxruntime-dev."""
    for place in ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime"):
        if (Path(place) / "onnxruntime_cxx_api.h").exists():
            return Path(place)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and Path(_KEYS).exists()):
        pytest.skip(
            "the headers of ONNX Runtime are not installed, and this is no Debian to fetch libonnxruntime-dev on"
        )

    def fetch(folder: Path) -> None:
        # lists and packages of the release that has it, apart from the system's own
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_MIRROR} trixie main\n")
        places = {"Dir::Etc::sourcelist": "sources.list", "Dir::State::lists": "lists", "Dir::Cache": "cache",
                  "Dir::State::status": "status"}  # fmt: skip
        own = [f"-o{key}={folder / name}" for key, name in places.items()] + ["-oDir::Etc::sourceparts=/dev/null"]
        own += ["-oAPT::Sandbox::User=", "-oAcquire::Retries=2"]
        _run("apt-get", *own, "update", cwd=folder)
        _run("apt-get", *own, "download", "libonnxruntime-dev", cwd=folder)
        (package,) = folder.glob("libonnxruntime-dev*.deb")
        _run("dpkg-deb", "-x", package, folder / "package")

    return (
        _fetched(cache.mkdir("runtimes") / "headers", fetch, "libonnxruntime-dev") / "package/usr/include/onnxruntime"
    )


def wheel_library() -> Path:
    """The C library inside the installed wheel of ONNX Runtime."""
    found = sorted((Path(sysconfig.get_path("purelib")) / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("the installed onnxruntime has no C library of its own (wheels for Linux have one)")
    return found[-1]
