"""Whether the autoencoder's page can be used: at phone width, in the dark, with the keyboard alone, with a screen
reader."""

import numpy as np
import pytest
import torch

from headless import NEEDS_CHROMIUM
from latent_compared import EVERYTHING, NAMES, same_as_torch, small_page
from latent_keys import Chromium
from latent_play import play
from latent_synthetic import Blocks
from sluicegate.latent import page as pages

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return small_page(tmp_path_factory.mktemp("page") / "page.html")


FITS = """
const hidden = ".sr, svg, details:not([open]) > :not(summary)";
const shown = [...page.querySelectorAll("main *")].filter((e) => !e.closest(hidden) && e.getClientRects().length);
const wide = shown.filter((e) => e.getBoundingClientRect().right > frame.clientWidth + 1).map((e) => e.tagName + "#" + e.id);
const leaves = shown.filter((e) => e.matches("canvas, button, input, output, summary, svg") || (!e.children.length && e.textContent.trim()))
  .filter((e) => !e.parentElement.closest("button, .bars") && window_.getComputedStyle(e).display !== "inline");
const over = [];
leaves.forEach((a, i) => leaves.slice(i + 1).forEach((b) => {
  if (a.contains(b) || b.contains(a)) return;
  const r = a.getBoundingClientRect(), s = b.getBoundingClientRect();
  if (Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1 && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3)
    over.push([a, b].map((e) => e.tagName + "#" + e.id + " " + e.textContent.slice(0, 20)).join(" over "));
}));
const cut = shown.filter((e) => e.matches("button, dd, dt, figcaption") && e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent);
return {scroll: page.documentElement.scrollWidth, wide, over, cut, leaves: leaves.length};
"""


@pytest.mark.parametrize("width", [360, 400, 800, 1200])
def test_nothing_overlaps_or_overflows(page, tmp_path, width):
    found = play(page, tmp_path, FITS, width=width, height=6000)
    assert found["leaves"] > 80
    assert found["scroll"] <= width
    assert (found["wide"], found["over"], found["cut"]) == ([], [], [])


@pytest.mark.parametrize("k", [0, 2])
def test_colour_pictures_of_things_with_long_names(tmp_path, k):
    names = ["Ankle boot", "T-shirt/top", "</script><b>&"]
    torch.manual_seed(0)
    nets = {name: Blocks(6 * 5 * 3, classes=3, k=k) for name in NAMES}
    images, labels = np.random.default_rng(0).random((60, 6, 5, 3)).astype(np.float32), np.arange(60) % 3
    page = pages.write_page(tmp_path / "p.html", nets["routed"], nets["unrouted"], images=images, labels=labels, numbers={}, classes=names)
    same_as_torch(nets, play(page, tmp_path, EVERYTHING))
    found = play(page, tmp_path, FITS, width=400, height=6000)
    assert (found["wide"], found["over"], found["cut"]) == ([], [], [])
    script = 'draw([[[.2, .2], [.8, .9]]]); return [[...S.state.pixels], [...$("swaps").children].map((b) => b.textContent)];'
    pixels, chips = play(page, tmp_path, script)
    assert chips == names
    assert max(pixels) > 0.3


def test_light_and_dark(page, tmp_path):
    script = """
    const look = window_.getComputedStyle(page.body), at = $("seen").getContext("2d").getImageData(0, 0, 1, 1).data;
    return {ink: look.color, paper: look.backgroundColor, corner: [...at].slice(0, 3)};
    """
    light, dark = (play(page, tmp_path, script, dark=dark) for dark in (False, True))
    assert light["ink"] != dark["ink"]
    assert light["paper"] != dark["paper"]
    assert min(light["corner"]) > 200
    assert max(dark["corner"]) < 60


def test_the_keyboard_alone_does_everything(page, tmp_path):
    read, said = "sluicegate.state.read", "document.getElementById('did').textContent"
    with Chromium(page, tmp_path / "profile") as browser:
        browser.tab_to("pad")
        browser.press("Delete", *["ArrowDown"] * 3, " ", *["ArrowDown"] * 14, " ", "ArrowLeft")
        assert browser.ask("sluicegate.pad.strokes.length") == 1
        assert browser.ask("sluicegate.pad.strokes[0].length") == 15
        assert browser.ask(read) == 1  # a straight line down
        browser.until("document.getElementById('live').textContent === 'Pen lifted.'")
        browser.press("Backspace")
        assert browser.ask("sluicegate.pad.strokes.length") == 0
        browser.ask("Math.random = () => 0")
        browser.tab_to("random")
        browser.press("Enter")
        own = browser.ask(read)
        browser.tab_to("clear")
        browser.press("Tab", "Enter")  # the explanation of the keys
        assert browser.ask("document.querySelector('.keys').open")
        browser.tab_to("amounts")
        before = browser.ask("sluicegate.shown.routed.amount[0]")
        browser.press(*["ArrowRight"] * 5)
        assert browser.ask("sluicegate.shown.routed.amount[0]") > before
        assert browser.ask("sluicegate.state.chosen") == 0
        browser.press("Tab", "Tab")
        assert browser.ask("sluicegate.state.chosen") == 0  # passing over a slider chooses nothing
        browser.press("Enter")
        assert browser.ask("sluicegate.state.chosen") == 2
        browser.press("Tab", "ArrowRight", "ArrowRight")
        browser.tab_to("styles")
        assert browser.ask("sluicegate.state.chosen") == 3
        before = browser.ask("sluicegate.shown.routed.style[3 * 4]")
        browser.press(*["ArrowRight"] * 5)
        assert browser.ask("sluicegate.shown.routed.style[3 * 4]") > before
        browser.tab_to("reset")
        browser.press("Enter")
        browser.press("Tab", shift=True)
        browser.tab_to("ablate")
        browser.press(" ")
        assert browser.ask(f"sluicegate.shown.routed.amount[{own}]") == 0
        browser.tab_to("swaps")
        other = 0 if own else 1
        browser.press(*["Tab"] * other, "Enter")
        assert f"Block {own} is off and block {other} on" in browser.ask(said)
        browser.tab_to("blocks")
        browser.press("Tab", "Tab", "Enter")
        assert browser.ask("sluicegate.state.chosen") == 2
        browser.tab_to("keep-a")
        browser.press("Enter")
        browser.tab_to("morph")
        browser.press("ArrowRight")
        assert browser.ask("document.getElementById('morph').value") == "51"
        browser.tab_to("keep-b")
        browser.press("Enter")
        assert browser.ask("sluicegate.ends.a.pixels.join() === sluicegate.ends.b.pixels.join()")
        assert browser.complaints == []


def test_everything_that_can_be_used_has_a_name(page, tmp_path):
    script = """
    const named = (e) => (e.getAttribute("aria-label") || e.textContent).trim();
    const used = [...page.querySelectorAll("button, input, [tabindex], summary")];
    const within = "button, [role=img], [aria-hidden=true]";
    const pictures = [...page.querySelectorAll("canvas:not(#pad, [aria-hidden])")].filter((c) => !c.parentElement.closest(within));
    const told = (c) => c.matches("[role=img]") && (c.getAttribute("aria-label") || c.getAttribute("aria-labelledby"));
    const of = (list, is) => list.filter(is).map((e) => e.outerHTML);
    return {used: used.length, nameless: of(used, (e) => !named(e)), passed: of(used, (e) => e.tabIndex < 0),
            lost: of(pictures, (c) => !told(c))};
    """
    found = play(page, tmp_path, script)
    assert found["used"] > 40
    assert (found["nameless"], found["passed"], found["lost"]) == ([], [], [])
