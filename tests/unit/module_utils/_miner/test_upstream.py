"""Upstream's checkout: which commit, from where, whole or not at all. git is real, the repositories are made here."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import commands
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import upstream, vcs

URL = "https://github.com/coinmetrics/precog"
COMMIT = "75eb6469f07eda88231bedc2e1c239abe4ed7327"
ENVIRONMENT = "/opt/precog/env/miner-0123456789ab"
REPOSITORY = "/srv/upstream.git"
FILES = {
    "pyproject.toml": '[tool.poetry]\nname = "precog"\nversion = "3.0.0"\n',
    "precog/__init__.py": 'import importlib.metadata\n\n__version__ = importlib.metadata.version("precog")\n',
    "precog/miners/miner.py": "print('mines')\n",
}
GIT_ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


class Made:
    """A repository like upstream's."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words):
        argv = ["git", "-C", str(self.path), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=GIT_ENV).stdout.strip()

    def commit(self, files=FILES, links=()):
        """Make a commit with these files alone, and return its hash."""
        for place in self.path.iterdir():
            if place.name != ".git":
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        for name, text in files.items():
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        for name, target in links:
            (self.path / name).symlink_to(target)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message=x", "--allow-empty")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def tree(tmp_path):
    for name in upstream.WANTED_OF_ENVIRONMENT:
        (tmp_path / ENVIRONMENT[1:] / "lib/python3.11/site-packages" / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def plain(tree):
    return Host(str(tree))


@pytest.fixture
def made(tree):
    return Made(tree / REPOSITORY[1:])


@pytest.fixture
def ensure(plain):
    """Bring a version of the made repository to the made host; return where it lies on this machine."""

    def call(version, environment=ENVIRONMENT, repository=REPOSITORY):
        wanted = {"repository": repository, "version": version}
        path = upstream.ensure(plain, wanted, upstream.commit(plain, wanted), environment)
        return Path(plain.locate(path))

    return call


def contents(tree):
    """Everything below the folder of checkouts: kind and mode of each path, and its bytes."""
    top = tree / "opt/precog/upstream"
    return {
        str(path.relative_to(top)): (stat.filemode(path.lstat().st_mode), path.is_file() and path.read_bytes())
        for path in top.rglob("*")
    }


# -- what may be asked for --------------------------------------------------------------------------------------------

REPOSITORIES = [
    (URL, "https", URL),
    ("ssh://git@example.org:2222/x/y.git", "ssh", "ssh://git@example.org:2222/x/y.git"),
    ("git@example.org:x/y.git", "ssh", "git@example.org:x/y.git"),
    ("/srv/upstream.git", "file", "/srv/upstream.git"),
    ("file:///srv/upstream.git", "file", "/srv/upstream.git"),
]


@pytest.mark.parametrize(("value", "protocol", "url"), REPOSITORIES)
def test_a_repository_is_spoken_to_in_its_own_protocol_only(value, protocol, url):
    assert vcs.repository({"repository": value}) == (url, protocol)


NO_REPOSITORIES = [
    "",
    "precog",
    "./precog",
    "--upload-pack=touch /tmp/x",
    "ext::sh -c id",
    "http://github.com/x/y",
    "git://github.com/x/y",
    "file://host/srv",
    "https://",
    "https://-x/y",
    "ssh://-oProxyCommand=x/y",
    "-oProxyCommand=x:y",
    "host:-x",
    "https://example.org/x y",
]


@pytest.mark.parametrize("value", NO_REPOSITORIES)
def test_anything_else_is_named_with_what_to_give(plain, value):
    with pytest.raises(HostError, match="give an https:// or ssh:// address, or an absolute path") as raised:
        upstream.commit(plain, {"repository": value, "version": COMMIT})
    assert f"upstream.repository = {value} " in str(raised.value)


@pytest.mark.parametrize("user", ["me:secret", "secret"])
def test_a_password_in_an_address_is_refused_and_not_repeated(user):
    with pytest.raises(HostError, match="a password or a token") as raised:
        vcs.repository({"repository": f"https://{user}@example.org/x"})
    assert "secret" not in str(raised.value)


def test_a_commit_is_taken_at_its_word(plain, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("git was run"))
    wanted = {"repository": URL, "version": COMMIT.upper()}
    assert upstream.commit(plain, wanted) == COMMIT
    assert vcs.moving_name(wanted, COMMIT) == ""


@pytest.mark.parametrize("version", ["", "-x", "a..b", "a b", "x.lock", "a//b", "v1^{}", "v1:x", "*", "a" * 201])
def test_what_is_no_name_of_a_version_never_reaches_git(plain, monkeypatch, version):
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("git was run"))
    with pytest.raises(HostError, match="neither a commit"):
        upstream.commit(plain, {"repository": URL, "version": version})


