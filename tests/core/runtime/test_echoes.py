"""Where the newest tokens repeat an earlier passage, what followed it is opened at once."""

import numpy as np
import pytest
from recorded import rows_of

from megacontext.core.config import EchoConfig, FocusConfig, parse_config
from megacontext.core.focus import WorkingContext
from megacontext.core.focus.limits import limits_for
from megacontext.core.runtime.run import run
from megacontext.core.runtime.triggers.echo import Echoes
from megacontext.core.verify import verify
from megacontext.traces.schema import Trigger

SIZE, BLOCKS = 8, 40
FAR = 100  # a token in the middle of block 12


class History:
    """Tokens of which none comes twice, in a working context of block size 8."""

    def __init__(self, w_max: int = 96, **options: int) -> None:
        self.tokens = np.arange(1000, 1000 + SIZE * BLOCKS).astype(np.uint32)
        self.context = WorkingContext(SIZE, 3, w_max, 1)
        self.context.cold_start(len(self.tokens))
        self.context.set_w_max(w_max + 64)  # room for what the tests add
        self.config = EchoConfig(**{"match": 3, **options})
        self.echoes = self.new_echoes()

    def new_echoes(self) -> Echoes:
        return Echoes(self.config, self.context, lambda start, stop: self.tokens[start:stop])

    def entry(self, place: int) -> int:
        return int(self.context.starts.searchsorted(place, "right")) - 1

    def add(self, tokens: np.ndarray, since: int = 100) -> int | None:
        """Take tokens in as a session does, up to the first that calls for a refocus."""
        count = self.echoes.first_trigger(tokens, since)
        taken = tokens[: count or len(tokens)]
        self.tokens = np.concatenate([self.tokens, taken])
        self.context.append(len(taken))
        return count

    def boosted(self, alone: bool = False, score: float = -0.1) -> np.ndarray:
        scores = np.full(len(self.context), score, np.float32)
        return self.echoes.boost_scores(scores, alone)


def test_the_first_tokens_of_a_repeated_passage_open_what_followed():
    history = History()
    at = history.entry(FAR)
    assert history.context.levels[at] > 0
    assert history.add(history.tokens[FAR - 3 : FAR + 2]) == 3
    boosted = history.boosted()
    assert boosted[at] == pytest.approx(3 / 4)
    assert np.flatnonzero(boosted > 0).tolist() == [at]


def test_a_longer_match_scores_higher():
    history = History()
    for place in range(FAR - 6, FAR):
        history.add(history.tokens[place : place + 1])
    assert history.boosted().max() == pytest.approx(6 / 7)


def test_what_is_raw_calls_for_nothing_and_stays():
    history = History()
    near = len(history.tokens) - SIZE - 4
    assert history.context.levels[history.entry(near)] == 0
    assert history.add(history.tokens[near - 4 : near]) is None
    assert history.boosted()[history.entry(near)] > 0


def test_an_echo_waits_until_the_gap_is_over():
    passage = slice(FAR - 6, FAR)
    history = History(min_gap=5)
    assert history.add(history.tokens[passage], since=0) == 5
    history = History(min_gap=5)
    assert history.add(history.tokens[passage], since=4) == 3


def test_what_is_to_be_quiet_is_heard_and_calls_for_nothing():
    history = History()
    passage = history.tokens[FAR - 6 : FAR]
    assert history.echoes.first_trigger(passage, since=100, suppress_tokens=4) == 5
    history = History()
    passage = history.tokens[FAR - 6 : FAR]
    assert history.echoes.first_trigger(passage, since=100, suppress_tokens=6) is None


def test_a_gist_is_wanted_once_and_a_raw_block_until_the_echo_is_forgotten():
    history = History(remembered=12)
    near = len(history.tokens) - SIZE - 4
    history.add(history.tokens[near - 3 : near])
    history.add(history.tokens[FAR - 3 : FAR])
    assert history.boosted()[history.entry(FAR)] > 0
    history.add(np.arange(3).astype(np.uint32))
    boosted = history.boosted()
    assert boosted[history.entry(FAR)] < 0
    assert boosted[history.entry(near)] > 0
    history.add(np.arange(10, 18).astype(np.uint32))
    assert history.boosted().max() < 0


