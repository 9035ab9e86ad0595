"""lm-evaluation-harness on a model in memory."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.errors import UserError, first_line


def harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: str) -> dict[str, float]:
    """Numbers by task and the harness's own names (``boolq acc,none``); a task is a name of its, or a YAML file. Raises
    `UserError` where the package is missing, and where a task cannot be found or run."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("--lm-eval needs the package lm-eval: pip install 'sluicegate[eval]'.") from None
    names = [name.strip() for name in tasks.split(",")]
    files = {name: Path(name) for name in names if name.endswith((".yaml", ".yml"))}
    try:
        manager = TaskManager(include_path=[str(path.parent) for path in files.values()] or None)
        wanted = [files[name].stem if name in files else name for name in names]
        lm = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=8)
        found: Any = simple_evaluate(model=lm, tasks=wanted, task_manager=manager, bootstrap_iters=0)
    except Exception as error:  # a task is a program of its makers, and may fail in any way
        raise UserError(f"lm-evaluation-harness could not run {tasks!r} ({first_line(error)}). See: lm-eval ls tasks") from None
    return {
        f"{task} {name}": v for task, row in found["results"].items() for name, v in row.items() if "," in name and type(v) in (int, float)
    }
