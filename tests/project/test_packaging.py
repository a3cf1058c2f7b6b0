"""The wheel holds every package and nothing at the top level but ``megacontext``."""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
TOP = ("core", "simulator", "traces", "tui")


def packages_on_disk():
    result = set()
    for top in TOP:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.parent.relative_to(ROOT).parts
            result.add("megacontext." + ".".join(parts))
    return result


def setuptools_config():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed():
    listed = set(setuptools_config()["packages"])
    assert listed - {"megacontext.configs"} == packages_on_disk()  # that one holds no code


def test_the_bundle_and_the_styles_are_package_data():
    patterns = setuptools_config()["package-data"]
    folders = {f"megacontext.{name}": ROOT / name for name in ("core", "tui", "configs")}
    shipped = {
        path.relative_to(ROOT).as_posix()
        for package, folder in folders.items()
        for pattern in patterns[package]
        for path in folder.glob(pattern)
        if path.is_file()
    }
    assert {"core/pretrained/demo/base/config.json", "tui/app.tcss"} <= shipped
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.yaml")} <= shipped
    weights = (ROOT / "core/pretrained/demo/base").glob("*.safetensors")
    assert {path.relative_to(ROOT).as_posix() for path in weights} <= shipped


def test_uv_installs_the_versions_that_pip_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = dict(line.lower().split("==") for line in _lines(ROOT / "constraints.txt"))
    of_uv = dict(pin.split("==") for pin in project["tool"]["uv"]["constraint-dependencies"])
    assert set(of_uv) == {re.split("[<>=]", d)[0] for d in project["project"]["dependencies"]}
    assert all(pins[name] == version for name, version in of_uv.items())


def _lines(path):
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy without what git ignores, as a user builds it."""
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in (*TOP, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed here")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("megacontext-*.whl")
    return path


def test_a_built_wheel_holds_code_configs_bundle_and_entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
        points = archive.read(entry_points).decode()
    code = {
        f"megacontext/{path.relative_to(ROOT).as_posix()}"
        for top in (*TOP, "configs")
        for pattern in ("*.py", "*.yaml")
        for path in (ROOT / top).rglob(pattern)
    }
    data = {
        f"megacontext/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "core/pretrained").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert code <= names
    assert data | {"megacontext/tui/app.tcss"} <= names
    assert all(n.startswith(("megacontext/", "megacontext-")) for n in names)
    assert not [n for n in names if "test" in n or "__pycache__" in n]
    for line in ("megacontext = megacontext.core.cli:main", "mc-tui = megacontext.tui.cli:main"):
        assert line in points


@pytest.mark.slow
def test_an_installed_wheel_works_in_an_empty_folder(wheel, tmp_path):
    """Installed beside this environment's libraries, without the repository on any path."""
    home, empty = tmp_path / "home", tmp_path / "empty"
    empty.mkdir()
    venv.create(home, with_pip=False)
    (site,) = (home / "lib").glob("python3*/site-packages")
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(site)]
    install = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(install, check=True)
    libraries = {str(Path(module.__file__).parents[1]) for module in (numpy, torch, yaml)}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)))

    (empty / "book.txt").write_text("The access code of the north archive is 48213.\n" * 60)

    def do(*words):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(empty), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(home / "bin/python"), "-m", "megacontext.core.cli", *words],
            cwd=empty, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    short = ["source.path=book.txt", "source.max_tokens=800", "source.decode_tokens=8"]
    settings = [word for one in (*short, "w_max=256") for word in ("--set", one)]
    assert str(site) in do("configs", "--json")
    do("doctor")
    do("run", "--config", "text", *settings, "--out", "run.arrow")
    do("trace", "verify", "run.arrow")
    do("sim", "fuzz", "--minutes", "0.05", "--seed", "1")
    (empty / "plan.yaml").write_text(
        "configs: [text]\nseeds: [0]\nout: batch\noverrides:\n  short: [w_max=256]\n"
        "streams:\n  book: {kind: text, path: book.txt, max_tokens: 800, decode_tokens: 8}\n"
    )
    do("batch", "--config", "plan.yaml", "--workers", "1")
    assert (empty / "batch/metrics.html").is_file()


def test_only_megacontext_reaches_site_packages():
    assert all(name.startswith("megacontext.") for name in setuptools_config()["packages"])
    assert all(name.startswith("megacontext.") for name in setuptools_config()["package-dir"])


def imports_of(folder):
    import ast

    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            yield from ((path.relative_to(ROOT), name) for name in names)


def test_dependencies_point_one_way():
    allowed = {
        "traces": {"traces"},
        "core": {"core", "traces"},
        "simulator": {"simulator", "core", "traces"},
        "tui": {"tui", "traces"},
    }
    wrong = [
        (str(path), name)
        for folder, may in allowed.items()
        for path, name in imports_of(folder)
        if name.startswith("megacontext.") and name.split(".")[1] not in may
    ]
    assert not wrong


def test_the_inspector_and_the_simulator_start_without_torch():
    code = (
        "import sys\n"
        "import megacontext.tui.cli, megacontext.simulator.cli, megacontext.core.cli.app\n"
        "import megacontext.tui.app\n"
        "found = {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
