import pytest

from beam_pipelines.datasets.hm import main
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.datasets.test_hm_logs import make_source


def test_the_command_writes_logs_and_says_what_is_in_them(tmp_path, capsys):
    source = make_source(tmp_path / "source", gz=False, zipped=False, days=20)
    arguments = ["--output", str(tmp_path / "logs"), "--page-size", "12", "--source"]
    closing = main([*arguments, str(source)])
    assert "purchases of articles that the catalogue lacks, left out: 1\n" in capsys.readouterr().out
    assert closing.startswith(f"{tmp_path / 'logs'}: ")
    assert "sampled negatives" in closing
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        main([*arguments, str(source)])
    with pytest.raises(
        CommandError, match=r"^--source: no directory or archive .*nowhere; downloading the competition's data"
    ):
        main([*arguments, str(tmp_path / "nowhere")])
    with pytest.raises(CommandError, match=r"^--page-size must be at least 2. Received: 1"):
        main(["--source", str(source), "--page-size", "1"])
