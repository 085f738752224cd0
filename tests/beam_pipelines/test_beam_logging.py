import logging
import threading

import pytest

from beam_pipelines.beam_logging import errors_held_back

BEAM, THEIRS, ROOT = (logging.getLogger(name) for name in ("apache_beam.runners.common", "their.library", None))


def log_all():
    BEAM.warning("slow")
    BEAM.error("worker failed")
    THEIRS.error("no network")
    ROOT.error("a script's own")
    # As Beam's own code would, which calls functions of the module `logging`.
    code = compile("import logging; logging.error('worker failed, too')", "/lib/apache_beam/runners/some.py", "exec")
    exec(code)


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def state_is_restored():
    def state():
        loggers = [
            (logger.handlers[:], logger.filters[:], logger.level) for logger in (ROOT, logging.getLogger("apache_beam"))
        ]
        return loggers, logging.getLogger("apache_beam").propagate

    before = state()
    yield
    assert state() == before


def test_errors_that_are_raised_are_not_logged_as_well(caplog):
    def fail():
        with errors_held_back():
            log_all()
            raise ValueError("worker failed")

    with pytest.raises(ValueError, match="worker failed"):
        fail()
    assert messages(caplog) == ["slow", "no network", "a script's own"]


def test_errors_that_beam_survives_are_logged_at_the_end(caplog):
    with errors_held_back():
        log_all()
        assert messages(caplog) == ["slow", "no network", "a script's own"]
    assert messages(caplog)[3:] == ["worker failed", "worker failed, too"]


def test_whoever_keeps_beam_s_log_apart_still_does(caplog):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("apache_beam"), "propagate", False)
        with errors_held_back():
            BEAM.warning("slow")
            BEAM.error("worker failed")
    assert messages(caplog) == []


def test_threads_of_others_still_say_how_they_end(monkeypatch):
    ended = []
    monkeypatch.setattr(threading, "excepthook", lambda end: ended.append(end.exc_type))

    def fail():
        raise ZeroDivisionError

    with errors_held_back():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert ended == [ZeroDivisionError]
