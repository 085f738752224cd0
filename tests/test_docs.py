"""The documents hold together: links lead somewhere, code is that of the examples, commands and options exist."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

from beam_pipelines.shell.console import COMMANDS, script_name

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
)
README_LINES = 150
FOREIGN_OPTIONS = {
    "--add-opens",
    "--check",
    "--direct_num_workers",
    "--dropouts",
    "--environment_cache_millis",
    "--environment_config",
    "--environment_type",
    "--flink_master",
    "--flink_version",
    "--jobs",
    "--learning-rates",
    "--logdir",
    "--flink_submit_uber_jar",
    "--job_endpoint",
    "--no_wait_until_finish",
    "--output_executable_path",
    "--parallelism",
    "--quick",
    "--sdk_worker_parallelism",
    "--seeds",
    "--source",
    "--spark_submit_uber_jar",
    "--test",
    "--worker_pool",
}
"""Of Beam, of other programs and of benchmarks."""


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    broken = []
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (ROOT / document.parent / path).resolve() if path else ROOT / document
        found = target.exists() and target.is_relative_to(ROOT)
        if not found or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_commands_exist(document):
    text = (ROOT / document).read_text()
    commands = set(re.findall(r"python -m ((?:beam_pipelines|models|export|benchmarks)[\w.]*)", text))
    for command in commands:
        path = ROOT / command.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), command
    scripts = set(re.findall(r"`(courier-[\w-]+)`", text)) - {"courier-ranking"}
    assert scripts <= set(map(script_name, COMMANDS))


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.parts[0] in ("README.md", "docs")], ids=str)
def test_options_exist(document):
    """An option that stands in backticks is one of our commands, or of a command that the document names beside it."""
    known = "\n".join(path.read_text() for path in (ROOT / "tests" / "help").glob("*.txt"))
    text = (ROOT / document).read_text()
    options = set(re.findall(r"`(--[a-z][\w-]*)", text))
    missing = [option for option in options - FOREIGN_OPTIONS if not re.search(rf"{option}[\w-]*\b", known)]
    assert missing == []


def test_files_named_for_contributors_exist():
    """Paths in backticks; those with a part in capitals are patterns."""
    folders = "beam_pipelines|models|export|tests|docs|examples|benchmarks"
    paths = re.findall(rf"`((?:{folders})/[\w.*/]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(paths) > 20
    named = [path for path in paths if not re.search(r"[A-Z]{3}", path)]
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_python_in_the_readme_is_an_example():
    """Each paragraph of its code stands in one example, in this order, there perhaps inside a function.

    A line "# arguments of main" gives its arguments.
    """
    examples = [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        paragraphs = re.sub(r".*# arguments of main\n", "", block).strip("\n").split("\n\n")
        assert any(all(at >= 0 for at in positions(paragraphs, example)) for example in examples), block


def positions(paragraphs, example):
    """Where each paragraph begins in an example, behind the one before it; -1 where it is not there."""
    at = 0
    for paragraph in paragraphs:
        found = [example.find(text, at) for text in (paragraph, textwrap.indent(paragraph, "    "))]
        at = max(found)
        yield at


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_python_in_documents_imports_what_exists(document):
    text = (ROOT / document).read_text()
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_document_can_be_reached_from_the_readme():
    reached, waiting = set(), [Path("README.md")]
    while waiting:
        document = waiting.pop()
        if document in reached:
            continue
        reached.add(document)
        for link in re.findall(r"\]\(([^)#\s]+\.md)", without_code((ROOT / document).read_text())):
            target = (ROOT / document.parent / link).resolve()
            if target.is_relative_to(ROOT):
                waiting.append(target.relative_to(ROOT))
    assert {document for document in DOCUMENTS if document.parts[0] != "examples"} - reached == set()
