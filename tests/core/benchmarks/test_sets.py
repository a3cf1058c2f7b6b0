"""Sets of our own: true to their rules, planted where they say, of the asked length."""

import re

import pytest

from megacontext.core.benchmarks.facts import FACT_TASKS, FAMILIES
from megacontext.core.benchmarks.needles import NEEDLE_TASKS, NEEDLES
from megacontext.core.benchmarks.planting import Haystack, make_set
from megacontext.core.benchmarks.sets import SETS
from megacontext.core.benchmarks.worlds import WORLD_TASKS
from megacontext.core.data.recall.lexicon import words
from megacontext.core.rng import generator
from megacontext.traces.errors import ConfigError, SourceError

SMALL_WORDS = set(words("a an and at by from has have in is its of on or the to up who was were"))


@pytest.fixture(scope="module")
def tokenizer(kit):
    return kit.base.tokenizer.hf.backend_tokenizer


@pytest.fixture(scope="module")
def haystack(tmp_path_factory):
    path = tmp_path_factory.mktemp("hay") / "hay.txt"
    path.write_text("".join(f"line {i} of plain text\n" for i in range(2000)))
    return Haystack([path])


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower())) - SMALL_WORDS


@pytest.mark.parametrize("name", list(SETS))
@pytest.mark.parametrize("shared", [1, 4])
def test_gold_holds_the_sentences_and_lengths_are_kept(tokenizer, haystack, name, shared):
    makers, _ = SETS[name]
    lengths = [0, 6000]
    tasks = make_set(name, makers, tokenizer, haystack, lengths, 4, shared=shared, seed=5)
    assert len(tasks) == len(lengths) * len(makers) * 4
    for task in tasks:
        count = len(tokenizer.encode(task.history + task.question).ids) + task.max_tokens
        if task.length:
            assert 0.9 * task.length < count <= task.length
            assert "of plain text" in task.history
        for start, end in task.gold:
            assert task.history[end] == "\n"
            assert start == 0 or task.history[start - 1] == "\n"
    by_length = [[(t.question, t.outputs) for t in tasks if t.length == n] for n in lengths]
    assert by_length[0] == by_length[1]  # the same questions at every length


def test_the_same_seed_makes_the_same_and_another_another(tokenizer, haystack):
    def made(seed):
        return make_set("worlds", WORLD_TASKS, tokenizer, haystack, [4000], 2, seed=seed)

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_families_of_wording_share_nothing():
    calibration, held_out = (FAMILIES[name] for name in ("calibration", "held_out"))
    for mine in calibration:
        for other in held_out:
            assert {mine.fact, mine.question, mine.lead}.isdisjoint(
                {other.fact, other.question, other.lead}
            )


def test_values_and_keys_of_a_history_are_unique():
    scenes = FACT_TASKS["held_out"](generator(3, "test"), 10)
    facts = [sentence for scene in scenes for sentence in scene.sentences]
    assert len(set(facts)) == len(facts) == 40
    for scene in scenes:
        assert sum(scene.ask.answer in fact for fact in facts) == 1
        assert scene.ask.answer in scene.sentences[scene.ask.needed[0]]
        assert scene.ask.answer not in scene.ask.question


def test_a_needle_shares_no_word_with_its_question():
    for pairs in NEEDLES.values():
        for fact, what in pairs:
            shared = words_of(fact.replace("{name}", "")) & words_of(what)
            assert not shared, (fact, what)
            stems = {word[:5] for word in words_of(fact.replace("{name}", "")) if len(word) > 4}
            assert not stems & {word[:5] for word in words_of(what) if len(word) > 4}


def test_needles_never_say_the_asked_name_twice():
    for make in NEEDLE_TASKS.values():
        for scene in make(generator(1, "test"), 3):
            assert sum(scene.ask.answer in fact for fact in scene.sentences) == 1


def replay(sentences):
    """Where everything is after the sentences, and every place a thing has been."""
    room, holder, trail = {}, {}, {}
    for sentence in sentences:
        walk = re.match(r"(\w+) (?:walked|went|hurried) to the (\w+)\.", sentence)
        take = re.match(r"(\w+) (?:picked up|took) the (\w+)\.", sentence)
        drop = re.match(r"(\w+) (?:put down|left) the (\w+)", sentence)
        if walk:
            who, where = walk.groups()
            room[who] = where
            for thing in (t for t, h in holder.items() if h == who):
                trail[thing].append(where)
        elif take:
            who, thing = take.groups()
            holder[thing] = who
            trail[thing] = [room[who]]
        else:
            holder.pop(drop[2])
    return room, trail


@pytest.mark.parametrize("seed", range(12))
def test_answers_about_worlds_are_what_a_second_reading_finds(seed):
    one, two, three = (WORLD_TASKS[n](generator(seed, n), 2) for n in ("qa1", "qa2", "qa3"))
    for scene in one:
        who = re.search(r"Where is (\w+)\?", scene.ask.question)[1]
        assert replay(scene.sentences)[0][who] == scene.ask.answer
    for scene in two:
        thing = re.search(r"Where is the (\w+)\?", scene.ask.question)[1]
        assert replay(scene.sentences)[1][thing][-1] == scene.ask.answer
        # Only with all that it needs does the answer follow.
        needed = [scene.sentences[i] for i in sorted(scene.ask.needed)]
        assert any(scene.ask.answer in sentence for sentence in needed)
        assert any(thing in sentence for sentence in needed)
    for scene in three:
        thing, room = re.search(
            r"Where was the (\w+) before the (\w+)\?", scene.ask.question
        ).groups()
        trail = replay(scene.sentences)[1][thing]
        assert trail[trail.index(room) - 1] == scene.ask.answer


def test_too_much_in_too_little_is_refused(tokenizer, haystack, tmp_path):
    def made(**options):
        given = {"lengths": [4000], "samples": 1} | options
        makers = {"qa3": WORLD_TASKS["qa3"]}
        return make_set("worlds", makers, tokenizer, haystack, **given)

    with pytest.raises(ConfigError, match="too short"):
        made(lengths=[100])
    with pytest.raises(ConfigError, match="too many"):
        made(samples=40, shared=40)
    with pytest.raises(SourceError, match="--haystack holds"):
        made(lengths=[10**6])
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    with pytest.raises(SourceError, match="no text"):
        Haystack([empty])


@pytest.mark.parametrize(
    "text",
    [
        "x y " * 40_000,  # one line, far longer than what is asked for
        "".join(f"{n} 1 2 3 4 5 6 7 8 9\n" for n in range(9000)),  # few characters a token
        "short\n" * 50 + "z" * 400_000,  # neither a line nor a word ends
    ],
    ids=["one-line", "dense", "one-word"],
)
def test_any_text_fills_a_history_to_its_length(tokenizer, tmp_path, text):
    path = tmp_path / "hay.txt"
    path.write_text(text)
    tasks = make_set("facts", FACT_TASKS, tokenizer, Haystack([path]), [4000], 4, shared=4, seed=3)
    for task in tasks:
        count = len(tokenizer.encode(task.history + task.question).ids) + task.max_tokens
        assert 0.95 * task.length < count <= task.length
