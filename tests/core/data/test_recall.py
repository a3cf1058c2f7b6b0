"""Recall text: answers stand in their facts, spans point at them, splits never mix."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megacontext.core.data.prepare import encode_document
from megacontext.core.data.recall import training_wording, wording
from megacontext.core.data.recall.grammar import compose_code, compose_question, compose_statement
from megacontext.core.data.recall.lexicon import FIRST, KINDS, PLACES, THINGS, WordLists, side
from megacontext.core.data.recall.phrases import draw_statement
from megacontext.core.data.recall.scenes import KINDS as SCENES
from megacontext.core.data.recall.writer import RecallOptions, RecallSample, RecallWriter
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.rng import generator

ROOT = Path(__file__).parents[3]
TOKENIZER = load_tokenizer(ROOT / "core/pretrained/demo/base")
FILLER = encode_document(
    TOKENIZER,
    "\n".join(
        path.read_text(encoding="utf8") for path in sorted((ROOT / "core" / "data").glob("*.py"))
    ),
)
WRITERS = {split: RecallWriter(TOKENIZER, split, 11) for split in ("train", "heldout")}


def _text(tokens: np.ndarray) -> str:
    return str(TOKENIZER.decode(tokens.tolist(), skip_special_tokens=False))


def _samples(split: str, length: int, count: int, **options: object) -> list[RecallSample]:
    chosen = RecallOptions(**options)  # type: ignore[arg-type]
    return [WRITERS[split].sample(FILLER, length, chosen, i, length) for i in range(count)]


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("layout", ["full", "gappy", "coarse"])
@pytest.mark.parametrize("canonical", [False, True])
def test_every_answer_is_in_its_facts_before_the_question(
    split: str, layout: str, canonical: bool
) -> None:
    options = {"gappy": layout == "gappy", "coarse": layout == "coarse", "canonical": canonical}
    for sample in _samples(split, 1024, 25, **options):
        assert len(sample.tokens) == 1024
        assert sample.asked
        for span in sample.asked:
            assert _text(sample.tokens[span.answer_start : span.answer_stop]).strip(' "') == (
                span.answer
            ) or span.answer in _text(sample.tokens[span.answer_start : span.answer_stop])
            facts = [sample.facts[g] for g in span.gold]
            assert all(0 <= a < b <= span.start for a, b in facts)
            planted = "".join(_text(sample.tokens[a:b]) for a, b in facts)
            for part in span.answer.split(", ") if span.kind == "values" else [span.answer]:
                assert part in planted


def test_canonical_samples_end_with_the_documented_question_format() -> None:
    for sample in _samples("heldout", 512, 20, canonical=True):
        (span,) = sample.asked
        text = _text(sample.tokens[span.start :])
        assert text == f"\nQuestion: {span.question}\nAnswer: {span.answer}\n"


def test_answer_marks_cover_the_answer_and_its_end_and_name_what_has_to_be_found() -> None:
    for sample in _samples("train", 1024, 20):
        marked = np.zeros(1024, bool)
        for span in sample.asked:
            marked[span.answer_start : span.answer_stop + 1] = True
            inside = sample.answer[span.answer_start : span.answer_stop]
            first = int(np.argmax(inside == 2))
            assert inside[first] == 2
            assert first == 0
            looked_up = sample.tokens[span.answer_start : span.answer_stop][inside == 2]
            assert _text(looked_up).strip()
        np.testing.assert_array_equal(sample.answer > 0, marked)


def test_gappy_windows_are_whole_blocks_of_the_history_and_the_end_of_it() -> None:
    sample = WRITERS["train"].sample(
        np.arange(1000, 7000, dtype=np.uint16) % 8000,  # a filler that tells where it comes from
        1024,
        RecallOptions(gappy=True, canonical=True, facts_max=2, scenes_max=1, stretch_max=5),
        3,
    )
    jumps = np.flatnonzero(np.diff(sample.tokens.astype(int)) > 1)
    jumps = jumps[sample.tokens[jumps] >= 1000]
    assert len(jumps) > 5
    history = sample.tokens[sample.tokens >= 1000].astype(int)
    assert history.max() - history.min() > 2 * 1024
    assert sample.asked[0].answer_stop == 1024 - 1


def test_tokens_that_no_earlier_pair_foretells_have_to_be_looked_up() -> None:
    seen = {1: 0, 2: 0}
    for sample in _samples("train", 1024, 40, kind="code"):
        for span in sample.asked:
            before = sample.tokens[: span.start].tolist()
            known = set(pairwise(before))
            inside = sample.tokens[span.answer_start : span.answer_stop]
            blank = next(i for i in range(len(inside)) if _text(inside[i : i + 1]).strip())
            for at in range(span.answer_start + blank + 1, span.answer_stop):
                pair = (int(sample.tokens[at - 1]), int(sample.tokens[at]))
                assert sample.answer[at] == (1 if pair in known else 2)
                seen[int(sample.answer[at])] += 1
    assert min(seen.values()) > 10


def test_coarse_windows_have_one_token_for_a_block_and_do_not_foretell_it() -> None:
    plain = coarse = 0
    for sample in _samples("train", 1024, 30, coarse=True):
        gist = sample.answer == 3
        assert len(sample.tokens) == 1024
        plain += int((~gist).sum())
        coarse += int(gist.sum())
        for span in sample.asked:
            assert not gist[span.answer_start : span.answer_stop].any()
        for fact in {g for span in sample.asked for g in span.gold}:
            assert not gist[slice(*sample.facts[fact])].any()
    assert 30 * 20 < coarse < plain


def test_the_same_counters_give_the_same_sample_and_others_another() -> None:
    again = RecallWriter(TOKENIZER, "train", 11)
    options = RecallOptions(gappy=True)
    one, two, other = (
        w.sample(FILLER, 512, options, counter)
        for w, counter in ((WRITERS["train"], 4), (again, 4), (again, 5))
    )
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert one.asked == two.asked
    assert not np.array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize("items", [wording.STATEMENTS, wording.QUESTIONS, FIRST, PLACES, THINGS])
def test_both_sides_of_the_split_have_items(items: list[str]) -> None:
    sides = [side(item) for item in items]
    assert 0.05 < sides.count("heldout") / len(sides) < 0.35


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_lexicon_draws_only_from_its_side(split: str) -> None:
    word_lists = WordLists(
        split, ("river", "stone", "window", "market", "silver", "garden", "people")
    )
    for i in range(60):
        rng = generator(1, "test", i)
        assert side(word_lists.pick(rng, KINDS)) == split
        assert side(word_lists.made_up(rng)) == split
        assert side(compose_statement(rng, split)) == split
        assert side(compose_question(rng, split)) == split
        assert side(compose_code(rng, split)) == split


def test_heldout_statements_never_use_a_training_template_or_name() -> None:
    train_names = {name for name in FIRST if side(name) == "train"}
    seen = 0
    for i in range(60):
        scene = WRITERS["heldout"].scene(3, "chat", i)
        for text in scene.statements:
            seen += 1
            assert text.split(":")[0].split(" ")[0] not in train_names
    assert seen > 100


def test_a_pool_is_a_small_part_of_its_side_and_the_same_throughout() -> None:
    word_lists = WordLists("train", ("river",), pool=5)
    rng = generator(3, "pool")
    drawn = {word_lists.pick(rng, KINDS) for _ in range(400)}
    whole = {kind for kind in KINDS if side(kind) == "train"}
    assert drawn < whole
    assert len(drawn) < len(whole) / 3
    assert {WordLists("train", (), pool=6).pick(rng, KINDS) for _ in range(400)} != drawn
    # A list without an item of the pool is drawn from as ever.
    assert {word_lists.pick(rng, ["oak"]) for _ in range(3)} == {"oak"}


def test_training_wording_is_for_training_alone() -> None:
    rng = generator(4, "sides")
    ours = set(training_wording.STATEMENTS) - set(wording.STATEMENTS)
    for split, expected in (("train", True), ("heldout", False)):
        word_lists = WordLists(
            split, ("river", "stone", "window", "market", "silver", "garden", "people")
        )
        drawn = {draw_statement(word_lists, rng) for _ in range(600)}
        assert bool(drawn & ours) == expected
        assert all(side(item) == "train" for item in drawn & ours)


def test_every_piece_of_the_vocabulary_begins_training_words() -> None:
    word_lists = WRITERS["train"].word_lists
    rng = generator(0, "test.pieces")
    drawn = [word_lists.spliced(rng) for _ in range(30_000)]
    assert all(side(word) == "train" for word in drawn)
    first = {encoding.tokens[0] for encoding in TOKENIZER.encode_batch([" " + w for w in drawn])}
    heldout = [word for word in word_lists.words if side(word) == "heldout"]
    begun = [word for word in heldout if TOKENIZER.encode(" " + word).tokens[0] in first]
    assert len(begun) > 0.95 * len(heldout) > 100
    # As words of their own they stay held out, and held-out text has words of its lists alone.
    assert not set(drawn) & set(heldout)
    assert not WRITERS["heldout"].word_lists.starts


def test_training_asks_for_several_lists_of_a_scene_and_heldout_for_one() -> None:
    asks = {}
    for split, writer in WRITERS.items():
        scenes = [writer.scene(12, "values", i) for i in range(40)]
        asks[split] = [len(scene.asks) for scene in scenes]
        for scene in scenes:
            gold = [place for ask in scene.asks for place in ask.gold]
            assert len(gold) == len(set(gold))  # a fact belongs to one list
            for ask in scene.asks:
                assert len(ask.gold) == len(ask.answer.split(", "))
    assert set(asks["heldout"]) == {1}
    assert sum(count > 2 for count in asks["train"]) > 10


def test_narrow_samples_share_words_among_their_scenes() -> None:
    def attributes(narrow: float) -> int:
        options = RecallOptions(kind="chat", scenes_max=6, narrow=narrow)
        texts = [_text(WRITERS["train"].sample(FILLER, 1024, options, i).tokens) for i in range(30)]
        names = [name for name in FIRST if side(name) == "train"]
        return sum(sum(f"\n{name}: " in text for name in names) for text in texts)

    assert 0 < attributes(1.0) < attributes(0.0)


def test_composed_wording_is_wide() -> None:
    rng = generator(2, "wide")
    assert len({compose_statement(rng, "train") for _ in range(2000)}) > 1000
    assert len({compose_question(rng, "train") for _ in range(2000)}) > 500
    assert len({compose_code(rng, "train") for _ in range(2000)}) > 1000


@pytest.mark.parametrize("kind", list(SCENES))
def test_every_kind_of_scene_has_questions_whose_gold_statements_hold_the_answer(kind: str) -> None:
    for i in range(40):
        scene = WRITERS["train"].scene(5, kind, i, 7, canonical=False)
        assert scene.asks
        for ask in scene.asks:
            gold = "\n".join(scene.statements[g] for g in ask.gold)
            parts = ask.answer.split(", ") if kind == "values" else [ask.answer]
            assert all(part in gold for part in parts), (scene, ask)
            assert ask.answer not in ask.prompt or kind in ("random", "pairs", "relation", "code")


def test_crossed_facts_are_told_by_key_and_attribute_together() -> None:
    for i in range(20):
        scene = WRITERS["train"].scene(6, "crossed", i, canonical=False)
        assert len(scene.asks) == len(scene.statements) >= 4
        told = [
            set(re.findall(r"\w+", text.replace(ask.answer, "").lower()))
            for text, ask in zip(scene.statements, scene.asks, strict=True)
        ]
        common = set.intersection(*told)
        # Each fact has words of its key and of its attribute, and both are shared with others.
        for at, words in enumerate(told):
            others = [other for j, other in enumerate(told) if j != at]
            assert all(words != other for other in others)
            assert words - common <= set.union(*others)


def test_distractors_of_a_scene_share_the_wording_and_differ_in_key() -> None:
    scene = WRITERS["heldout"].scene(6, "relation", 5)
    assert len(set(scene.statements)) == len(scene.statements) > 3