@pytest.mark.parametrize("version", [COMMIT[:7], COMMIT[:39].upper()])
def test_a_part_of_a_hash_is_told_from_a_name(plain, version):
    with pytest.raises(HostError, match="give all 40 digits"):
        upstream.commit(plain, {"repository": URL, "version": version})


# -- which commit it is -----------------------------------------------------------------------------------------------


def test_tags_and_branches_are_looked_up(plain, made):
    first = made.commit()
    made.git("tag", "light", first)
    made.git("tag", "--annotate", "--message=x", "heavy", first)
    second = made.commit({**FILES, "more": "x"})
    for version, commit in {"light": first, "heavy": first, "main": second}.items():
        wanted = {"repository": REPOSITORY, "version": version}
        assert upstream.commit(plain, wanted) == commit
        warned = vcs.moving_name(wanted, commit)
        assert f"upstream.version = {version} is a name that can be moved" in warned
        assert commit in warned


def test_a_name_of_both_a_tag_and_a_branch_is_refused_where_they_differ(plain, made):
    first = made.commit()
    made.git("branch", "v3")
    made.git("tag", "v3")
    wanted = {"repository": REPOSITORY, "version": "v3"}
    assert upstream.commit(plain, wanted) == first
    made.commit({**FILES, "more": "x"})
    made.git("tag", "--force", "v3")
    with pytest.raises(HostError, match=r"is a tag .* and a branch"):
        upstream.commit(plain, wanted)


def test_no_such_name(plain, made):
    made.commit()
    with pytest.raises(HostError, match=r"upstream.version = v9: /srv/upstream.git has no such tag or branch"):
        upstream.commit(plain, {"repository": REPOSITORY, "version": "v9"})


def test_a_repository_that_is_not_there(ensure):
    for version in ("main", COMMIT):
        with pytest.raises(HostError, match=r"cannot read upstream.repository = /srv/upstream.git: .*not appear to be"):
            ensure(version)


def test_nobody_answers(ensure, tree):
    with pytest.raises(HostError, match=r"cannot read upstream.repository = https://127.0.0.1:1/x: .*[Cc]onnect"):
        ensure("main", repository="https://127.0.0.1:1/x")
    with pytest.raises(HostError, match=r"cannot read upstream.repository"):
        ensure(COMMIT, repository="https://127.0.0.1:1/x")
    assert contents(tree) == {}


def test_a_git_that_hangs_is_given_up(plain, made, monkeypatch):
    made.commit()
    monkeypatch.setattr(upstream, "LOOK_S", 0.0)
    with pytest.raises(HostError, match="git took longer than 0 s"):
        upstream.commit(plain, {"repository": REPOSITORY, "version": "main"})


# -- the checkout -----------------------------------------------------------------------------------------------------


def test_a_checkout_has_the_source_our_forward_and_the_metadata(ensure, made, tree):
    commit = made.commit()
    path = ensure(commit)
    assert path == tree / "opt/precog/upstream" / commit
    assert (path / "source/precog/miners/miner.py").read_text() == FILES["precog/miners/miner.py"]
    assert "forward = drop_in()" in (path / "source/precog/miners/precog_fleet.py").read_text()
    (found,) = importlib.metadata.distributions(path=[str(path / "metadata")])
    assert (found.metadata["Name"], found.version) == ("precog", "3.0.0")
    assert not (path / "source/.git").exists()
    assert sorted(place.name for place in path.parent.iterdir()) == [commit]


def test_its_package_finds_its_own_version(ensure, made):
    path = ensure(made.commit())
    env = {"PYTHONPATH": f"{path / 'source'}:{path / 'metadata'}", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-c", "import precog; print(precog.__version__)"]
    assert subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout == "3.0.0\n"


def test_everyone_may_read_and_nobody_write_whatever_the_umask(ensure, made):
    script = made.path / "precog/run.sh"
    made.commit({**FILES, "precog/run.sh": "#!/bin/sh\n"})
    script.chmod(0o775)
    made.git("commit", "--quiet", "--all", "--message=x")
    before = os.umask(0o077)
    try:
        path = ensure("main")
    finally:
        os.umask(before)
    modes = {place.relative_to(path): stat.S_IMODE(place.stat().st_mode) for place in [path, *path.rglob("*")]}
    executable = [name for name, mode in modes.items() if mode == 0o755 and not (path / name).is_dir()]
    assert executable == [Path("source/precog/run.sh")]
    assert set(modes.values()) == {0o755, 0o644}


def test_a_second_time_costs_no_git(ensure, made, tree, monkeypatch):
    commit = made.commit()
    ensure(commit)
    before = contents(tree)
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("git was run"))
    ensure(commit)
    assert contents(tree) == before


