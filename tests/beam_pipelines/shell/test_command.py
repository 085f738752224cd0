import argparse
import errno
from pathlib import Path

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command
from beam_pipelines.shell.progress import say, warn


def exit_code(main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(main, [])
    return stop.value.code, capsys.readouterr()


def test_success_prints_the_closing_line_and_the_time(capsys):
    code, printed = exit_code(lambda argv: "made it", capsys)
    assert code == 0
    assert printed.out.startswith("made it [")


def test_what_the_user_can_fix_is_one_line_and_code_2(capsys):
    def main(argv):
        raise CommandError("--logs: no directory x")

    code, printed = exit_code(main, capsys)
    assert code == 2
    assert printed.err == "error: --logs: no directory x\n"
    assert printed.out == ""


def test_a_file_that_cannot_be_used_is_one_line_and_code_2(capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, problem in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        code, printed = exit_code(lambda argv, path=path: path.read_text(), capsys)
        assert (code, printed.err) == (2, f"error: {path}: {problem}\n")
    with pytest.raises(FileNotFoundError):  # which a defect may be
        run_command(lambda argv: (tmp_path / "nowhere").read_text(), [])


def test_interruption_is_code_130(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert exit_code(main, capsys)[0] == 130


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", Path("d")), "d: Permission denied"),
        (OSError(errno.ENOSPC, "No space left"), "no space left on the disk ([Errno 28] No space left)"),
        (OSError(errno.EFBIG, "File too large"), "no space left on the disk ([Errno 27] File too large)"),
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory (Unable to allocate 9 GiB)"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_code_2(capsys, error, line):
    def main(argv):
        raise error

    code, printed = exit_code(main, capsys)
    assert (code, printed.err, printed.out) == (2, f"error: {line}\n", "")


@pytest.mark.parametrize("defect", [ZeroDivisionError, BrokenPipeError(errno.EPIPE, "Broken pipe"), KeyError("page")])
def test_a_defect_keeps_its_traceback(defect):
    def main(argv):
        raise defect

    with pytest.raises(defect if isinstance(defect, type) else type(defect)):
        run_command(main, [])


def test_options_are_not_abbreviated_and_help_shows_defaults(capsys):
    parser = ArgumentParser("Does things.")
    parser.add_argument("--batch-size", type=int, default=17, help="pages")
    parser.add_overwrite()
    assert parser.parse_args(["--overwrite"]) == argparse.Namespace(batch_size=17, overwrite=True)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--batch", "3"])
    assert stop.value.code == 2
    assert "(default: 17)" in parser.format_help()


def test_require_directory(tmp_path):
    assert require_directory(tmp_path, "--logs", "x") == tmp_path
    with pytest.raises(CommandError, match=r"--data: no directory .*nowhere; beam_pipelines.build makes it"):
        require_directory(tmp_path / "nowhere", "--data", "beam_pipelines.build")


def test_errors_and_lines_of_the_library_name_options_in_a_command(capsys):
    def parser():
        parser = ArgumentParser("Does things.")
        parser.add_argument("--batch-size", type=int, default=17, help="pages")
        parser.add_overwrite()
        return parser

    @command(parser)
    def main(options):
        say("`batch_size` is 3 (`split` is no option)")
        warn("`batch_size` is small")
        raise InputError("`batch_size` must be 1. Received: 3; pass `overwrite=True`")

    with pytest.raises(CommandError, match=r"^--batch-size must be 1\. Received: 3; pass --overwrite$"):
        main([])
    printed = capsys.readouterr()
    assert printed.out == "--batch-size is 3 (`split` is no option)\n"
    assert printed.err == "warning: --batch-size is small\n"
    say("nobody asked")
    assert capsys.readouterr().out == ""
