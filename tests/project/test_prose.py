"""README and ARCHITECTURE.md can be read aloud: short sentences, and terms of the glossary."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "ARCHITECTURE.md")
MOST_WORDS = 30


def paragraphs(markdown):
    """Texts of a page that end where a paragraph, a list item, a heading or a table cell ends."""
    text = re.sub(r"(?ms)^```.*?^```", "\n", markdown)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )|\n(?=#)|\n(?=\|)", text):
        yield from block.split("|") if block.lstrip().startswith("|") else [block]


def sentences(markdown):
    """The sentences of a page's prose; code in backticks counts as one word."""
    for paragraph in paragraphs(markdown):
        plain = " ".join(re.sub(r"`[^`]*`", "code", paragraph).split())
        yield from (s for s in re.split(r"(?<=[.!?])\s+", plain) if s)


def words(sentence):
    return [word for word in sentence.split() if re.search(r"\w", word)]


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_is_long(page):
    text = (ROOT / page).read_text()
    long = [s for s in sentences(text) if len(words(s)) > MOST_WORDS]
    assert not long


def test_long_sentences_are_seen():
    long = " ".join(["word"] * 31)
    assert len(words(next(sentences(long + ".")))) == 31
    assert [len(words(s)) for s in sentences("* one two\n* three\n\n| a b | c |\n")] == [2, 1, 2, 1]
    assert list(sentences("```sh\nmake demo\n```\n")) == []


@pytest.mark.parametrize("page", PAGES)
def test_terms_in_italics_stand_in_the_glossary(page):
    glossary = (ROOT / "docs/glossary.md").read_text().lower()
    terms = {cell.strip() for row in re.findall(r"(?m)^\| ([^|]+) \|", glossary) for cell in [row]}
    known = {word for term in terms for word in (term, f"{term}s", f"{term}es")}
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text())
    italics = re.findall(r"(?<![*\w])\*([a-z][a-z -]*[a-z])\*(?!\*)", text)
    assert [term for term in italics if term not in known] == []