@pytest.mark.parametrize(
    "lost", ["source/precog/miners/miner.py", "source/precog/miners/precog_fleet.py", "metadata", "complete.json"]
)
def test_a_damaged_one_is_made_anew(ensure, made, tree, lost):
    commit = made.commit()
    place = ensure(commit) / lost
    before = contents(tree)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    ensure(commit)
    assert contents(tree) == before


def test_another_drop_in_than_ours_is_replaced(ensure, made, tree):
    commit = made.commit()
    place = ensure(commit) / "source/precog/miners/precog_fleet.py"
    before = contents(tree)
    place.write_text("forward = None\n")
    ensure(commit)
    assert contents(tree) == before


@pytest.mark.parametrize("back", [True, False], ids=["and the old one is put back", "nor can the old one be"])
def test_a_new_one_that_can_not_be_put_in_place_costs_no_old_one(ensure, made, monkeypatch, back):
    commit = made.commit()
    path = ensure(commit)
    (path / "complete.json").unlink()
    (path / "source/kept").write_text("by a process that runs")
    rename = os.rename

    def failing(source, target):
        if target == str(path) and (source.endswith(".part") or not back):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(HostError, match=r"cannot make .*: Input/output error"):
        ensure(commit)
    (left,) = path.parent.iterdir()
    assert left.name == (commit if back else f".{commit}.old")
    assert (left / "source/kept").exists()


def test_what_a_killed_run_left_is_swept(ensure, made, tree):
    commit = made.commit()
    for left in (f".{commit}.part/source", f".{commit}.old"):
        (tree / "opt/precog/upstream" / left).mkdir(parents=True)
    assert sorted(place.name for place in ensure(commit).parent.iterdir()) == [commit]


def test_a_commit_that_no_branch_names(ensure, made):
    first = made.commit()
    made.commit({**FILES, "more": "x"})
    assert not (ensure(first) / "source/more").exists()
    assert (ensure("main") / "source/more").exists()


def test_a_server_that_gives_away_only_what_it_names(ensure, made, monkeypatch):
    """As servers do that speak no version 2 of git's protocol."""
    first = made.commit()
    made.commit({**FILES, "more": "x"})
    monkeypatch.setitem(vcs.GIT_SETTINGS, "protocol.version", "0")
    assert not (ensure(first) / "source/more").exists()


@pytest.mark.parametrize("protocol", ["0", "2"])
def test_no_such_commit(ensure, made, tree, monkeypatch, protocol):
    made.commit()
    monkeypatch.setitem(vcs.GIT_SETTINGS, "protocol.version", protocol)
    with pytest.raises(HostError, match=f"upstream.version = {COMMIT}: {REPOSITORY} has no such commit"):
        ensure(COMMIT)
    assert contents(tree) == {}


REFUSED = [
    ({"precog/miners/miner.py": None}, "has no precog/miners/miner.py"),
    ({"pyproject.toml": None}, "does not name the package precog"),
    ({"pyproject.toml": '[tool.poetry]\nname = "other"\nversion = "1"\n'}, "does not name the package precog"),
    ({"pyproject.toml": '[project]\nname = "precog"\ndynamic = ["version"]\n'}, "gives no version"),
    ({"pyproject.toml": '[project]\nname = "precog"\nversion = "../../x"\n'}, "gives no version"),
    ({"precog/miners/precog_fleet.py": "x\n"}, "has a precog/miners/precog_fleet.py of its own"),
]


@pytest.mark.parametrize(("changes", "told"), REFUSED)
def test_what_is_not_upstream_is_refused_and_nothing_is_left(ensure, made, tree, changes, told):
    commit = made.commit({name: text for name, text in {**FILES, **changes}.items() if text is not None})
    with pytest.raises(HostError, match=told) as raised:
        ensure(commit)
    assert f"{commit} of {REPOSITORY}" in str(raised.value)
    assert contents(tree) == {}


