"""The wheel holds every package and nothing at the top level but ``megacontext``."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("core", "simulator", "traces", "tui")


def packages_on_disk():
    found = set()
    for top in TOP:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.parent.relative_to(ROOT).parts
            found.add("megacontext." + ".".join(parts))
    return found


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
