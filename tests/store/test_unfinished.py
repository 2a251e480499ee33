"""What is cut off the log of a server that was killed while it wrote: an unfinished end, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentraft_ray.checkpoint.unfinished import cut_unfinished


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


SELECT, MULTI, EXEC = command(b"SELECT", b"0"), command(b"MULTI"), command(b"EXEC")
PUSH = command(b"RPUSH", b"key", b"a value with " + MULTI + b" in it")
WHOLE = SELECT + b"#TS:1790000000\r\n" + MULTI + PUSH + PUSH + EXEC + PUSH


def write(directory: Path, log: bytes) -> Path:
    folder = directory / "appendonlydir"
    folder.mkdir(exist_ok=True)
    (folder / "a.manifest").write_text("file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\n")
    (folder / "a.1.incr.aof").write_bytes(log)
    return folder / "a.1.incr.aof"


def test_wherever_the_last_transaction_is_cut_all_of_it_goes_and_nothing_else(tmp_path: Path) -> None:
    last = MULTI + PUSH + PUSH + EXEC
    for length in range(len(last)):
        log = write(tmp_path, WHOLE + last[:length])
        assert cut_unfinished(tmp_path) == length
        assert log.read_bytes() == WHOLE
    assert write(tmp_path, WHOLE + last)
    assert cut_unfinished(tmp_path) == 0


def test_a_command_on_its_own_is_cut_alone(tmp_path: Path) -> None:
    log = write(tmp_path, WHOLE + PUSH[:-1])
    cut_unfinished(tmp_path)
    assert log.read_bytes() == WHOLE


def test_versions_before_7_have_one_file(tmp_path: Path) -> None:
    log = tmp_path / "appendonly.aof"
    log.write_bytes(WHOLE + MULTI + PUSH)
    assert cut_unfinished(tmp_path) == len(MULTI + PUSH)
    assert log.read_bytes() == WHOLE


@pytest.mark.parametrize(
    "log", [b"", b"REDIS0011 a snapshot" + MULTI, WHOLE + b"junk\r\n" + MULTI, WHOLE + b"*x\r\n", WHOLE + b"*1\r\n:4\r\nPING\r\n"]
)
def test_what_is_no_unfinished_end_is_left_to_the_server(log: bytes, tmp_path: Path) -> None:
    file = write(tmp_path, log)
    assert cut_unfinished(tmp_path) == 0
    assert file.read_bytes() == log


def test_a_directory_without_a_log_has_nothing_to_cut(tmp_path: Path) -> None:
    assert cut_unfinished(tmp_path) == 0
    write(tmp_path, b"").with_name("a.manifest").write_text("\n")
    assert cut_unfinished(tmp_path) == 0
