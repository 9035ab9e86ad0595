"""Nothing under sluicegate.study imports torch."""

import subprocess
import sys

from tiny_stages import SRC


def test_no_module_of_study_imports_torch():
    names = sorted(f"sluicegate.study.{path.stem}" for path in (SRC / "sluicegate" / "study").glob("*.py") if path.stem != "__init__")
    assert len(names) > 15
    script = f"import sys, {', '.join(names)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(SRC)})
