import pytest

from beam_pipelines.datasets.movielens import main
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.datasets.test_movielens_logs import make_source


def test_the_command_writes_logs_and_says_what_is_in_them(tmp_path, capsys):
    source = make_source(tmp_path / "source")
    arguments = ["--output", str(tmp_path / "logs"), "--source"]
    closing = main([*arguments, str(source)])
    assert "pages with both a like and a dislike: 1\n" in capsys.readouterr().out
    assert "3 pages with 5 candidates, 3 of them clicked, 2 users, 3 items" in closing
    assert "rated, liked or not: not an impression log" in closing
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        main([*arguments, str(source)])
    with pytest.raises(
        CommandError, match=r"^--source: no directory or archive .*nowhere; downloading MovieLens makes it"
    ):
        main([*arguments, str(tmp_path / "nowhere")])
    with pytest.raises(CommandError, match=r"^--like must be a rating, between 0.5 and 5. Received: 6"):
        main(["--source", str(source), "--like", "6"])
