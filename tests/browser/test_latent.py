"""The autoencoder's page in a real browser: it computes what torch computes, and does what its controls say."""

import json

import numpy as np
import pytest
import torch

from headless import NEEDS_CHROMIUM
from latent_compared import EVERYTHING, NAMES, NUMBERS, close, drawn, encoded, same_as_torch, small_nets, small_page
from latent_play import play
from latent_synthetic import trained
from sluicegate.errors import UserError
from sluicegate.latent import page as pages
from sluicegate.latent.model import Autoencoder
from sluicegate.tasks.digits import load_images
from strokes import HANDS, placed

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def nets():
    return small_nets()


@pytest.fixture(scope="module")
def page(nets, tmp_path_factory):
    return small_page(tmp_path_factory.mktemp("page") / "page.html")


def test_the_nets_of_the_page_are_those_of_torch(page, nets, tmp_path):
    same_as_torch(nets, play(page, tmp_path, EVERYTHING))


def test_the_page_reads_the_model_that_is_trained(tmp_path):
    torch.manual_seed(0)
    routed, unrouted = (Autoencoder((5, 4, 1), "abc", hidden=(24, 16, 12), k=2).eval() for _ in range(2))
    images, labels = np.random.default_rng(0).random((30, 5, 4)).astype(np.float32), np.arange(30) % 3
    page = pages.write_page(tmp_path / "p.html", routed, unrouted, images=images, labels=labels, numbers={}, classes=routed.classes)
    for one in play(page, tmp_path, EVERYTHING):
        for name, net in (("routed", routed), ("unrouted", unrouted)):
            with torch.no_grad():
                code = net.encode(np.array(one["x"], np.float32).reshape(1, 5, 4))
                picture = net.decode(code)
            close(one[name][0], code.amounts[0])
            close(one[name][1], code.styles[0].flatten())
            close(one[name][2], picture.flatten())


def test_int8_weights_are_those_of_the_rounded_net(nets, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "BUDGET", 100_000)
    page = small_page(tmp_path / "small.html", {})
    assert "rounded to 8 bits" in page.read_text()
    same_as_torch({name: pages.rounded(net, 8) for name, net in nets.items()}, play(page, tmp_path, EVERYTHING))


CONTROLS = """
const seen = () => ({routed: pixels("routed"), unrouted: pixels("unrouted"), amounts: [...S.shown.routed.amount],
                     says: $("did").textContent, reads: $("routed-reads").textContent});
const amounts = $("amounts").querySelectorAll("input"), styles = $("styles").querySelectorAll("input"), out = {};
out.pixels = [...S.state.pixels]; out.read = S.state.read; out.first = seen();
const usual = (n) => [n.usualAmount, n.usualStyle, n.spread, n.most];
out.usual = {routed: usual(S.nets.routed), unrouted: usual(S.nets.unrouted)};
set(amounts[out.read], 0.2); out.low = seen();
set(styles[1], 2); out.styled = seen();
$("reset").click(); out.back = seen(); out.resetOff = $("reset").disabled;
$("ablate").click(); out.ablated = seen(); out.ablateOff = $("ablate").disabled;
$("reset").click();
out.swaps = [...$("swaps").children].map((chip) => { chip.click(); return seen(); });
$("reset").click();
out.off = out.first.amounts.indexOf(Math.min(...out.first.amounts));
set(amounts[out.off], 0.8); out.added = seen();
return out;
"""


@pytest.fixture(scope="module")
def controlled(page, tmp_path_factory):
    return play(page, tmp_path_factory.mktemp("controls"), CONTROLS)


def changed(controlled, net, name, edit):
    """The picture that torch draws once `edit(amount, style, usual amount, usual style, spread, most)` has changed the
    code."""
    amount, style = encoded(net, controlled["pixels"])
    usual, centre, spread, most = controlled["usual"][name]
    shape = style.shape
    edit(amount, style, torch.tensor(usual), torch.tensor(centre).view(shape), torch.tensor(spread).view(shape), most)
    return drawn(net, amount, style)


