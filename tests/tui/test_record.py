"""Recorded conversations: the file shows what the screen showed, line by line and in time."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from megacontext.tui.dev.record import Frame, Run, _screen, animated

SVG = "{http://www.w3.org/2000/svg}"


def line(text: str) -> tuple[Run, ...]:
    return (Run(text, "#ffffff", "#000000", False),)


def visible_at(node: ET.Element, share: float) -> bool:
    """Whether a group is shown at ``share`` of the recording."""
    animation = node.find(f"{SVG}animate")
    if animation is None:
        return True
    times = [float(t) for t in animation.attrib["keyTimes"].split(";")]
    values = animation.attrib["values"].split(";")
    return next(v for t, v in reversed(list(zip(times, values, strict=True))) if t <= share) == (
        "visible"
    )


def words_at(root: ET.Element, share: float) -> list[str]:
    groups = root.findall(f"{SVG}g/{SVG}g")
    shown = [g for g in groups if visible_at(g, share)]
    found = [(float(t.attrib["y"]), t.text or "") for g in shown for t in g.iter(f"{SVG}text")]
    return [text for _, text in sorted(found)]


def test_each_moment_shows_its_frame_and_equal_lines_are_drawn_once() -> None:
    frames = [
        Frame(0.0, (line("title"), line("a <b> & c"))),
        Frame(1.0, (line("title"), line("other"))),
        Frame(2.0, (line("title"), line("a <b> & c"))),
    ]
    svg = animated(frames, title="it")
    root = ET.fromstring(svg)
    end = 2.0 + 5.0
    assert words_at(root, 0.5 / end) == ["title", "a <b> & c"]
    assert words_at(root, 1.5 / end) == ["title", "other"]
    assert words_at(root, 6.9 / end) == ["title", "a <b> & c"]
    assert svg.count("title</text>") == 1
    assert svg.count("&amp; c</text>") == 1


def test_without_animation_the_last_frame_stands() -> None:
    svg = animated([Frame(0.0, (line("first"),)), Frame(1.0, (line("last"),))], title="it")
    groups = ET.fromstring(svg).findall(f"{SVG}g/{SVG}g")
    shown = ["".join(t.text or "" for t in g.iter(f"{SVG}text"))
             for g in groups if g.attrib.get("visibility") != "hidden"]  # fmt: skip
    assert shown == ["last"]


async def test_blocks_are_rectangles_and_words_keep_their_cells(story, clock) -> None:
    from megacontext.tui.app import InspectorApp

    app = InspectorApp(story(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        svg = animated([_screen(app, 0.0)], title="it")
    root = ET.fromstring(svg)
    texts = list(root.iter(f"{SVG}text"))
    assert not any(set(t.text or "") & set("█▀▄▁▇") for t in texts)
    for text in texts:
        assert float(text.attrib["textLength"]) == round(len(text.text or "") * 8.4, 1)
    assert any((t.text or "").startswith("REPLAY") for t in texts)
