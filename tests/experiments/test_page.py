import html
import re

import pytest

from report_synthetic import CURVES, FAST, FULL, SLOW, audited, experiment, without
from sluicegate.audit.page import report_audit
from sluicegate.experiments.page import report_experiment
from sluicegate.report.html import Link

NASTY = "<script>alert('x')</script> & $a_b$ \"q\""


def page(outcome, tmp_path) -> str:
    path = report_experiment(outcome, tmp_path / "report.html")
    return path.read_text(encoding="utf-8")


def text_of(source: str) -> str:
    """What a reader sees, on one line."""
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)).replace("\u202f", " ").replace("\xa0", " "))


def assert_self_contained(source: str):
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", source)
    assert not re.search(r"@import|url\((?!#)", source)
    assert "<script" not in source
    targets = re.findall(r"""(?:href="|url\()#([^")]+)""", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert targets
    assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))


def assert_colours_follow_the_page(source: str):
    for picture in re.findall(r'<svg class="picture".*?</svg>', source, flags=re.S):
        assert not re.search(r"#[0-9a-f]{6}\b", picture)
        for name in set(re.findall(r"var\(--([\w-]+)\)", picture)):
            assert f"--{name}:" in source


def test_the_page_holds_everything_and_needs_nothing_else(tmp_path):
    source = page(experiment(title="A title", about="What was done."), tmp_path)
    text = text_of(source)
    assert_self_contained(source)
    assert_colours_follow_the_page(source)
    for words in (
        "A title",
        "What was done.",
        "hidden, not gone",
        "Student's t over 3 seeds",
        "recall of the facts the attacker holds, after 10 attack steps",
        "1 − steps to relearn / steps the reference needs",
        "Facts the attacker holds",
        "Facts it never sees",
        "Savings.",
        "What the attack leaves of the rest",
        "Where the compute went",
        "teacher maxent",
        "sluicegate run by-hand.toml --seeds 3",
        "Save the recipe below as by-hand.toml",
        "Nothing that the run itself could notice.",
    ):
        assert words in text, words
    assert source.count('<svg class="picture"') == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]


def test_the_same_outcome_gives_the_same_bytes(tmp_path):
    assert page(experiment(), tmp_path) == page(experiment(), tmp_path)


def test_text_of_the_user_is_escaped(tmp_path):
    """What a user may write freely: a recipe's title and what it is about, and what warnings quote. Names may not."""
    outcome = experiment(title=NASTY, about=f"{NASTY}\n\n{NASTY}")
    for n, arm in enumerate(outcome.arms.values()):
        arm.attacks[0]["warnings"].append(f"{NASTY} {n}.")
    source = page(outcome, tmp_path)
    assert "<script" not in source
    assert text_of(source).count("<script>alert('x')</script>") > 6
    assert "$a" in text_of(source)  # never read as mathematics


def test_warnings_are_on_the_page(tmp_path):
    outcome = experiment()
    outcome.arms["maxent"].attacks[1]["warnings"].append("recall was still rising.")
    outcome.arms["harsh"].results[0]["reached"] = False
    text = text_of(page(outcome, tmp_path))
    assert "recall was still rising: maxent (seed 1)." in text
    assert "did not reach its stop score" in text


def test_one_seed_has_no_intervals_and_says_so(tmp_path):
    source = page(experiment(seeds=(4,)), tmp_path)
    assert '<span class="interval">' not in source
    assert "there are no intervals" in text_of(source)
    assert "--seeds 1 --seed 4" in text_of(source)


def test_without_a_reference_there_are_no_savings_and_the_page_says_why(tmp_path):
    source = page(experiment(without("gold"), reference=""), tmp_path)
    assert "No reference" in text_of(source)
    assert "<th>savings</th>" not in source
    assert_self_contained(source)


def test_without_an_attack_there_are_no_curves(tmp_path):
    source = page(experiment(attack=False), tmp_path)
    assert "No attack was run" in text_of(source)
    assert 'id="curves"' not in source
    assert "A@10" not in text_of(source)


def test_without_forget_scores_a_dash_stands_there(tmp_path):
    assert "–" in text_of(page(experiment(forget=None), tmp_path))


