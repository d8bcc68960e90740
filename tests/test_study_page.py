"""The rating page in a browser, from a file, without a network: filled in by keys and mouse, its answers read back."""

import json

import pytest
from chromium import Browser, needed
from conftest import buzz, make_video, numbered

from evaluation.study import __main__
from evaluation.study.ratings import read_answers, read_key

pytestmark = needed
CLIPS = ("ann/one", "bob/one")
LEVEL = {"genuine": {"visual": 5, "sync": 4, "realness": 5}, "invented": {"visual": 2, "sync": 3, "realness": 1}}
WIDE = "document.documentElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def made(spoken_root, tmp_path_factory):
    """A study of two clips and two methods: (folder of the page, path of the key)."""
    root = tmp_path_factory.mktemp("study")
    for shade, method in enumerate(("genuine", "invented")):
        for k, clip in enumerate(CLIPS):
            path = root / method / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_video(path, numbered(6) // 2 + 60 * shade + 10 * k, audio=buzz(0.24))
    args = ["make", "--out", root / "out", f"genuine={root}/genuine", f"invented={root}/invented"]
    assert (
        __main__.main([str(a) for a in [*args, "--clips", 2, "--words_from", spoken_root, "--note", "Say & <b>"]]) == 0
    )
    return root / "out" / "for_raters", root / "out" / "key.json"


def begin(page, folder, rater, deaf=False):
    page.open(folder / "index.html")
    page.click("#number")
    page.type(str(rater))
    if deaf:
        page.click("#deaf")
    page.press("Enter")


def watch(page):
    page.click("#play")
    page.wait("seen > 0")


def item_of(page, key):
    return key["items"][page.run("order[at].item")]


def fill(page, item, words):
    """Answers the video that is shown, by mouse and keys, and goes on."""
    watch(page)
    if item["part"] == "read":
        page.click("#words")
        page.type(words)
        page.click('[name=intelligibility][value="4"] + span')
    else:
        for question, value in LEVEL[item["method"]].items():
            if question != "sync" or page.run("hears"):
                page.click(f'[name={question}][value="{value}"] + span')
    page.click("#next")


def fill_all(page, key, words):
    while page.run("document.getElementById('end').hidden"):
        item = item_of(page, key)
        fill(page, item, words(item))


def save(page, key, rater):
    page.click("#save")
    return page.saved(f"answers_{key['study']}_rater{rater}.json")


def test_page_to_answers_to_table(made, tmp_path, capsys):
    folder, keyed = made
    key = read_key(keyed)
    files = []
    for rater, deaf in ((1, False), (2, True)):
        with Browser(tmp_path) as page:
            begin(page, folder, rater, deaf)
            fill_all(page, key, lambda item: key["words"][item["clip"]] if item["method"] == "genuine" else "no \u00e9")
            files.append(save(page, key, rater))
            assert page.errors == []
    assert (
        __main__.main(["read", "--key", str(keyed), "--answers", *map(str, files), "--json", f"{tmp_path}/s.json"]) == 0
    )
    assert "| genuine | 5.000 ± 0.000 | 4.000 | 5.000 ± 0.000 | 4.000 ± 0.000 | 0.0%" in capsys.readouterr().out
    scores = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert scores["invented"]["visual"]["value"] == 2 and scores["invented"]["sync"]["raters"] == 1
    assert scores["invented"]["wer"]["value"] >= 1


def test_the_keyboard_is_enough(made, tmp_path):
    folder, keyed = made
    key = read_key(keyed)
    with Browser(tmp_path) as page:
        page.open(folder / "index.html")
        page.press("Tab")
        page.type("3")
        page.press("Enter")
        while page.run("document.getElementById('end').hidden"):
            part = item_of(page, key)["part"]
            for key_name in ("Tab", "Enter"):  # from the heading to Play
                page.press(key_name)
            page.wait("seen > 0")
            page.press("Tab")  # Whole screen
            page.press("Tab")
            if part == "read":
                page.type("bin blue")
                for stroke in ("Tab", "Tab", "3"):
                    page.press(stroke)
            else:
                for stroke in ("4", "Tab", " ", "ArrowRight", "Tab", "Tab", "5"):  # the second question ends at 2
                    page.press(stroke)
            while page.run("document.activeElement.id") != "next":
                page.press("Tab")
            page.press("Enter")
        page.press("Tab")
        page.press("Enter")
        found = read_answers(page.saved(f"answers_{key['study']}_rater3.json"), key)
    for name, answer in found["answers"].items():
        if key["items"][name]["part"] == "rate":
            assert [answer[q] for q in ("visual", "sync", "realness")] == [4, 2, 5]
        else:
            assert (answer["words"], answer["intelligibility"]) == ("bin blue", 3)


def test_a_rater_goes_on_where_the_browser_was_closed(made, tmp_path):
    folder, keyed = made
    key = read_key(keyed)
    with Browser(tmp_path) as page:
        begin(page, folder, 4)
        order = page.run("order.map((each) => each.item)")
        for _ in range(3):
            fill(page, item_of(page, key), "red now")
    with Browser(tmp_path) as page:
        begin(page, folder, 4)
        assert page.run("at") == 3 and page.run("order.map((each) => each.item)") == order
        assert page.run("document.getElementById('done').value") == 3
        for _ in range(3):
            page.click("#back")
        assert page.run("document.getElementById('words').value") == "red now"
        page.run("at = 3, open()")
        fill_all(page, key, lambda item: "red now")
        assert len(read_answers(save(page, key, 4), key)["answers"]) == 6


def test_orders_differ_between_raters_and_lip_reading_comes_first(made, tmp_path):
    folder, keyed = made
    items, orders = read_key(keyed)["items"], set()
    with Browser(tmp_path) as page:
        for rater in range(1, 9):
            begin(page, folder, rater)
            order = page.run("order.map((each) => each.item)")
            assert [items[name]["part"] for name in order] == ["read"] * 2 + ["rate"] * 4
            orders.add(tuple(order[2:]))
    assert len(orders) >= 5  # of 24 that are possible


def test_nothing_is_left_out_and_each_gap_is_told(made, tmp_path):
    folder, _ = made
    with Browser(tmp_path) as page:

        def message():
            return page.run("document.querySelector('section:not([hidden]) [role=alert]').textContent")

        begin(page, folder, 0)
        assert "whole number" in message()
        begin(page, folder, 5)
        page.click("#next")
        assert "to its end" in message() and page.run("document.activeElement.id") == "play"
        watch(page)
        page.click("#next")
        assert "lip-read" in message() and page.run("document.activeElement.id") == "words"
        page.click("#none")
        page.click("#next")
        assert message() == "Please answer: Intelligibility." and page.run("at") == 0
        page.press("2")  # the focus is in the question
        assert message() == ""
        page.click("#next")
        assert page.run("at") == 1 and page.run("answers[order[0].item].words") == ""


def test_deaf_raters_are_not_asked_to_hear(made, tmp_path):
    folder, _ = made
    with Browser(tmp_path) as page:
        begin(page, folder, 6, deaf=True)
        page.run("at = 2, open()")
        assert page.run("document.querySelector('[name=sync-skip]').checked")
        page.click('[name=sync][value="2"] + span')
        assert not page.run("document.querySelector('[name=sync-skip]').checked")
        page.click("[name=sync-skip]")
        assert page.run("document.querySelector('[name=sync]:checked') === null")


def test_every_control_has_a_name_for_a_screen_reader(made, tmp_path):
    folder, _ = made
    controls = {"button", "radio", "checkbox", "textbox", "progressbar", "Video"}
    with Browser(tmp_path) as page:
        begin(page, folder, 7)
        for place, wanted in ((0, "Which words do you lip-read?"), (2, "5: excellent")):
            page.run(f"at = {place}, open()")
            nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
            nodes = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
            names = [node.get("name", {}).get("value", "") for node in nodes]
            assert len(names) >= 9 and all(names), [n["role"]["value"] for n in nodes if not n["name"]["value"]]
            assert any(wanted in name for name in names)


@pytest.mark.parametrize("width", [320, 360, 1000])
def test_the_page_fits_a_phone(made, tmp_path, width):
    folder, _ = made
    with Browser(tmp_path, width, 700) as page:
        page.open(folder / "index.html")
        assert not page.run(WIDE) and page.run("document.getElementById('note').textContent") == "Say & <b>"
        begin(page, folder, 8)
        for place in (0, 2):
            page.run(f"at = {place}, open()")
            assert not page.run(WIDE)
            low = page.run("[...document.querySelectorAll('.scale label')].map((e) => e.offsetHeight)")
            assert min(low) >= 44  # px that a finger hits
        page.run("at = order.length, open()")
        assert not page.run(WIDE)