def test_links_lead_nowhere(ensure, made, tree):
    """Or a repository could have our drop-in written anywhere, and the miner read what is root's."""
    outside = tree / "outside"
    outside.mkdir()
    files = {name: text for name, text in FILES.items() if "miners" not in name}
    commit = made.commit(files, [("precog/miners", str(outside))])
    with pytest.raises(HostError, match="not laid out as upstream's"):
        ensure(commit)
    path = ensure(made.commit(FILES, [("precog/link", "/etc/shadow")]))
    assert (path / "source/precog/link").read_text() == "/etc/shadow"
    assert not (path / "source/precog/link").is_symlink()
    assert list(outside.iterdir()) == []


def test_nothing_of_the_repository_or_the_caller_is_run(ensure, made, tree, monkeypatch):
    """Hooks, and filters that the caller's own settings name."""
    settings = tree / "gitconfig"
    settings.write_text(f'[filter "evil"]\n\tsmudge = touch {tree}/ran; cat\n[core]\n\thooksPath = {tree}/hooks\n')
    (tree / "hooks").mkdir()
    hook = tree / "hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tree}/ran\n")
    hook.chmod(0o755)
    commit = made.commit({**FILES, ".gitattributes": "*.py filter=evil\n"})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("HOME", str(tree))
    (tree / ".gitconfig").write_text(settings.read_text())
    ensure(commit)
    assert not (tree / "ran").exists()