def test_alone_the_lens_opens_nothing_and_still_says_who_pays():
    history = History()
    history.add(history.tokens[FAR - 3 : FAR])
    high, low = history.boosted(True, score=0.9), history.boosted(True, score=-0.6)
    assert np.unique(high).tolist() == [0, 0.75]
    assert np.unique(low) == pytest.approx([-0.6, 0.75])


def test_who_comes_later_remembers_the_same():
    history = History(remembered=20)
    history.add(history.tokens[FAR - 5 : FAR])
    history.add(np.arange(7).astype(np.uint32))
    history.add(history.tokens[FAR + 20 : FAR + 23])
    expected = history.boosted()
    assert expected.max() > 0
    history.echoes = history.new_echoes()
    assert history.boosted().tolist() == expected.tolist()
    assert history.add(history.tokens[FAR + 23 : FAR + 25], since=0) == 1, "it goes on matching"


def test_switched_off_it_hears_nothing():
    history = History(match=0)
    assert history.add(history.tokens[FAR - 9 : FAR]) is None
    assert history.boosted().max() < 0


def test_scores_that_are_none_are_reported_as_they_are():
    history = History()
    history.add(history.tokens[FAR - 3 : FAR])
    short = np.zeros(3, np.float32)
    assert history.echoes.boost_scores(short, False) is short


def test_its_limits_are_a_questions_at_the_plain_threshold():
    focus = FocusConfig(tau_expand=0.35, keep_newest=10)
    limits = limits_for(focus, Trigger.ECHO)
    assert (limits.n_diff, limits.rounds) == (focus.question.n_diff, focus.question.rounds)
    assert (limits.tau_expand, limits.keep_newest, limits.reopen) == (0.35, 0, True)


# -- in a session ----------------------------------------------------------------------------------


@pytest.fixture
def repeating(config_text, tmp_path):
    """A config over 900 characters of noise, then 60 of its first ones, then noise again."""
    rng = np.random.default_rng(0)
    noise = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), 1000))
    text = tmp_path / "repeating.txt"
    text.write_text(noise[:900] + noise[200:260] + noise[900:])
    head = config_text[: config_text.index("source:")]
    return head + f"source: {{kind: text, path: {text}, max_tokens: 1060, decode_tokens: 8}}\n"


ECHO = ["triggers.echo.match=6", "lens.kind=recency"]


