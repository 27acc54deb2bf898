"""Wheel, sdist, zip, checkout: each gives the same `ringlet`, made without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import ringlet

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("comm", "nn", "runtime", "launcher")
SUFFIXES = (".py", ".toml", ".html", ".css", ".js", ".md")
PIP = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check",
       "--no-compile")  # fmt: skip
NOT_SOURCE = {"build", "dist", "runs", "__pycache__"}

PARTS = ("ringlet.comm", "ringlet.nn", "ringlet.runtime", "ringlet.launcher.cli")
IMPORTS = """
import importlib, pathlib, sys
import ringlet
place = pathlib.Path(sys.argv[1]).resolve()
for name in sys.argv[2:]:
    importlib.import_module(name)
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "ringlet":
        found = pathlib.Path(module.__file__)
        assert place in found.parents, f"{name} comes from {found}"
print(ringlet.__version__)
"""


def run(*command, folder, **variables):
    """Run a command; its output is part of the error if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_imports(path, place, folder, python=sys.executable, modules=PARTS):
    """With `path` as PYTHONPATH, these modules and what they import of ringlet are in `place`."""
    text = run(python, "-P", "-c", IMPORTS, place, *modules, folder=folder, PYTHONPATH=str(path))
    assert text == f"{ringlet.__version__}\n"


def git(*command):
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, *command], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def tracked():
    """The files under version control, as paths from the root; in a plain copy, all of them."""
    top = git("rev-parse", "--show-toplevel").strip()
    if top and Path(top).resolve() == ROOT:
        paths = [Path(name) for name in git("ls-files", "-z").split("\0") if name]
        return [path for path in paths if os.path.lexists(ROOT / path)]
    return list(walk(ROOT))


def walk(folder):
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in NOT_SOURCE or path.suffix == ".egg-info":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)
        else:
            yield path.relative_to(ROOT)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the tracked files: builds write into their source."""
    copy = tmp_path_factory.mktemp("source") / "ringlet"
    for path in tracked():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
    return copy


def build(kind, source, folder):
    words = ["-m", "build", "--no-isolation", kind, "--outdir", folder, source]
    run(sys.executable, *words, folder=folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build("--wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    return build("--sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture
def empty(tmp_path):
    """A folder to work in, with nothing to import by accident."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def install(what, target, folder):
    run(sys.executable, "-m", "pip", "install", *PIP, "--target", target, what, folder=folder)


def files_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected_files():
    """What a wheel has to hold: the tracked files of the four folders, and the package."""
    code = {
        f"ringlet/{path.as_posix()}"
        for path in tracked()
        if path.suffix in SUFFIXES and path.parts[0] in FOLDERS
    }
    return code | {"ringlet/__init__.py", "ringlet/__main__.py", "ringlet/py.typed"}


def test_the_wheel_holds_the_tracked_files_and_no_others(wheel):
    assert files_of(wheel) == expected_files()


def test_every_module_and_the_command_work_from_where_the_wheel_is_installed(
    wheel, tmp_path, empty
):
    target = tmp_path / "target"
    install(wheel, target, empty)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files_of(wheel)
        if name.endswith(".py")
    )
    check_imports(target, target, empty, modules=modules)
    command = target / "bin" / "ringlet"
    variables = {"PYTHONPATH": str(target)}
    assert run(command, "--version", folder=empty, **variables).split()[1] == ringlet.__version__
    (empty / "script.py").write_text("from ringlet import comm\nprint(comm.__file__)\n")
    shown = run(command, "run", "-n", "1", "script.py", folder=empty, **variables)
    assert shown == f"{target / 'ringlet' / 'comm' / '__init__.py'}\n"


@pytest.mark.slow
def test_the_sdist_gives_the_same_wheel(sdist, wheel, tmp_path, empty):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names
    target = tmp_path / "target"
    install(sdist, target, empty)
    check_imports(target, target, empty)
    installed = {path.relative_to(target).as_posix() for path in (target / "ringlet").rglob("*")}
    assert files_of(wheel) == {name for name in installed if name.endswith((*SUFFIXES, ".typed"))}


def test_a_zip_of_the_source_imports_through_src(source, tmp_path, empty):
    """As `git archive` and download pages make it; few programs unpack its links as links."""
    archived = tmp_path / "source.zip"
    with zipfile.ZipFile(archived, "w") as archive:
        for path in sorted(source.rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                archive.write(path, path.relative_to(source))
        for path in (source / "src" / "ringlet").iterdir():
            if path.is_symlink():
                archive.writestr(path.relative_to(source).as_posix(), str(path.readlink()))
        archive.write(source / "pyproject.toml", "pyproject.toml")
    with zipfile.ZipFile(archived) as archive:
        archive.extractall(tmp_path / "unpacked")
    check_imports(tmp_path / "unpacked" / "src", tmp_path / "unpacked", empty)


def test_a_checkout_takes_the_folders_at_its_root_and_not_the_links(empty):
    program = "import ringlet.comm; print(ringlet.comm.__file__)"
    for folder in (ROOT, empty):
        shown = run(sys.executable, "-c", program, folder=folder, PYTHONPATH=str(ROOT / "src"))
        assert shown == f"{ROOT / 'comm' / '__init__.py'}\n"


@pytest.mark.slow
def test_an_editable_install_imports_the_source(source, tmp_path, empty):
    """In an environment of its own, which borrows only the dependencies of this one."""
    environment = tmp_path / "environment"
    borrowed = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", *PIP, "-e", source, folder=empty, PYTHONPATH=borrowed)
    check_imports(borrowed, source, empty, python)
    shown = run(environment / "bin" / "ringlet", "--version", folder=empty, PYTHONPATH=borrowed)
    assert shown == f"ringlet {ringlet.__version__}\n"
