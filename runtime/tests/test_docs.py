"""The commands of docs/runtime/path.md, "Try it", run as they are written, but for ports and folders."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

from processes import call, done, running, wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs/runtime/path.md"


def commands() -> list[list[str]]:
    block = PAGE.read_text(encoding="utf-8").partition("## Try it\n```\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_the_commands_of_the_page_do_what_it_says(tmp_path):
    places = {"8099": free_port(), "8092": free_port(), "/tmp/rt-state": str(tmp_path)}
    ours = []
    asked = []
    variables = {}
    for command in commands():
        line = [word for word in command if word != "&"]
        for written, place in places.items():
            line = [word.replace(written, place) for word in line]
        if line[0].endswith("precog-runtime"):
            ours.append(line[1:])
        elif line[0] == "curl":
            body = line[line.index("-d") + 1].encode() if "-d" in line else None
            header = dict([line[line.index("-H") + 1].split(": ")]) if "-H" in line else {}
            asked.append((line[-1], body, header))
        elif line[0] == "export":
            variables.update([line[1].split("=")])
    market, serve, load = ours
    with (
        running(*market, "--port", places["8099"], **variables),
        running(*serve, "--port", places["8092"]) as served,
    ):
        wait_until(lambda: call(f"{served.url}/readyz")[0] == 200)
        ended = done(*load[:-1], 1)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert len(asked) == 5
        answers = [call(*each) for each in asked]
    assert [status for status, _ in answers] == [200] * 5
    shares = [answer["hang"] for (url, *_), (_, answer) in zip(asked, answers, strict=True) if "/control" in url]
    assert shares == [1, 0]
