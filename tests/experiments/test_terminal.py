import io

from rich.console import Console

from report_synthetic import experiment, without
from sluicegate.experiments.terminal import terminal_table


def shown(outcome) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(terminal_table(outcome))
    return console.file.getvalue()


def test_the_table_is_whole_in_a_hundred_columns():
    text = shown(experiment())
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for word in ("arm", "retain", "forget", "A@10", "A@30", "B@100", "savings", "cost", "gold (reference)", "harsh"):
        assert word in text
    assert "[" in text.splitlines()[-3]


def test_one_seed_has_no_intervals_and_says_so():
    text = shown(experiment(seeds=(0,)))
    assert "one seed, no intervals" in text
    assert "[" not in text


def test_columns_that_were_not_measured_are_left_out():
    text = shown(experiment(without("gold"), reference="", attack=False, forget=None))
    assert "savings" not in text
    assert "A@10" not in text
    assert "forget" not in text


def test_names_are_text_and_not_markup():
    assert "[bold]t[/bold]" in shown(experiment(title="[bold]t[/bold]"))
