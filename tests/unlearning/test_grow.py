import pytest
import torch

from architectures import CONFIGS, build
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import logits
from sluicegate.engine.models import load
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import from_config
from sluicegate.unlearning.grow import build_small, grow
from tiny_stages import material


@pytest.mark.parametrize("name", CONFIGS)
def test_a_small_student_grows_without_changing_what_it_says(name, tokenizer, mixed_items):
    teacher = build(name)
    student = build_small(teacher, 0.25, 0).eval()
    count = [sum(p.numel() for p in m.parameters()) for m in (student, teacher)]
    assert count[0] < count[1]
    batch = encode(tokenizer, mixed_items).batch(range(5))
    before = logits(student, batch).detach()
    assert grow(student, teacher, 0) is student
    torch.testing.assert_close(logits(student, batch).detach(), before, atol=1e-5, rtol=1e-5)
    mine, theirs = ({n: p.shape for n, p in m.named_parameters()} for m in (student, teacher))
    assert mine == theirs


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -1.0])
def test_a_share_that_is_none_is_refused(tiny, share):
    with pytest.raises(UserError, match="small is"):
        build_small(tiny, share, 0)


def test_the_stage_begins_small_ends_whole_and_counts_both(tmp_path):
    own = material(tmp_path / "material")
    settings = own | {"verb": "distill", "batch": 8, "steps": 4, "lr": 1e-3, "stop_at": 0.0}
    plain = result_of(execute(from_config(settings), tmp_path))
    folder = execute(from_config(settings | {"small": 0.25, "small_steps": 6}), tmp_path)
    result = result_of(folder)
    assert plain["flops"]["total"] < result["flops"]["total"] < 2.5 * plain["flops"]["total"], (
        "six steps of a small one, four of a whole one"
    )
    grown, teacher = load(str(folder))[0], load(own["model"])[0]
    assert {n: p.shape for n, p in grown.named_parameters()} == {n: p.shape for n, p in teacher.named_parameters()}
    with pytest.raises(UserError, match="leave --student out"):
        execute(from_config(settings | {"small": 0.25, "student": own["model"]}), tmp_path)
    with pytest.raises(UserError, match="Use: sluicegate distill"):
        execute(from_config(settings | {"verb": "undo", "small": 0.25}), tmp_path)


def test_training_can_tell_what_less_of_it_would_have_kept(tmp_path):
    own = material(tmp_path / "material")
    settings = own | {"verb": "train", "learn": ["retain"], "batch": 16, "steps": 40, "lr": 1e-2}
    assert "course" not in result_of(execute(from_config(settings), tmp_path))
    result = result_of(execute(from_config(settings | {"check_every": 15}), tmp_path))
    assert [step for step, _ in result["course"]] == [15, 30, 40]
    assert result["course"][-1][1] == pytest.approx(result["scores"]["retain"]["exact"])
    assert result["course"][0][1] < result["course"][-1][1]
    with pytest.raises(UserError, match="check_every"):
        execute(from_config({k: v for k, v in settings.items() if k != "retain"} | {"learn": ["forget"], "check_every": 5}), tmp_path)
