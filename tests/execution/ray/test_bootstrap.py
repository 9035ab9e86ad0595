"""What is sent to a worker must come to life there without the package, or it could not say that the package is
missing."""

import subprocess
import sys

import pytest

from sluicegate.execution.ray.bootstrap import bootstrap, progress_queue

WITHOUT = """
import sys
sys.modules["sluicegate"] = None
from ray import cloudpickle
start_stage, Queue = cloudpickle.load(open(sys.argv[1], "rb"))
print(start_stage({}, None))
own = Queue()
own.put("base train", 1, 2, {})
print(own.take(), own.take())
"""


def test_both_work_where_the_package_is_not(tmp_path):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    (tmp_path / "sent").write_bytes(cloudpickle.dumps((bootstrap("1.2"), progress_queue())))
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path / "sent")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, messages = done.stdout.splitlines()
    assert told.startswith("the machine ")
    assert f"({sys.executable}) cannot import sluicegate: " in told
    assert told.endswith("Install version 1.2 there.")
    assert messages == "[('base train', 1, 2, {})] []"


def test_a_queue_that_nobody_reads_forgets_the_oldest():
    own = progress_queue()()
    for step in range(20_000):
        own.put(step)
    kept = own.take()
    assert (len(kept), kept[-1]) == (10_000, (19_999,))
