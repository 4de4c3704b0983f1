import signal
import sys
from pathlib import Path

import psutil
import pytest

from services.mesh import child
from services.mesh.child import Child
from tests.support.process import Process
from tests.support.waiting import wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)",
]


def test_a_child_that_ignores_its_stop_signal_is_killed_at_the_deadline(tmp_path: Path) -> None:
    stubborn = Child("stubborn", STUBBORN, tmp_path / "log")
    stubborn.start()
    wait_until(lambda: "up" in stubborn.output())

    stubborn.stop(deadline_s=0.1)

    assert stubborn.exit_code() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a death")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from services.mesh.child import Child\n"
        f"child = Child('child', {STUBBORN!r}, Path({str(tmp_path / 'child.log')!r}))\n"
        "child.start()\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with Process("parent", [sys.executable, "-c", script], tmp_path / "parent.log") as parent:
        pid = int(parent.wait_for_line("child").split()[1])
        assert psutil.pid_exists(pid)
        parent.kill()

    wait_until(lambda: not psutil.pid_exists(pid), what="the child is gone")


def test_output_and_last_words_are_those_of_the_last_start(tmp_path: Path) -> None:
    one = Child("one", [sys.executable, "-c", "print('only this'); print('bye')"], tmp_path / "log")
    for _ in range(2):
        one.start()
        wait_until(lambda: one.exit_code() is not None)

    assert one.output() == "only this\nbye\n"
    assert one.last_words() == "bye"
    assert (tmp_path / "log").read_text() == "only this\nbye\n" * 2


def test_lines_are_told_and_logged(tmp_path: Path) -> None:
    told: list[str] = []
    one = Child("one", SLEEPER, tmp_path / "log", on_line=told.append)
    one.start()

    wait_until(lambda: told)
    one.stop()

    assert told == ["up"]
    assert (tmp_path / "log").read_text() == "up\n"


def test_a_log_beyond_its_limit_moves_aside_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LOG_LIMIT_BYTES", 10)
    script = "import sys; print('x' * 50, flush=True); sys.stdin.read(); print('after')"
    talker = Child("talker", [sys.executable, "-c", script], tmp_path / "log")
    (tmp_path / "log").write_text("before " * 10)

    talker.trim_log()
    talker.start()
    wait_until(lambda: talker.exit_code() is not None)

    assert (tmp_path / "log.1").read_text() == "before " * 10
    assert (tmp_path / "log").read_text() == "x" * 50 + "\nafter\n"
