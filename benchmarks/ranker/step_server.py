"""Does one measured thing after another, on demand: how `speed.py` and each of its sides, a process of its own, talk.

Nothing but the standard library is used here: every side imports it, each in its environment.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def serve(about: Mapping[str, Any], actions: Mapping[str, Callable[..., float]]) -> None:
    """Answers requests until standard input ends.

    A request is one line, a JSON list of an action and its arguments. The answer is one JSON line: `value`, what the
    action returned, `seconds` and `cpu_seconds` that it took, and `peak_mb`, the largest resident size of the process
    so far.

    Args:
        about: the first line, said before any request.
        actions: by name.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print what they like
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        start, cpu = time.perf_counter(), time.process_time()
        value = actions[name](*arguments)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        # Not of getrusage, which begins with what the process was forked from.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        print(json.dumps({"value": value, **took, "peak_mb": int(peak[1]) / 1e3}), file=answers, flush=True)
