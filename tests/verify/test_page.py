"""`brigade verify matrix --html`: what the page says, and when it is written."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from brigade.cli.main import main
from brigade.errors import ConfigError, RankFailed
from brigade.output_files import write_file
from brigade.verify import matrix, page
from brigade.verify.layout import Layout
from brigade.verify.page import PageFile, judge, render
from brigade.verify.run import Run
from tests.verify.builders import nudge_logits, write_case
from tests.verify.pages import DIFFERENT, HOSTILE, plan, state

TINY = ["--random-weights", "1", "--max-tokens", "2", "--num-prompts", "2"]


class Outline(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, word: str = "") -> int:
        """How many there are, of those with this word among their classes."""
        return sum(one == tag and (not word or word in (has.get("class") or "").split()) for one, has in self.tags)


# What it says.


def test_a_row_for_every_setting_and_a_picture_for_every_row() -> None:
    whole = plan()
    shown = Outline(render(whole, state(whole)))
    layouts = len({run.layout for run in whole.runs})
    assert shown.count("tr", "row") == shown.count("svg", "small") == len(whole.runs) > 40
    assert shown.count("tbody") == shown.count("tr", "layout") == layouts == 9
    assert shown.count("rect", "rank") == sum(layout.ranks for layout in {run.layout for run in whole.runs})
    for run in whole.runs:
        assert run.name in shown.text
    assert all(has.get("scope") in ("col", "row", "rowgroup") for tag, has in shown.tags if tag == "th")


def test_the_answer_comes_first_with_what_was_compared() -> None:
    whole = plan()
    text = Outline(render(whole, state(whole))).text
    first = text.index("Everything is the same")
    assert first < text.index("All rows") and "What is wrong" not in text
    count = len(whole.runs) - 1
    assert f"{count} of {count} settings say the same as the reference, bit for bit." in text
    for words in (
        "mini", "0f" * 16, "cpu-1/bf16-fma/avx2", "Example 9000 Processor, 2 cores", "brigade-llm 0.1.0, torch 2.11.0",
        "brigade verify matrix mini --html /tmp/out/page.html", "2026-03-01 12:30:00 UTC, 0:01:23 until this page was written",
    ):  # fmt: skip
        assert words in text[first:], words


def test_a_wrong_row_is_told_as_the_text_output_tells_it() -> None:
    whole = plan()
    text = Outline(render(whole, state(whole, {2: DIFFERENT, 5: "no ranks today"}))).text
    assert text.index("Not everything is the same") < text.index("What is wrong") < text.index("All rows")
    assert f"DIFFERENT {whole.runs[2].name} request 3, token 5: the logits differ (digest 5c0f1fb1c9ff0d5e expected" in text
    assert "request 3, token 9: id 12 (log-probability -0.693) expected, id 40" in text
    assert "the largest difference of two log-probabilities of one token is 1.19e-07" in text
    assert f"ERROR {whole.runs[5].name} no ranks today" in text
    same = f"{len(whole.runs) - 3} of {len(whole.runs) - 1} settings say the same as the reference, bit for bit"
    assert f"{same}; 1 differ; 1 could not be judged" in text


def test_links_within_the_page_lead_somewhere_and_no_id_is_there_twice() -> None:
    whole = plan()
    shown = Outline(render(whole, state(whole, {2: DIFFERENT, 5: "no ranks today"})))
    ids = Counter(has["id"] for _, has in shown.tags if "id" in has)
    links = [has["href"] for tag, has in shown.tags if tag == "a"]
    assert max(ids.values()) == 1 and len(links) == 4 and all(link[0] == "#" and link[1:] in ids for link in links)


def test_what_a_row_measured_is_under_its_heading() -> None:
    whole = plan()
    text = render(whole, state(whole))
    head = re.findall(r'<th scope="col"[^>]*>([^<]*)<', text)
    row = re.search(r'id="row-1">(.*?)</tr>', text, re.DOTALL)[1]
    cells = [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
    assert dict(zip(head[1:], cells, strict=True)) == {
        "verdict": "✓ same", "first difference, or error": "", "largest difference": "0", "tokens compared": "96",
        "seconds": "1.25", "steps": "47", "at once": "8", "preemptions": "2", "ids from cache": "64",
    }  # fmt: skip


def test_layouts_cut_by_hand_are_drawn_as_cut() -> None:
    whole = plan()
    own = plan(runs=[whole.runs[0], Run("by hand", Layout(1, 2, (1, 6)))])
    assert "layers 1–6" in render(own, state(own))


@pytest.mark.parametrize(
    ("wrong", "done", "stopped", "tone", "words"),
    [
        ({}, None, None, "good", "Everything is the same"),
        ({3: DIFFERENT}, None, None, "bad", "Not everything is the same"),
        ({3: DIFFERENT, 4: "x"}, None, None, "bad", "Not everything is the same"),
        ({3: "x"}, None, None, "open", "Nothing differs, but not every row could be judged"),
        ({}, 4, None, "open", "Not finished after 4 of"),
        ({}, 4, "it was interrupted", "open", "Stopped after 4 of"),
        ({3: DIFFERENT}, 4, "it was interrupted", "bad", "Stopped after 4 of"),
        ({}, 0, "ConfigError: no memory", "open", "Stopped after 0 of"),
    ],
)
def test_only_a_whole_run_of_equal_rows_is_green(wrong, done, stopped, tone: str, words: str) -> None:
    whole = plan()
    verdict = judge(whole, state(whole, wrong, done, stopped=stopped))
    assert verdict.tone == tone and verdict.words.startswith(words) and (stopped or "") in verdict.more
    shown = Outline(render(whole, state(whole, wrong, done, stopped=stopped)))
    assert verdict.words in shown.text and shown.count("section", tone) == 1
    assert shown.count("tr", "none") == (0 if done is None else len(whole.runs) - done)


def test_rows_that_nobody_asked_for_are_counted() -> None:
    few = plan(runs=plan().runs[:3], left_out=44)
    assert "44 other rows were left out by --rows" in judge(few, state(few)).more


def test_names_and_errors_cannot_become_a_part_of_the_page() -> None:
    whole = plan(model=HOSTILE, facts={HOSTILE: HOSTILE})
    clean = Outline(render(plan(facts={"x": "x"}), state(plan(), {1: "x"})))
    shown = Outline(render(whole, state(whole, {1: HOSTILE}, stopped=HOSTILE)))
    assert Counter(tag for tag, _ in shown.tags) == Counter(tag for tag, _ in clean.tags)
    assert shown.text.count(HOSTILE) >= 5


def test_nothing_is_fetched_from_elsewhere_and_nothing_runs() -> None:
    whole = plan()
    text = render(whole, state(whole, {2: DIFFERENT, 5: HOSTILE}))
    shown = Outline(text)
    assert not {tag for tag, _ in shown.tags} & {"script", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
    addresses = [has[name] for _, has in shown.tags for name in ("src", "href", "xlink:href", "srcset") if name in has]
    assert addresses and all(address == "data:," or address.startswith("#") for address in addresses)
    assert not [name for _, has in shown.tags for name in has if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "default-src 'none'" in text


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(dark: bool) -> None:
    palettes = re.findall(r":root \{(.*?)\}", page.TEMPLATE.read_text(), re.DOTALL)
    colour = dict(re.findall(r"--([\w-]+): (#\w{6})", palettes[dark]))
    pairs = [("ink", ground) for ground in ("paper", "card", "band", "rank", "door", "good-ground", "bad-ground", "open-ground")]
    pairs += [("soft", ground) for ground in ("paper", "card", "band", "rank", "door", "stage", "bad-ground", "open-ground")]
    pairs += [(tone, f"{tone}-ground") for tone in ("good", "bad", "open")] + [("bad", "card"), ("open", "card")]
    assert len(palettes) == 2 and all(contrast(colour[one], colour[other]) >= 4.5 for one, other in pairs)


# When it is written.


def fed(path: Path, error: BaseException | None = None, done: int = 4) -> str:
    """The page of a run that ends by `error` after some rows, or of a whole one."""
    whole = plan()
    with PageFile(path, whole) as kept:
        for row in state(whole).rows[: done if error is not None else None]:
            kept.add(row)
        if error is not None:
            raise error
    return path.read_text()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "it was interrupted"),
        (RankFailed("rank 3 died"), "RankFailed: rank 3 died"),
        (ConfigError("the page has no room"), "the page has no room"),
    ],
)
def test_a_run_that_ends_early_leaves_a_page_that_says_so(error: BaseException, words: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        fed(tmp_path / "page.html", error)
    text = Outline((tmp_path / "page.html").read_text()).text
    assert f"Stopped after 4 of {len(plan().runs)} rows" in text and words in text and "Everything is the same" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_killed_run_leaves_the_rows_that_it_had(tmp_path: Path) -> None:
    """Nothing can be written when the process is killed, so it was written before."""
    whole, out = plan(), tmp_path / "page.html"
    kept = PageFile(out, whole)
    for number, row in enumerate(state(whole).rows[:3], start=1):
        kept.add(row)
        assert f"Not finished after {number} of" in out.read_text()


def test_a_stream_gets_one_page(tmp_path: Path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(page, "write_file", lambda path, text: written.append(text))
    fed(Path("/dev/null"))
    assert len(written) == 1 and "Everything is the same" in written[0]


def test_a_disk_that_is_full_for_a_while_stops_no_row(tmp_path: Path, monkeypatch) -> None:
    tries = []

    def full_at_first(path: Path, text: str) -> None:
        tries.append(path)
        if len(tries) < 10:
            raise ConfigError("cannot write: No space left on device")
        write_file(path, text)

    monkeypatch.setattr(page, "write_file", full_at_first)
    assert "Everything is the same" in fed(tmp_path / "page.html")


def test_a_disk_that_stays_full_is_told_at_the_end(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, text: str) -> None:
        raise ConfigError("cannot write: No space left on device")

    monkeypatch.setattr(page, "write_file", full)
    with pytest.raises(ConfigError, match="No space left"):
        fed(tmp_path / "page.html")
    with pytest.raises(RankFailed, match="rank 3 died"):  # which is the greater trouble
        fed(tmp_path / "page.html", RankFailed("rank 3 died"))


# The command.


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(write_case(tmp_path / "case") / "tiny.yaml")


def run(recipe: str, *argv: object) -> int:
    return main(["verify", "matrix", recipe, *TINY, *map(str, argv)])


def test_the_command_writes_the_page(recipe: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "a page.html"
    assert run(recipe, "--rows", "1 rank, together", "--rows", "1 rank, chunks of 7", "--html", out) == 0
    text = Outline(out.read_text()).text
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] in text
    model, formats, numerics_id, requests = printed.splitlines()[0].split(" | ")
    for words in (*model.split(), formats, numerics_id, requests.removesuffix(" requests"), f"--html '{out}'", "fingerprint"):
        assert words in text, words


def test_a_fault_shows_on_the_page(recipe: str, tmp_path: Path, capsys, monkeypatch) -> None:
    nudge_logits(monkeypatch, together=2, row=1)
    out = tmp_path / "page.html"
    assert run(recipe, "--rows", "1 rank, together", "--rows", "1 rank, one by one", "--html", out) == 1
    text = Outline(out.read_text()).text
    told = next(line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    request"))
    assert "Not everything is the same" in text and told in text


@pytest.mark.parametrize("row", [0, 2])
def test_an_interrupted_command_leaves_its_page(row: int, recipe: str, tmp_path: Path, capsys, monkeypatch) -> None:
    real, calls = matrix.play, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) > row:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(matrix, "play", interrupted)
    out = tmp_path / "page.html"
    assert run(recipe, "--rows", "1 rank", "--html", out) == 130
    assert f"Stopped after {row} of" in out.read_text() and "it was interrupted" in out.read_text()


def test_a_place_that_cannot_be_is_refused_before_the_first_row(recipe: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(matrix, "play", lambda *_: pytest.fail("a row was run"))
    for place, words in ((tmp_path, "it is a folder"), (tmp_path / "none" / "x.html", "No such file"), (recipe, "which is read")):
        before = Path(recipe).read_bytes()
        assert run(recipe, "--html", place) == 2
        assert words in capsys.readouterr().err and Path(recipe).read_bytes() == before
    assert run(recipe, "--html", tmp_path / "one", "--json", tmp_path / "one") == 2
    assert "which --json writes" in capsys.readouterr().err and not (tmp_path / "one").exists()