def test_a_session_opens_the_passage_while_it_is_repeated(repeating, tmp_path, plain):
    result = run(parse_config(repeating, ECHO), tmp_path / "t.arrow", control=False)
    rows = rows_of(result.trace)
    repeated = range(906, 960)
    echoed = [r for r in rows if r.trigger == Trigger.ECHO and r.history_tokens in repeated]
    assert echoed, "the passage was not heard"
    opened = {
        (int(a["level"]), int(a["index"]))
        for row in echoed
        for a in row.actions
        if a["kind"] == 0 and a["level"] == 1
    }
    passage = {(1, block) for block in range(206 // 8, 260 // 8 + 1)}
    assert opened, "nothing was opened"
    assert opened <= passage
    assert plain.check_trace(result.trace) > 100
    report = verify(result.trace)
    assert report.problems == []
    assert report.rerun == len(rows)


def test_without_it_nothing_is_heard(repeating, tmp_path):
    config = parse_config(repeating, ["lens.kind=recency"])
    rows = rows_of(run(config, tmp_path / "t.arrow", control=False).trace)
    assert not [row for row in rows if row.trigger == Trigger.ECHO]


def test_a_question_echoes_nothing(config_text, text_file, tmp_path):
    planted = "the key of the third harbour is 12345."
    head = config_text[: config_text.index("source:")]
    config = parse_config(
        head + f"source: {{kind: script, text: {{kind: text, path: {text_file}}}, segments: ["
        f"{{kind: ingest, tokens: 100}}, {{kind: plant, name: code, text: '{planted}'}},"
        "{kind: ingest, tokens: 500},"
        "{kind: question, about: code, text: 'the key of the third harbour is', answer: '1',"
        " tokens: 2}]}",
        [*ECHO, "triggers.question_mark=false"],
    )
    rows = rows_of(run(config, tmp_path / "t.arrow", control=False).trace)
    began = 100 + len(planted) + 500
    late = [row for row in rows if row.history_tokens > began]
    question = next(row for row in late if row.trigger == Trigger.QUESTION)
    before = {row.trigger for row in late if row.history_tokens < question.history_tokens}
    assert before == {Trigger.BLOCK_CLOSED}


def decided(rows):
    """What rows say of refocuses, as text."""
    names = ("step", "round", "trigger", "history_tokens", "levels", "scores", "actions")
    return [repr([getattr(row, name) for name in names]) for row in rows]


def read_again(config_text, text_file, trace, *, asked=True, whole=True):
    """Rows behind 639 tokens of a run, that then reads 22 of its early tokens again.

    With ``asked`` a question and a token of its answer stand between; without ``whole`` the run
    ends 4 tokens behind that, as a block closes. A trace that is there is resumed.
    """
    passage = "the key of the third harbour is 12345."
    head = config_text[: config_text.index("source:")]
    segments = [
        "{kind: ingest, tokens: 100}",
        f"{{kind: plant, name: x, text: '{passage}'}}",
        "{kind: ingest, tokens: 501}",
        "{kind: question, about: x, text: '\\n#~', answer: '1', tokens: 1}" if asked else "",
        f"{{kind: plant, name: y, text: '{passage[: 22 if whole else 4]}'}}",
    ]
    source = (
        f"source: {{kind: script, text: {{kind: text, path: {text_file}}},"
        f" segments: [{', '.join(filter(None, segments))}]}}\n"
    )
    config = parse_config(head + source, [*ECHO, "triggers.question_mark=false"])
    run(config, trace, control=False, resume=trace.exists())
    return [row for row in rows_of(trace) if row.history_tokens > 639]


def test_for_a_block_behind_a_question_nothing_echoes(config_text, text_file, tmp_path):
    plain = read_again(config_text, text_file, tmp_path / "plain.arrow", asked=False)
    heard = [row.history_tokens - 639 for row in plain if row.trigger == Trigger.ECHO]
    assert heard, "without a question the passage is heard"
    assert heard[0] < SIZE
    rows = read_again(config_text, text_file, tmp_path / "asked.arrow")
    question = next(row.history_tokens for row in rows if row.trigger == Trigger.QUESTION)
    heard = [row.history_tokens - question for row in rows if row.trigger == Trigger.ECHO]
    assert heard, "a block later it is heard, too"
    assert min(heard) > SIZE


def test_a_run_resumed_behind_a_question_is_as_quiet(config_text, text_file, tmp_path):
    unbroken = read_again(config_text, text_file, tmp_path / "whole.arrow")
    trace = tmp_path / "cut.arrow"
    cut = read_again(config_text, text_file, trace, whole=False)
    question = next(row.history_tokens for row in cut if row.trigger == Trigger.QUESTION)
    assert cut[-1].trigger == Trigger.BLOCK_CLOSED
    assert question < cut[-1].history_tokens < question + SIZE
    resumed = read_again(config_text, text_file, trace)
    assert decided(resumed) == decided(unbroken)


def test_an_interrupted_run_hears_what_it_would_have_heard(repeating, tmp_path):
    whole = run(parse_config(repeating, ECHO), tmp_path / "whole.arrow", control=False).trace
    cut = tmp_path / "cut.arrow"
    for rest in (["source.max_tokens=928", "source.decode_tokens=0"], []):  # 928: in the passage
        config = parse_config(repeating, [*ECHO, *rest])
        run(config, cut, control=False, resume=not rest)
    assert decided(rows_of(cut)) == decided(rows_of(whole))