def test_sliders_change_the_picture_as_the_decoder_would(controlled, nets):
    own = controlled["read"]
    for name in NAMES:

        def low(amount, style, usual, centre, spread, most):
            amount[own] = 0.2 * most

        def styled(amount, style, usual, centre, spread, most):
            amount[own] = 0.2 * most
            style[own, 1] = centre[own, 1] + 2 * spread[own, 1]

        def added(amount, style, usual, centre, spread, most):
            amount[controlled["off"]] = 0.8 * most
            style[controlled["off"]] = centre[controlled["off"]]  # it was off, and begins with its usual styles

        for step, edit in (("low", low), ("styled", styled), ("added", added)):
            close(controlled[step][name], changed(controlled, nets[name], name, edit))
        close(controlled["back"][name], controlled["first"][name], 0)
    for before, after in (("first", "low"), ("low", "styled"), ("back", "added")):
        assert np.abs(np.subtract(controlled[before]["routed"], controlled[after]["routed"])).max() > 0.05
    assert controlled["resetOff"]


def test_ablate_switches_the_own_block_off_in_both_nets(controlled, nets):
    own = controlled["read"]
    for name in NAMES:

        def off(amount, style, *_):
            amount[own] = 0

        close(controlled["ablated"][name], changed(controlled, nets[name], name, off))
    assert controlled["ablated"]["amounts"][own] == 0
    assert controlled["ablateOff"]
    assert f"Block {own} is off" in controlled["ablated"]["says"]
    assert controlled["first"]["reads"] == f"reads as {own}"


def test_without_its_block_a_digit_is_gone(page, tmp_path):
    script = """
    const same = () => $("routed-reads").textContent === "reads as " + S.DATA.classes[S.state.read];
    const left = [0, 0];
    for (let i = 0; i < 40; i++) {
      S.take(S.imageAt(i));
      left[0] += same();
      $("ablate").click();
      left[1] += same();
    }
    return left;
    """
    before, after = play(page, tmp_path, script)
    assert before >= 32
    assert after <= 8


def test_turning_into_another_switches_one_block_off_and_one_on(controlled, nets):
    own = controlled["read"]
    usual = controlled["usual"]
    for other, swap in enumerate(controlled["swaps"]):
        if other == own:
            close(swap["routed"], controlled["first"]["routed"], 0)
            continue
        was_off = controlled["first"]["amounts"][other] < 0.1 * usual["routed"][0][other]
        share = usual["routed"][0][other] / usual["routed"][3]
        for name in NAMES:

            def exchanged(amount, style, _usual, centre, spread, most, other=other, was_off=was_off, share=share):
                amount[own], amount[other] = 0, share * most
                if was_off:
                    style[other] = centre[other]

            close(swap[name], changed(controlled, nets[name], name, exchanged))
        assert f"Block {own} is off and block {other} on" in swap["says"]
    read = [swap["reads"] == f"reads as {other}" for other, swap in enumerate(controlled["swaps"])]
    assert sum(read) >= 8


def test_motion_ends_where_no_motion_ends(page, controlled, tmp_path):
    script = '$("swaps").children[(S.state.read + 1) % 10].click(); await wait(1500); return pixels("routed");'
    close(play(page, tmp_path, script, moving=True), controlled["swaps"][(controlled["read"] + 1) % 10]["routed"], 1e-9)


def test_a_morph_goes_straight_from_one_code_to_the_other(page, nets, tmp_path):
    script = """
    S.take(S.imageAt(4)); $("keep-a").click(); S.take(S.imageAt(5)); $("keep-b").click();
    const at = (t) => { set($("morph"), t); return [pixels("morph-routed"), pixels("morph-unrouted")]; };
    const strip = [...$("strip-routed").children].map((c) => [...S.drawnLast.get(c)]);
    return {a: [...S.imageAt(4)], b: [...S.imageAt(5)], t: [0, 30, 100].map(at), strip};
    """
    found = play(page, tmp_path, script)
    for i, name in enumerate(NAMES):
        (a, s), (b, u) = (encoded(nets[name], found[end]) for end in "ab")
        for t, pictures in zip((0, 0.3, 1), found["t"], strict=True):
            close(pictures[i], drawn(nets[name], a + t * (b - a), s + t * (u - s)))
    assert len(found["strip"]) == 9
    close(found["strip"][0], found["t"][0][0], 1e-9)
    close(found["strip"][8], found["t"][2][0], 1e-9)


