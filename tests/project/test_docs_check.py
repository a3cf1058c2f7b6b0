"""The check of the documentation sees what is wrong."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "tests/check_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(tmp_path, text, name="page.md"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_python_that_fails_is_seen_with_its_error(check, tmp_path):
    text = "```python\nx = 1\n```\n\nand\n\n```python\nprint(x + missing)\n```\n"
    assert "NameError" in check.failing_python(page(tmp_path, text))


def test_blocks_of_a_page_share_their_names_and_find_the_book(check, tmp_path):
    text = (
        "```python\nbook = open('book.txt').read()\n```\n```python\nassert '48213' in book\n```\n"
    )
    assert check.failing_python(page(tmp_path, text)) is None


def test_sketches_are_not_run(check, tmp_path):
    assert check.failing_python(page(tmp_path, "```python\n???\n```\n", "ARCHITECTURE.md")) is None


def test_a_link_to_nothing_is_seen(check, tmp_path):
    assert check.broken_links(page(tmp_path, "[a](gone.md)")) == ["link to gone.md"]


def test_a_config_in_a_folder_that_a_command_writes_is_not_looked_for(check):
    words = ["megacontext", "run", "--config", "runs/a/export/session.yaml"]
    assert check.wrong_config(words, {"runs/a/export"}) is None
    assert "refused" in check.wrong_config(words, set())
