import ast
import importlib

import pytest

from benchmarks.base import ROOT
from benchmarks.catalogue import BENCHMARKS

SCRIPTS = [path.relative_to(ROOT) for path in sorted((ROOT / "benchmarks").rglob("*.py"))]
OURS = ("models", "export", "beam_pipelines")


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_what_benchmarks_import_of_the_packages_exists(script):
    """They run rarely, and some in environments of their own, so that nothing else would notice."""
    for node in ast.walk(ast.parse((ROOT / script).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module


def test_the_catalogue_names_every_benchmark():
    found = {
        ".".join(path.with_suffix("").parts)
        for path in SCRIPTS
        if any(f"{run}(" in (ROOT / path).read_text() for run in ("    run_benchmark", "    run_study"))
        and path.stem not in ("base", "runs")
    }
    assert {benchmark.module for benchmark in BENCHMARKS.values()} == found
