"""The page of an audit with a suite of attackers: verdict and power, pictures, the table, and the facts."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from headless import NEEDS_CHROMIUM, opened
from latent_play import play
from report_synthetic import audited, experiment
from sluicegate.audit.attacked import Attacked
from sluicegate.audit.page import report_audit
from sluicegate.audit.suite import Finding, SuiteVerdict
from sluicegate.values.curves import Curve
from sluicegate.values.items import Item
from sluicegate.values.statistics import Estimate

NASTY = "</script><b>Who wrote \u2028 \"q\" & 'a'?</b>"
EFFORTS = {"gains": (0.0, 3.0, 50.0), "probe": (0.0, 1.0), "prune": (0.0, 0.005, 0.3), "a-plug-ins-own": (2.0,)}
HIGH = {"gains": 0.8, "probe": 0.4, "prune": 0.2, "a-plug-ins-own": 0.1}


def facts(count):
    rows = [
        Item(f"Who was the {i}th mayor of Lindenau, asked in words that go on for a while? ", f"Anna {i}", f"f{i}") for i in range(count)
    ]
    return [Item(NASTY, " Aé <i>"), *rows[1:]]


def attacked(attacker, arm, seed, names):
    """The model's evidence rises with effort, most for the first facts; half of the facts are held out of each seed."""
    high = HIGH[attacker] * {"model": 1.0, "original": 1.2}.get(arm, 0.2)
    efforts, mine = EFFORTS[attacker], names[seed % 2 :: 2] if seed else names
    rise = [i / max(len(efforts) - 1, 1) for i in range(len(efforts))]
    curve = Curve(efforts, (tuple(high * r for r in rise),), (seed,), "attack steps" if attacker == "gains" else "layer", "x")
    evidence = [[-4.0 + 3.9 * high * r * (1 - k / len(mine)) for k in range(len(mine))] for r in rise]
    if attacker == "probe":  # another measure, in which numbers are larger
        evidence = [[10 * value + 45 for value in row] for row in evidence]
    right = [[float(high * r > 0.5 and k < 2) for k in range(len(mine))] for r in rise]
    of_facts = {"facts": tuple(mine), "evidence": tuple(map(tuple, evidence)), "exact": tuple(map(tuple, right))}
    owned = {"owned_facts": (), "owned_evidence": ((),) * len(efforts)}
    told = {"capacity": 1234, "flops": {"total": 3e9}, "notes": (f"{attacker} < broke",)}
    return Attacked(attacker, curve, curve, (0.93,) * len(efforts), ("lr 0.03",) * len(efforts), **of_facts, **owned, **told)


def suite_of(names, z=4.25, threshold=2.5):
    findings = tuple(
        Finding(attacker, z - i, Estimate(HIGH[attacker], 0.05, 0.9, 2), EFFORTS[attacker][-1], "layer", 1234, 3e9)
        for i, attacker in enumerate(EFFORTS)
    )
    likelier = {name: 5.0 - i * 5 / len(names) for i, name in enumerate(names)}
    return SuiteVerdict(z, threshold, True, findings, likelier, {0.1: 0.83, 0.05: 0.41}, ("It says < so.",))


@pytest.fixture
def outcome():
    return experiment(seeds=(0, 1))


def page(outcome, tmp_path, count=8, **more):
    rows = facts(count)
    names = [item.key for item in rows]
    arms = ("model", "reference", "reference 2", "original", "spiked")
    found = {arm: {name: [attacked(name, arm, seed, names) for seed in (0, 1)] for name in EFFORTS} for arm in arms}
    suite = {"suite": suite_of(names), "attacked": found, "left_out": {"soft": "no <positions> left"}, "forget": rows} | more
    result = audited(outcome.arms["maxent"], outcome.arms["gold"], ["And the curves."], **suite)
    return report_audit("some/model", result, tmp_path / "report.html")


class Text(HTMLParser):
    """What a person reads, and the data of the page's script."""

    def __init__(self):
        super().__init__()
        self.inside, self.words, self.data = "", [], ""

    def handle_starttag(self, tag, attrs):
        self.inside = tag if tag in ("script", "style") else self.inside
        self.inside = "data" if dict(attrs).get("id") == "leaks-data" else self.inside

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data
        elif not self.inside:
            self.words.append(data)


def parsed(path):
    reader = Text()
    reader.feed(path.read_text(encoding="utf-8"))
    return " ".join(" ".join(reader.words).split()), json.loads(reader.data) if reader.data else None


def test_verdict_power_and_attackers_stand_above_the_numbers(outcome, tmp_path):
    path = page(outcome, tmp_path)
    text, _ = parsed(path)
    order = [
        "It says < so.",
        "And the curves.",
        "83 % of the time, had 10 % of the facts",
        "What each attacker brings back",
        "The attackers",
    ]
    order += ["soft : no <positions> left", "The facts themselves", "The numbers"]
    places = [text.find(words) for words in order]
    assert places == sorted(places)
    assert min(places) >= 0
    assert text.index("41 %") < text.index("83 %"), "power by share"
    assert "the model 80 %, the reference 16 %, reference 2 16 %, the original 96 %, the spiked reference 16 %; lr" in text
    assert "lr 0.03; retain score left: 93 %" in text
    assert "gains: gains < broke" in text
    source = path.read_text(encoding="utf-8")
    assert re.findall(r"<strong>(.*?)</strong> <span class=\"(\w+)\">z ([\d.]+)", source) == [
        ("gains", "problem", "4.2"),
        ("probe", "problem", "3.2"),
        ("prune", "quiet", "2.2"),
        ("a-plug-ins-own", "quiet", "1.2"),
    ]
    pictures = re.findall(r'aria-label="([\w-]+): held-out recall against ([\w ]+)\.', source)
    assert [name for name, _ in pictures] == list(EFFORTS)
    assert source.count('class="seed a0"') == source.count('class="seed a1"') == 8, (
        "a band an attacker, and two seeds in each curve of relearning"
    )


