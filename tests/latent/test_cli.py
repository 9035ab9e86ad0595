"""The verb latent: its recipe of two arms, trained for a few steps, and the page that comes of it."""

from sluicegate.experiments.experiment import run_recipe
from sluicegate.latent.cli import assemble, recipe_on
from sluicegate.latent.page import page_of


def test_two_arms_are_trained_and_make_a_page(tmp_path):
    recipe = recipe_on("digits", "1.0", {"steps": 20}, 0)
    assert set(recipe.arms) == {"routed", "unrouted"}
    assert all(set(picture.get("arms", ())) <= set(recipe.arms) for picture in recipe.pictures)  # the packaged recipe has more of them
    outcome = run_recipe(recipe, tmp_path, (0,), workers=1)
    assemble(outcome, tmp_path)
    page = page_of(tmp_path, tmp_path / "page.html").read_text("utf-8")
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
