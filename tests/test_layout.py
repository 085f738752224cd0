"""The layout is what CONTRIBUTING.md says: packages depend one way, tests mirror them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("beam_pipelines", "models", "export")


# The report on an experiment is of logs, not of a dataset; a benchmark of recommenders is a table of its own.
LOG_READERS = re.compile(r"models/(ab_report\.py|experiments/|retrieval/interaction_file\.py)")
READING_LOGS = re.compile(r"beam_pipelines\.(logs|log_options|options)\b")
# The work of a day begins with its logs.
DAILY = re.compile(r"export/daily/\w+\.py: beam_pipelines(\.(logs\.\w+|log_options|options))?$")


def imports_of(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield path, node.module


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("beam_pipelines", r"(tensorflow|keras|scann|models|export)\b"),
        ("models", r"export\b"),
        # Upwards, only what a dataset is and the conventions of commands are shared.
        ("models", r"beam_pipelines\b(?!\.(format|shell)\b)"),
        ("export", r"beam_pipelines\b(?!\.(format|shell)\b)"),
        ("models", r"tf_keras\b|tensorflow\.keras\b"),
    ],
)
def test_packages_depend_one_way(package, foreign):
    found = [f"{path.relative_to(ROOT)}: {name}" for path, name in imports_of(package) if re.match(foreign, name)]
    found = [each for each in found if not (LOG_READERS.match(each) and READING_LOGS.match(each.split(": ")[1]))]
    assert [each for each in found if not DAILY.match(each)] == []


def is_command(path):
    return "run_command(main)" in path.read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_commands_are_imported_by_nothing(package):
    commands = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
        if is_command(path) and path.name != "__main__.py"
    }
    assert {name for _, name in imports_of(package)} & commands == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_only_commands_know_of_commands(package):
    found = [path for path, name in imports_of(package) if name == "beam_pipelines.shell.command"]
    assert [str(path) for path in found if not is_command(path)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_library_does_not_print(package):
    printing = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if is_command(path) or path.is_relative_to(ROOT / "beam_pipelines" / "shell"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{path}:{node.lineno}")
    assert printing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_mirror_the_package(package):
    """`tests/PACKAGE/ROOM/test_MODULE[_TOPIC].py` is of `PACKAGE/ROOM/MODULE.py`."""
    strangers = []
    for path in sorted((ROOT / "tests" / package).rglob("test_*.py")):
        room = ROOT / package / path.parent.relative_to(ROOT / "tests" / package)
        modules = [module.stem for module in room.glob("*.py")] + [folder.name for folder in room.glob("*/")]
        name = path.stem.removeprefix("test_")
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            strangers.append(str(path.relative_to(ROOT)))
    assert strangers == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_tests(package):
    rooms = {path.parent.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")}
    tested = {
        path.parent.relative_to(ROOT / "tests" / package) for path in (ROOT / "tests" / package).rglob("test_*.py")
    }
    assert sorted(map(str, rooms - tested)) == []