def test_blocks_alone_and_their_traversal(page, nets, tmp_path):
    script = """
    $("blocks").children[3].click();
    const cells = [...$("traversal").rows].map((row) => [...row.querySelectorAll("canvas")].map((c) => [...S.drawnLast.get(c)]));
    return {cells, alone: [...$("blocks").querySelectorAll("canvas")].map((c) => [...S.drawnLast.get(c)]), n: S.nets.routed,
            pressed: [...$("blocks").children].map((b) => b.getAttribute("aria-pressed"))};
    """
    found = play(page, tmp_path, script)
    usual, centre, spread = (torch.tensor(found["n"][name]) for name in ("usualAmount", "usualStyle", "spread"))
    centre, spread = centre.view(10, -1), spread.view(10, -1)
    for j in range(10):
        close(found["alone"][j], drawn(nets["routed"], torch.eye(10)[j] * usual, centre))
    least, most = centre.clone(), torch.eye(10)[3] * found["n"]["most"]
    least[3, 1] -= 3 * spread[3, 1]
    close(found["cells"][0][6], drawn(nets["routed"], most, centre))
    close(found["cells"][2][0], drawn(nets["routed"], torch.eye(10)[3] * usual, least))
    assert found["pressed"].index("true") == 3


PLACES = ((0.9, 0.05, 0.05), (0.4, 0.5, 0.1), (0.6, 0.1, 0.35))


def strokes_read(page, tmp_path):
    """Of each hand of each digit, in three places and sizes on the pad: the digit, what it is read as, its pixels."""
    hands = [(digit, hand) for digit, both in HANDS.items() for hand in both]
    cases = [placed(hand, *place) for _, hand in hands for place in PLACES]
    script = f"return {json.dumps(cases)}.map((strokes) => {{ draw(strokes); return [S.state.read, [...S.state.pixels]]; }});"
    found = play(page, tmp_path, script)
    digits = [digit for digit, _ in hands for _ in PLACES]
    return [(digit, str(read), np.array(pixels)) for digit, (read, pixels) in zip(digits, found, strict=True)]


def test_drawn_digits_are_read_right_wherever_and_however_large(page, tmp_path):
    found = strokes_read(page, tmp_path)
    assert sum(digit == read for digit, read, _ in found) >= 0.9 * len(found)
    for at in range(0, len(found), len(PLACES)):
        for _, _, pixels in found[at + 1 : at + len(PLACES)]:
            close(pixels, found[at][2], 0.06)  # smaller strokes are sampled on the same points, but smoothed on a coarser pad


@pytest.mark.slow
def test_drawn_digits_are_read_right_by_a_net_of_mnist(tmp_path):
    try:
        data = load_images("mnist")
    except UserError as error:
        pytest.skip(str(error))
    nets = {
        "routed": trained(data.train.images, data.train.labels, hidden=256, epochs=10, most=2),
        "unrouted": trained(data.train.images, data.train.labels, hidden=256, epochs=1, routed=False),
    }
    page = pages.write_page(
        tmp_path / "mnist.html",
        nets["routed"],
        nets["unrouted"],
        images=data.validation.images,
        labels=data.validation.labels,
        numbers=NUMBERS,
    )
    same_as_torch(nets, play(page, tmp_path, EVERYTHING))
    found = strokes_read(page, tmp_path)
    assert sum(digit == read for digit, read, _ in found) >= 0.9 * len(found)
    for _, _, pixels in found:
        picture = pixels.reshape(28, 28)
        y, x = ((picture.sum(1 - axis) * (np.arange(28) + 0.5)).sum() / picture.sum() for axis in (0, 1))
        assert abs(x - 14) < 1
        assert abs(y - 14) < 1
        rows, columns = np.flatnonzero(picture.max(1) > 0.1), np.flatnonzero(picture.max(0) > 0.1)
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22


def test_an_empty_pad_shows_nothing_and_a_dot_stays_a_dot(page, tmp_path):
    script = """
    $("clear").click(); const empty = [pixels("routed"), $("routed-reads").textContent, $("ablate").disabled];
    draw([[[0.3, 0.3]]]); return {empty, dot: [...S.state.pixels], undone: ($("undo").click(), [...S.state.pixels])};
    """
    found = play(page, tmp_path, script)
    assert found["empty"] == [[0] * 64, "", True]
    assert 0 < sum(found["dot"]) < 2
    assert found["undone"] == [0] * 64
