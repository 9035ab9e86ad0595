"""The oversight page in a real browser: it fits, in light and dark, and its animation plays, pauses, scrubs and obeys
keys."""

import pytest

from headless import NEEDS_CHROMIUM, opened
from latent_keys import Chromium
from latent_play import play
from oversight_synthetic import folders
from sluicegate_papers.oversight.page import report_oversight
from sluicegate_papers.oversight.page_numbers import gather

pytestmark = NEEDS_CHROMIUM
NAMED = ("naive", "naive_penalty_stopped", "filter_hidden", "routed", "single", "routed_baseline")
STATE = """
const dark = (n) => [...page.querySelectorAll("#stage .board")][n].querySelectorAll(".arrow");
const arrows = (n) => [...dark(n)].map((a) => [a.getAttribute("transform"), a.style.opacity].join(" ")).join("; ");
const all = (what, name) => [...page.querySelectorAll("#stage " + what)].map((e) => e.getAttribute(name) ?? e.textContent);
const look = () => ({now: $("now").textContent, at: $("at").value, button: $("play").textContent, arrows: arrows(0), naive: arrows(3),
  pressed: $("play").getAttribute("aria-pressed"), earned: all(".earned", "none"), eyes: all(".eye", "visibility"),
  ghost: all(".ghost", "transform")[0]});
"""
PLAYED = """(async () => {
const page = document, $ = (id) => page.getElementById(id), wait = (ms) => new Promise((done) => setTimeout(done, ms));
STATE
const idle = look(); await wait(300); const rested = look();
$("play").click();
const begun = look(), seen = new Set();
while (sluicegate.state.at < 1.1) { await wait(15); seen.add(sluicegate.state.at); }
$("play").click(); const paused = look(); await wait(300); const still = look();
$("play").click();
while ($("play").textContent === "Pause") await wait(15);
return {idle, rested, begun, seen: [...seen], paused, still, ended: look()};
})()""".replace("STATE", STATE)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    shares, seeds = (0.01, 0.1, 0.3), (0, 1)
    found = gather(NAMED, shares, seeds, folders(root, NAMED, shares, seeds))
    return report_oversight(found, root / "report.html", command="sluicegate oversight " + "--and-so-on " * 12, facts="What it took.")


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1200, False)])
def test_nothing_overflows_overlaps_or_complains(page, tmp_path, width, dark):
    here = tmp_path / page.name
    here.write_bytes(page.read_bytes())
    found, complaints = opened(here, width, tmp_path, dark=dark)
    assert complaints == []
    assert found["scroll"] <= width
    assert (found["wide"], found["names"], found["asked"]) == ([], [], [])
    assert found["text"] == found["ink"]


def test_the_boards_begin_as_the_page_drew_them(page, tmp_path):
    """The script redraws the last look at once: it must agree with what Python drew, but for the rounding to bytes."""
    script = """
    const parts = (svg) => [...svg.querySelectorAll(".arrow, .gate")].map((e) => Number(e.style.opacity));
    const turns = (svg) => [...svg.querySelectorAll(".arrow")].map((e) => e.getAttribute("transform").split(" scale")[0]);
    const pair = [0, 1, 2].map((n) => [page.querySelectorAll("#fields .board")[n], page.querySelectorAll("#stage .board")[n]]);
    const fills = (svg) => [...svg.querySelectorAll(".gate")].filter((e) => Number(e.style.opacity)).map((e) => e.style.fill);
    return {fills: pair.map(([a, b]) => [String(fills(a)), String(fills(b))]),
      off: Math.max(...pair.flatMap(([a, b]) => parts(a).map((v, i) => Math.abs(v - parts(b)[i])))),
      turned: pair.every(([a, b]) => String(turns(a)) === String(turns(b))), most: Math.max(...pair.flatMap(([a]) => parts(a)))};
    """
    found = play(page, tmp_path, script)
    assert found["off"] < 0.011
    assert found["turned"]
    assert found["most"] > 0.9
    drawn, played = found["fills"][2]
    assert drawn == played
    assert "distilled" in drawn
    assert "suppressed" in drawn


def test_the_scrubber_and_the_choices_show_other_boards(page, tmp_path):
    script = (
        STATE
        + """
    const end = look();
    set($("at"), 0); const start = look();
    set($("board"), 3); $("board").dispatchEvent(new window_.Event("change", {bubbles: true})); const other = look();
    $("eye").click(); const seen = look();
    set($("at"), 5); set($("share"), 2); $("share").dispatchEvent(new window_.Event("change", {bubbles: true}));
    return [end, start, other, seen, look()];
    """
    )
    end, start, other, seen, share = play(page, tmp_path, script)
    assert (end["now"], start["now"]) == ("update 100", "update 0")
    assert end["arrows"] != start["arrows"]
    assert start["earned"][0] == "returns 0.00"
    assert start["ghost"] != other["ghost"]
    assert set(other["eyes"]) == {"hidden"}
    assert set(seen["eyes"]) == {"visible"}
    assert seen["naive"] != other["naive"]
    assert share["earned"][3] != end["earned"][3]  # naive learns from more labels
    assert share["now"] == "update 100"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_it_plays_to_the_end_and_pauses_on_the_way(page, tmp_path, motion):
    """In real time. With less motion asked for, only whole looks are shown; otherwise there is something between."""
    with Chromium(page, tmp_path / "profile") as browser:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": motion}])
        found = browser.ask(PLAYED)
        assert browser.complaints == []
    assert found["idle"] == found["rested"]  # nothing plays by itself
    assert (found["begun"]["now"], found["begun"]["button"], found["begun"]["pressed"]) == ("update 0", "Pause", "true")
    assert found["paused"] == found["still"]
    assert (found["paused"]["button"], found["paused"]["pressed"]) == ("Play", "false")
    assert found["ended"] == found["idle"]
    between = [at for at in found["seen"] if at % 1]
    assert (between == []) == (motion == "reduce")


def test_keys_do_what_the_page_says(page, tmp_path):
    script = (
        STATE
        + """
    const at = [], press = (k, on = $("at")) => { key(on, k); at.push(look().now); };
    press("Home"); press("ArrowRight"); press("ArrowRight"); press("ArrowLeft"); press("End"); press("ArrowRight");
    press("e"); const eye = look().eyes[0];
    press("Home"); key($("at"), " "); const playing = look().button; key($("at"), " ");
    press("ArrowRight", $("board"));
    return {at, eye, playing, paused: look().button};
    """
    )
    found = play(page, tmp_path, script)
    assert found["at"][:6] == ["update 0", "update 20", "update 40", "update 20", "update 100", "update 100"]
    assert found["eye"] == "visible"
    assert (found["playing"], found["paused"]) == ("Pause", "Play")
    assert found["at"][-1] == "update 0"  # a list keeps its own keys
