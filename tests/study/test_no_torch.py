"""Nothing under sluicegate_study imports torch, its quiz of language models apart."""

import os
import subprocess
import sys

from house import ROOTS, modules


def test_no_module_of_study_imports_torch():
    names = sorted(name for name in modules() if name.startswith("sluicegate_study") and not name.startswith("sluicegate_study.quiz"))
    assert len(names) > 50
    script = f"import sys, {', '.join(names)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": os.pathsep.join(map(str, ROOTS))})