def test_a_short_attack_has_no_columns_for_later_steps(tmp_path):
    source = page(experiment(effort=(0.0, 1.0, 3.0, 10.0)), tmp_path)
    assert "<th>A@10</th>" in source
    assert "<th>A@30</th>" not in source
    assert "<th>B@100</th>" not in source


def test_a_reference_that_already_knows_is_named_as_the_problem(tmp_path):
    source = page(experiment(curves=CURVES | {"gold": (0.9,) * 6}), tmp_path)
    assert "it is no reference for savings" in text_of(source)


def test_curves_that_end_too_early_are_marked_as_bounds(tmp_path):
    low = tuple(value / 3 for value in SLOW)
    assert "≥" in page(experiment(curves=CURVES | {"gold": low}), tmp_path)


def test_settings_and_environment_are_read_from_the_run_folders(tmp_path):
    outcome = experiment(seeds=(0,))
    folder = tmp_path / "runs" / "unlearn-0"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'verb = "unlearn"\nmodel = "{tmp_path}/runs/train-1234"\nlr = 0.001\n')
    (folder / "env.json").write_text('{"device": "<cpu>"}')
    outcome.arms["maxent"].folders[0] = folder
    source = page(outcome, tmp_path)
    assert "&#34;device&#34;: &#34;&lt;cpu&gt;&#34;" in source
    assert 'model = "train-1234"' in text_of(source)
    assert str(tmp_path) not in source


def test_a_packaged_recipe_is_repeated_by_its_name(tmp_path):
    from sluicegate.experiments.experiment import Outcome
    from sluicegate.experiments.recipe import load_recipe
    from sluicegate.experiments.repeat import command

    recipe = load_recipe("undo-arithmetic")
    assert command(Outcome(recipe, (0, 1), {})) == "sluicegate run undo-arithmetic --seeds 2"
    assert command(Outcome(recipe, (0, 2), {})).splitlines()[1] == "sluicegate run undo-arithmetic --seeds 1 --seed 2"


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_audit_page(tmp_path, with_reference):
    outcome = experiment()
    reference = outcome.arms["gold"] if with_reference else None
    savings = outcome.savings("maxent") if with_reference else None
    said = ["Hidden & not gone."]
    found = audited(outcome.arms["maxent"], reference, said, warnings=["w<1"], savings=savings)
    path = report_audit("my/<model>", found, tmp_path / "a.html")
    source = path.read_text(encoding="utf-8")
    text = text_of(source)
    assert_self_contained(source)
    assert_colours_follow_the_page(source)
    assert "Audit of my/<model>" in text
    assert "Hidden & not gone." in text
    assert "w<1" in text
    assert ("<th>savings</th>" in source) is with_reference
    assert ("No reference was handed in" in text) is not with_reference
    if with_reference:
        path = report_audit("m", audited(outcome.arms["maxent"], reference, said), tmp_path / "b.html")
        assert "No savings" in text_of(path.read_text(encoding="utf-8"))


def test_pictures_survive_many_arms_and_equal_points(tmp_path):
    more = {f"a_rather_long_name_of_an_arm_{i}": {"verb": "unlearn", "method": "maxent", "model": "@base"} for i in range(12)}
    source = page(experiment(FULL | more, CURVES | dict.fromkeys(more, FAST)), tmp_path)
    assert_self_contained(source)
    assert_colours_follow_the_page(source)


def test_matplotlib_and_jinja_are_not_imported_before_they_are_needed():
    import subprocess
    import sys

    code = "import sys, sluicegate.report; print([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_leave_the_callers_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    page(experiment(), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_other_pages_are_named_where_there_are_some(tmp_path):
    outcome = experiment(FULL, seeds=(0, 1))
    assert "Beside this page" not in text_of(page(outcome, tmp_path))
    path = report_experiment(outcome, tmp_path / "report.html", [Link("latent/page.html", NASTY, "what it is.")])
    source = path.read_text(encoding="utf-8")
    assert 'href="latent/page.html"' in source
    assert NASTY in text_of(source)
    assert "<script>alert" not in source