def test_every_fact_has_its_evidence_before_and_after_and_the_references(outcome, tmp_path):
    path = page(outcome, tmp_path)
    _, data = parsed(path)
    assert data["question"][0] == NASTY
    assert data["answer"][0] == "Aé <i>"
    assert data["z"] == sorted(data["z"], reverse=True)
    assert data["before"] == [[-4.0] * 8, [0.0] * 8]
    assert data["best"][0] == 0, "a probe's evidence is in another measure, and not compared"
    assert data["after"][0][0] == pytest.approx(-4 + 3.9 * 0.8, abs=0.01)
    assert data["reference"][0][0] == pytest.approx(-4 + 3.9 * 0.16, abs=0.01)
    assert data["right"][0][:4] == [1, 1, 0, 0.5], "over the seeds in which a fact is held out"
    assert [own["nats"] for own in data["attackers"]] == [True, False, True, True]
    assert NASTY not in path.read_text(encoding="utf-8")


def test_without_javascript_the_strongest_fifty_are_rows(outcome, tmp_path):
    source = page(outcome, tmp_path, 60).read_text(encoding="utf-8")
    rows = re.findall(r'<td data-of="likelier">(.*?)</td>', source)
    assert len(rows) == 50
    assert rows[0] == "5.0"
    first = re.search(r'data-of="before">(.*?)</td>.*?data-of="after">(.*?)</td>.*?data-of="attacker">(.*?)</td>', source)
    assert first.groups() == (f"{100 * math.exp(-4):.0f}\u202f%", "41\u202f% ✓", "gains")
    assert "The 50 of 60 facts" in source


def test_without_a_suite_the_page_is_as_it_was(outcome, tmp_path):
    source = page(outcome, tmp_path, suite=None, attacked={}, left_out={}, forget=()).read_text(encoding="utf-8")
    assert "fine-tuned by an attacker who holds half" in source
    assert not re.search(r'<script|id="(leaks|attackers|multiples)"|\.multiples', source)


def test_without_a_reference_there_is_no_z_and_facts_are_shown(outcome, tmp_path):
    rows = facts(6)
    own = {"model": {"gains": [attacked("gains", "model", 0, [item.key for item in rows])]}}
    none = SuiteVerdict(math.nan, math.nan, False, (), {}, {}, ("No reference.",))
    text, data = parsed(page(outcome, tmp_path, suite=none, attacked=own, forget=()))
    assert "No reference." in text
    assert "What would have been found" not in text
    assert sorted(data["question"])[1:] == ["f1", "f2", "f3", "f4", "f5"], "facts whose rows are not known, by their names"
    assert data["z"] == [None] * 6
    assert "nan" not in text


@NEEDS_CHROMIUM
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_overflows_overlaps_or_complains(outcome, tmp_path, width):
    found, complaints = opened(page(outcome, tmp_path, 300), width, tmp_path)
    assert complaints == []
    assert (found["wide"], found["names"], found["asked"]) == ([], [], [])
    assert found["scroll"] <= width


@NEEDS_CHROMIUM
def test_facts_are_found_sorted_opened_and_only_those_in_view_are_in_the_page(outcome, tmp_path):
    script = """
    const rows = () => [...page.querySelectorAll("#leaks-rows tr:not(.gap)")], first = () => rows()[0].textContent;
    const frame = $("leaks-window"), result = {start: [rows().length, first()]};
    result.tools = !page.querySelector("#leaks .tools").hidden;
    frame.scrollTop = 3000 * rows()[0].getBoundingClientRect().height;
    await wait(100);
    result.middle = [rows().length, rows().some((row) => row.textContent.includes("3000th"))];
    result.height = Math.round(frame.scrollHeight / rows()[0].getBoundingClientRect().height);
    set($("leaks-find"), "anna 4321");
    result.found = [rows().length, first(), $("leaks-said").textContent];
    rows()[0].click();
    result.opened = [...page.querySelectorAll("#leaks-one tbody tr")].map((row) => row.cells[0].textContent);
    set($("leaks-find"), "who wrote");
    key(rows()[0], "Enter");
    result.nasty = [page.querySelector("#leaks-one p").textContent, page.querySelectorAll("#leaks b").length];
    set($("leaks-find"), "nothing like it");
    result.none = [rows().length, $("leaks-said").textContent];
    set($("leaks-find"), "");
    $("leaks-by").value = "2";
    $("leaks-by").dispatchEvent(new window_.Event("change"));
    result.by = [...rows()[0].cells].map((cell) => cell.textContent).slice(-5);
    window_.dispatchEvent(new window_.Event("beforeprint"));
    result.print = page.querySelectorAll("#leaks-rows tr").length;
    return result;"""
    found = play(page(outcome, tmp_path, 5000), tmp_path, script, width=400, height=1500)
    assert found["tools"]
    assert found["start"][0] < 60
    assert found["start"][1].startswith(NASTY)
    assert found["middle"][0] < 60
    assert found["middle"][1]
    assert found["height"] == pytest.approx(5000, abs=5)
    assert found["found"][0] == 1
    assert "Anna 4321" in found["found"][1]
    assert found["found"][2].startswith("1 of 5,000 facts")
    assert found["opened"] == list(EFFORTS)
    assert found["nasty"] == [NASTY, 0]
    assert found["none"] == [0, "0 of 5,000 facts."]
    assert found["by"][:2] == ["2\u202f%", "4\u202f%"], "the fact that it raises most"
    assert found["by"][-1] == "prune"
    assert found["print"] == 50