def test_only_how_to_reach_the_web_is_passed_on(plain, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    seen = []
    monkeypatch.setattr(commands, "run", lambda _argv, **how: seen.append(how["env"]) or commands.Done(0, "", ""))
    with pytest.raises(HostError, match="no such tag"):
        upstream.commit(plain, {"repository": URL, "version": "v1"})
    (env,) = seen
    assert env["https_proxy"] == "http://127.0.0.1:3128"
    assert "GIT_SSL_NO_VERIFY" not in env
    assert (env["GIT_ALLOW_PROTOCOL"], env["GIT_TERMINAL_PROMPT"]) == ("https", "0")


# -- what stands in the way -------------------------------------------------------------------------------------------


def test_no_git(made, ensure, monkeypatch):
    monkeypatch.setitem(vcs.GIT_ENVIRONMENT, "PATH", "/nowhere")
    with pytest.raises(HostError, match="apt-get install git"):
        ensure(made.commit())


@pytest.mark.parametrize("name", upstream.WANTED_OF_ENVIRONMENT)
def test_an_environment_for_another_engine(ensure, made, tree, name):
    commit = made.commit()
    ensure(commit)
    (tree / ENVIRONMENT[1:] / "lib/python3.11/site-packages" / name).rmdir()
    with pytest.raises(HostError, match=f"{ENVIRONMENT} has no {name}, which the engine upstream needs"):
        ensure(commit)


def test_a_disk_that_fills_while_git_writes(ensure, made, tree, monkeypatch):
    commit = made.commit()

    def full(_argv, **_how):
        return commands.Done(128, "", "fatal: write error: No space left on device\n")

    monkeypatch.setattr(commands, "run", full)
    with pytest.raises(HostError, match="the disk is too full for upstream's checkout"):
        ensure(commit)
    assert contents(tree) == {}


def test_a_disk_that_fills_while_we_write(ensure, made, tree, monkeypatch):
    """What was there, though damaged, is still there."""
    commit = made.commit()
    (ensure(commit) / "complete.json").unlink()
    before = contents(tree)

    def full(path, _text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(upstream, "_write", full)
    with pytest.raises(HostError, match=r"the disk is too full .* make room, then run again"):
        ensure(commit)
    assert contents(tree) == before


def test_a_real_disk_that_is_full(ensure, made, tree):
    """On a file system of 1 MiB, where this machine lets us have one."""
    commit = made.commit({**FILES, "large": os.urandom(1 << 20).hex()})
    folder = tree / "opt/precog/upstream"
    folder.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "x", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("no file systems are mounted here")
    try:
        with pytest.raises(HostError, match="the disk is too full for upstream's checkout"):
            ensure(commit)
        assert contents(tree) == {}
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_folder_that_can_not_be_made(ensure, made, tree):
    (tree / "opt/precog/upstream").write_text("")
    with pytest.raises(HostError, match="cannot make /opt/precog/upstream/"):
        ensure(made.commit())


def test_what_nothing_uses_is_removed(plain, ensure, made):
    first, second = made.commit(), made.commit({**FILES, "more": "x"})
    folder = ensure(first).parent
    ensure(second)
    (folder / f".{first}.part").mkdir()
    gone = upstream.remove_unused(plain, [second])
    assert gone == [f"/opt/precog/upstream/.{first}.part", f"/opt/precog/upstream/{first}"]
    assert [place.name for place in folder.iterdir()] == [second]
    assert upstream.remove_unused(plain, [second]) == []


# -- pyproject.toml ---------------------------------------------------------------------------------------------------

PROJECTS = [
    ('[tool.poetry]\nname = "precog"\nversion = "3.0.0"\n', ("precog", "3.0.0")),
    ("[project]\nversion='3.1'# x\nname   =   'precog'  # y\n", ("precog", "3.1")),
    ('[project]\nname = "precog"\nversion = "4"\n[tool.poetry]\nversion = "3"\n', ("precog", "4")),
    ('[tool.poetry]\nname = "precog"\n[tool.other]\nversion = "9"\n', ("precog", None)),
    ('[[tool.poetry.source]]\nname = "pypi"\nversion = "1"\n', (None, None)),
    ('[ tool.poetry ]\r\nname = "precog"\r\n# version = "1"\r\nversion = "2"\r\n', ("precog", "2")),
    ('[project]\nname = "precog"\nversion = "3\\u002e0"\n', ("precog", None)),
    ('name = "x"\nversion = "1"\n', (None, None)),
    ("", (None, None)),
]


@pytest.mark.parametrize(("text", "expected"), PROJECTS)
def test_name_and_version_of_a_project(text, expected):
    found = upstream._project(text)
    assert (found.get("name"), found.get("version")) == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is there from 3.11")
@pytest.mark.parametrize("text", [text for text, (_name, version) in PROJECTS if version])
def test_a_real_parser_reads_the_same(text):
    import tomllib

    real = tomllib.loads(text.replace("\r\n", "\n"))
    table = {**real.get("tool", {}).get("poetry", {}), **real.get("project", {})}
    found = upstream._project(text)
    assert {name: found[name] for name in ("name", "version")} == {name: table[name] for name in ("name", "version")}


POETRY = '[tool.poetry]\nname = "precog"\nversion = "3"\n[tool.poetry.dependencies]\npython = "{}"\nbittensor = "^9"\n'
PROJECT = '[project]\nname = "precog"\nversion = "3"\nrequires-python = "{}"\n'
PYTHONS = [
    (">= 3.9, < 3.12", "3.11.2", True),
    (">= 3.9, < 3.12", "3.13.5", False),
    (">= 3.9, < 3.12", "3.12.0", False),
    (">=3.9,<3.12", "3.8.20", False),
    (">=3.11.4", "3.11.2", False),
    ("<3.11.4", "3.11.2", True),
    ("<=3.11", "3.11.0", True),
    (">3.11", "3.11.0", False),
    ("^3.9", "3.13.5", True),
    ("^3.12", "3.11.2", False),
    ("*", "3.13.5", True),
    ("", "3.13.5", True),
    (">=3.9, !=3.13.*", "3.13.5", True),
]


@pytest.mark.parametrize("form", [POETRY, PROJECT], ids=["poetry", "project"])
@pytest.mark.parametrize(("wanted", "has", "fits"), PYTHONS)
def test_a_python_that_upstream_is_not_for_is_warned_of_with_both(plain, form, wanted, has, fits):
    plain.stage("/opt/x/source/pyproject.toml", form.format(wanted).encode()).commit()
    plain.stage(f"{ENVIRONMENT}/pyvenv.cfg", f"home = /usr/bin\nversion = {has}\n".encode()).commit()
    told = upstream.other_python(plain, "/opt/x", ENVIRONMENT)
    assert (told == "") == fits
    assert fits or (f"{ENVIRONMENT} has Python {has}," in told and f"is for {wanted}:" in told)


def test_an_environment_of_uv_says_its_version_too(plain):
    plain.stage("/opt/x/source/pyproject.toml", POETRY.format("<3.12").encode()).commit()
    plain.stage(f"{ENVIRONMENT}/pyvenv.cfg", b"uv = 0.9.1\nversion_info = 3.13.5\n").commit()
    assert "has Python 3.13.5" in upstream.other_python(plain, "/opt/x", ENVIRONMENT)


def test_an_environment_that_says_no_version_is_let_be(plain):
    plain.stage("/opt/x/source/pyproject.toml", POETRY.format("<3.12").encode()).commit()
    assert upstream.other_python(plain, "/opt/x", ENVIRONMENT) == ""
