"""Environments really made, by uv and pip, from an index on this machine's own address."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ansible_collections.precog.fleet.plugins.module_utils._environment import build as building
from ansible_collections.precog.fleet.plugins.module_utils._environment import compiling, pip
from ansible_collections.precog.fleet.plugins.module_utils._environment import plan as environment
from ansible_collections.precog.fleet.plugins.module_utils._environment import run as running
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_environment import make_wheel, pin, serve, sha256

UV = f"uv==0.0.0 --hash=sha256:{'0' * 64}"
NOWHERE = "http://127.0.0.1:9/simple/"
INSTALLERS = ["uv", pytest.param("pip", marks=pytest.mark.full)]  # pip is slow, and not the default


@pytest.fixture(autouse=True)
def _own_places(monkeypatch, tmp_path):
    """The cache is not the machine's, and the disk is not waited for."""
    monkeypatch.setattr(building, "CACHE", str(tmp_path / "cache/uv"))
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def index(tmp_path):
    (tmp_path / "index").mkdir()
    with serve(tmp_path / "index") as served:
        yield served


class Maker:
    """python_env with arguments of its own; *root* is where environments lie."""

    def __init__(self, tmp_path, index):
        self.root = tmp_path / "srv/env"
        self.index = index
        self.one, self.two = index.add("one", "1.0"), index.add("two", "2.0")
        self.params = {
            "state": "present",
            "name": "miner",
            "root": str(self.root),
            "interpreter": "python3",
            "installer": "uv",
            "lock": pin(self.one) + pin(self.two),
            "uv_lock": UV,
            "packages": [],
            "optimize": [0],
            "verify": "quick",
            "keep": 2,
            "in_use": [str(tmp_path / "releases/*/environment")],
            "index_url": index.url,
            "system_packages": [],
        }

    def __call__(self, *, check_mode=False, **given):
        params = {**self.params, **given}
        run = running.present if params["state"] == "present" else running.absent
        return run(Host(), environment.request(params), check_mode=check_mode)

    def moved(self, root):
        """Let environments lie elsewhere, with uv as it was."""
        root.parent.mkdir(parents=True, exist_ok=True)
        self.root.rename(root)
        self.root, self.params["root"] = root, str(root)

    @property
    def link(self):
        return self.root / "miner"

    def python(self, *arguments, **variables):
        """What the environment's Python prints, for somebody who may not write there."""
        # As a start script does: bytecode for -O is found by the real path.
        argv = [str(self.link.resolve() / "bin/python"), *arguments]
        env = {"PATH": "/usr/bin:/bin", **variables}
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=env, cwd="/").stdout.strip()

    def names(self):
        """What lies beside the environments, without the lock."""
        return sorted(path.name for path in self.root.iterdir() if path.name != running.LOCK)


@pytest.fixture
def make(tmp_path, index):
    maker = Maker(tmp_path, index)
    # uv as an earlier run fetched it.
    tool = maker.root / f".tool-{hashlib.sha256(UV.encode()).hexdigest()[:12]}/bin"
    tool.mkdir(parents=True)
    (tool / "uv").symlink_to(shutil.which("uv"))
    return maker


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_made_once_and_then_left_alone(make, installer, monkeypatch):
    make.params["uv_lock"] = pin(make.index.add_uv())
    first = make(installer=installer)
    assert first["changed"]
    place = Path(first["environment"])
    assert (place.parent, make.link.resolve()) == (make.root, place)
    assert make.python("-c", "import one, two; print(one.VERSION, two.VERSION)") == "1.0 2.0"
    assert [(row["name"], row["status"], row["before"], row["after"]) for row in first["settings"]] == [
        ("python_env:miner", "changed", None, place.name)
    ]
    monkeypatch.setattr(building, "build", None)
    again = make(installer=installer)
    assert (again["changed"], again["environment"]) == (False, first["environment"])
    assert again["settings"][0]["status"] == "ok"
    assert not make(installer=installer, verify="full")["changed"]


def test_nothing_tells_of_where_it_was_made(make):
    make(packages=[])
    found = subprocess.run(
        ["grep", "-rlF", environment.BUILDING, str(make.link.resolve())], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def test_others_may_read_it_whatever_the_umask(make):
    mask = os.umask(0o077)
    try:
        make()
    finally:
        assert os.umask(mask) == 0o077
    for top, _folders, names in os.walk(make.link.resolve()):
        assert Path(top).stat().st_mode & 0o055 == 0o055
        assert all(Path(top, name).stat().st_mode & 0o044 == 0o044 for name in names)
    assert make.root.stat().st_mode & 0o055 == 0o055


def test_with_optimisation_nothing_is_left_to_compile(make):
    variables = make(optimize=[0, 1])["environment_variables"]
    script = "import one, json, email.message"
    for level in ("0", "1"):
        said = subprocess.run(
            [str(make.link.resolve() / "bin/python"), "-v", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONDONTWRITEBYTECODE": "1", **variables[level]},
        ).stderr
        read = [line for line in said.splitlines() if line.startswith("# code object from")]
        assert any("one" in line and ".pyc" in line for line in read)
        assert [line for line in read if ".pyc" not in line] == []
    assert make.python("-c", "import one; print(one.__cached__)", **variables["1"]).endswith(".opt-1.pyc")
    # What a traceback shows.
    where = make.python("-c", "import one; print(one.__loader__.get_code('one').co_filename)", **variables["1"])
    assert where == str(make.link.resolve() / f"lib/{Path(where).parts[-3]}/site-packages/one.py")


def codes(python, top, level):
    """The sources below a folder that can be compiled, and those of them whose bytecode is there."""
    tag, optimisation = f"cpython-{python[0]}{python[1]}", f".opt-{level}" if level else ""
    sources = [path for path in top.rglob("*.py") if compiles(path)]
    return sources, lambda folder: [
        path for path in sources if (folder(path) / f"{path.stem}.{tag}{optimisation}.pyc").is_file()
    ]


def compiles(path):
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


@pytest.mark.parametrize("folder", ["other/env", "tests/env"])
def test_every_source_has_its_bytecode_but_what_is_for_another_python(make, tmp_path, folder):
    files = {
        "three_more/__init__.py": "",
        "three_more/template.py": "print 'of Python 2'\n",
        "three_more/deep/a.py": "A = 1",
    }
    wheel = make.index.add("three", "3.0", files=files)
    make.moved(tmp_path / folder)
    make(lock=pin(wheel), optimize=[0, 2])
    place = make.link.resolve()
    (top,) = place.glob("lib/python3*/site-packages")
    python = re.findall(r"\d+", top.parent.name)
    sources, beside = codes(python, top, 0)
    assert sorted(path.name for path in sources) == ["__init__.py", "a.py", "three.py"]
    assert beside(lambda path: path.parent / "__pycache__") == sources
    _sources, prefixed = codes(python, top, 2)
    assert prefixed(lambda path: Path(f"{place}/pycache{path.parent}")) == sources


def test_so_has_the_standard_library(make, monkeypatch):
    create = building._Installer.create

    def late(self, name):
        while not list(make.root.glob(".*.building/pycache")):
            time.sleep(0.01)
        create(self, name)

    # Its compilation begins first, and may be ahead.
    monkeypatch.setattr(building._Installer, "create", late)
    make(optimize=[1])
    place = make.link.resolve()
    library = Path(make.python("-c", "import os; print(os.path.dirname(os.__file__))"))
    python = re.findall(r"\d+", library.name)
    sources, prefixed = codes(python, library / "email", 1)
    assert len(sources) > 20
    assert prefixed(lambda path: Path(f"{place}/pycache{path.parent}")) == sources


@pytest.mark.parametrize("installer", INSTALLERS)
def test_it_is_made_by_the_installer_and_has_none_itself(make, installer):
    make.params["uv_lock"] = pin(make.index.add_uv())
    make(
        installer=installer,
        lock=pin(make.index.add("three", "3.0", files={"scripts/three": "#!python\nprint('ran')\n"})),
    )
    place = make.link.resolve()
    settings = dict(line.split(" = ", 1) for line in (place / "pyvenv.cfg").read_text().splitlines())
    assert ("uv" in settings) is (installer == "uv")
    assert settings["home"] == str(Path(environment.program("python3")).parent)
    assert make.python("-c", "import sys; print(sys.prefix)") == str(place)
    # Where its path is too long for a first line, the interpreter stands in the second, for a shell.
    first, second, *_ = (place / "bin/three").read_text().splitlines()
    assert f"{place}/bin/python" in (first if len(first) > len("#!/bin/sh") else second)
    assert subprocess.run([place / "bin/three"], capture_output=True, text=True, check=True).stdout == "ran\n"
    assert make.python("-c", "import importlib.util as u; print(u.find_spec('pip'), u.find_spec('uv'))") == "None None"


def test_pip_leaves_no_cache(make, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    # Without TLS it keeps only what comes from whom it trusts.
    for name, value in {"HOME": str(home), "PIP_TRUSTED_HOST": "127.0.0.1"}.items():
        monkeypatch.setitem(building.COMMAND_ENVIRONMENT, name, value)
    make(installer="pip")
    assert list(home.rglob("*")) == []
    assert not Path(building.CACHE).exists()


@pytest.mark.parametrize("installer", INSTALLERS)
def test_another_interpreter(make, tmp_path, installer):
    """A second CPython: the system's program with a prefix of its own."""
    system = Path(environment.program("python3"))
    other = tmp_path / "other/bin/another-python"
    other.parent.mkdir(parents=True)
    shutil.copy2(system, other)
    library = subprocess.run(
        [system, "-I", "-c", "import os; print(os.path.dirname(os.__file__))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (tmp_path / "other/lib").mkdir()
    (tmp_path / "other/lib" / Path(library).name).symlink_to(library)
    usual = make(installer=installer)
    told = make(installer=installer, interpreter=str(other))
    assert told["interpreter"]["path"] == str(other)
    assert told["environment"] != usual["environment"]
    assert (make.link / "bin/python").resolve() == other
    assert make.python("-c", "import sys, one; print(sys.base_prefix, one.VERSION)") == f"{tmp_path}/other 1.0"
    assert not make(installer=installer, interpreter=str(other))["changed"]
    other.unlink()
    with pytest.raises(HostError, match="another-python, which is not on this host"):
        make(installer=installer, interpreter=str(other))


def test_check_mode_tells_the_path_and_makes_nothing(make):
    told = make(check_mode=True)
    assert (told["changed"], make.link.is_symlink()) == (True, False)
    assert [name for name in make.names() if name.startswith("miner")] == []
    assert told["environment"] == make()["environment"]


def test_check_mode_tells_of_an_interpreter_that_is_not_there(make, monkeypatch):
    monkeypatch.setattr(environment, "program", lambda _word: "")
    told = make(check_mode=True)
    assert told["environment"] == str(make.link)
    assert told["settings"][0]["reason"].startswith("python3 is not installed yet")


# -- what goes wrong leaves the one in use in use ----------------------------------------------------------------------


@pytest.fixture
def working(make):
    """One that works, before something goes wrong with the next."""
    make()
    before = sorted(make.names())
    yield make
    assert make.python("-c", "import one; print(one.VERSION)") == "1.0"
    assert sorted(make.names()) == before


def refused(make, **given):
    with pytest.raises(HostError) as error:
        make(**given)
    assert f"Nothing was changed: {make.link} is still {make.link.resolve().name}" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_hash_that_does_not_match(working, installer):
    wheel = working.index.add("three", "3.0")
    told = refused(working, lock=pin(wheel, digest="0" * 64), installer=installer)
    assert "a downloaded file of three==3.0 is not the one that the lock has the hash of" in told


@pytest.mark.parametrize("installer", INSTALLERS)
def test_no_network(working, installer):
    wheel = working.index.add("three", "3.0")
    told = refused(working, lock=pin(wheel), installer=installer, index_url=NOWHERE)
    assert "the package index can't be reached" in told


@pytest.mark.full
@pytest.mark.parametrize("installer", INSTALLERS)
def test_an_index_that_never_answers(working, monkeypatch, installer):
    monkeypatch.setattr(building, "TIMEOUT", 1)
    wheel = working.index.add("three", "3.0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple/"
        began = time.monotonic()
        told = refused(working, lock=pin(wheel), installer=installer, index_url=url)
    # Three times a second, with pauses, and what a busy machine takes to start pip.
    assert time.monotonic() - began < 30
    assert "the package index can't be reached" in told
    assert "timed out" in told


@pytest.mark.parametrize("installer", INSTALLERS)
def test_no_wheel_for_this_interpreter(working, installer):
    wheel = working.index.add("three", "3.0", tag="cp27-cp27m-win32")
    told = refused(working, lock=pin(wheel), installer=installer)
    assert "three==3.0 has no wheel for cpython 3." in told


def test_a_lock_without_hashes(working):
    told = refused(working, lock="three==3.0\n")
    assert "line 1 has no hash: three==3.0" in told


def test_a_package_for_another_python(working, tmp_path):
    told = refused(working, packages=[wheel_of(make_wheel(tmp_path, "four", "4.0"), requires_python=">=3.99")])
    assert "four 4.0 wants Python >=3.99" in told


def test_a_requirement_without_what_it_depends_on(working):
    metadata = "Metadata-Version: 2.1\nName: three\nVersion: 3.0\nRequires-Dist: absent>=1\n"
    wheel = working.index.add("three", "3.0", files={"INFO/METADATA": metadata})
    assert "absent" in refused(working, lock=pin(wheel))


def test_a_missing_interpreter(working):
    with pytest.raises(HostError, match="interpreter is /no/python, which is not on this host"):
        working(interpreter="/no/python")


@pytest.fixture
def small_disk(make, tmp_path, monkeypatch):
    """A file system of 16 MB for environments and the cache, with one that works."""
    if os.geteuid() and "CI" not in os.environ:
        pytest.skip("only root can mount")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder], check=True)
    try:
        uv = next(make.root.glob(".tool-*"))
        (folder / "env").mkdir()
        shutil.copytree(uv, folder / "env" / uv.name, symlinks=True)
        make.root, make.params["root"] = folder / "env", str(folder / "env")
        monkeypatch.setattr(building, "CACHE", str(folder / "cache/uv"))
        monkeypatch.setattr(building, "SMALLEST", 1 << 20)
        make()
        yield make
    finally:
        subprocess.run(["umount", folder], check=True)


def taken(make):
    """Bytes of its file system."""
    system = os.statvfs(make.root)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


LARGE = {f"three_{number}.txt": os.urandom(1 << 20).hex() for number in range(10)}


@pytest.mark.full
@pytest.mark.parametrize(
    ("installer", "given"),
    [("uv", {}), pytest.param("pip", {}, marks=pytest.mark.full), ("uv", {"optimize": [1, 2]})],
    ids=["uv", "pip", "bytecode of the standard library"],
)
def test_a_real_disk_that_is_full(small_disk, installer, given):
    before = taken(small_disk)
    wheel = small_disk.index.add("three", "3.0", files=None if given else LARGE)
    told = refused(small_disk, lock=pin(wheel), installer=installer, **given)
    assert "the disk is full. Free space there (df -h), then run again" in told
    assert taken(small_disk) <= before
    assert small_disk.python("-c", "import one; print(one.VERSION)") == "1.0"
    assert [name for name in small_disk.names() if name.endswith(".building")] == []
    assert small_disk(lock=pin(small_disk.one), installer=installer)["changed"]
    assert small_disk.python("-c", "import one; print(one.VERSION)") == "1.0"


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize("most", ["the least that one takes", "as miner-[0-9a-f]{12} does"])
def test_too_little_room_is_told_before_anything_is_fetched(working, monkeypatch, check_mode, most):
    size = 10**18 if most.startswith("the") else 1
    monkeypatch.setattr(building, "SMALLEST", size)
    monkeypatch.setattr(building, "_taken", lambda _place: 10**17)
    with pytest.raises(
        HostError,
        match=rf"has \d+ MB left, and another .* takes about {'1000' if size > 1 else '100'}0{{9}} MB \({most}",
    ):
        working(lock=pin(working.one), index_url=NOWHERE, check_mode=check_mode)


def test_what_one_takes_is_what_it_shares_with_nothing(make):
    place = Path(make()["environment"])
    sizes = [
        (path.stat().st_nlink, path.stat().st_blocks * 512)
        for path in place.rglob("*")
        if not path.is_symlink() and path.is_file()
    ]
    assert building._taken(str(place)) == sum(size for links, size in sizes if links == 1)
    shutil.rmtree(building.CACHE)
    assert building._taken(str(place)) == sum(size for _links, size in sizes)


def test_a_switch_back_takes_no_room(make, monkeypatch):
    make()
    make(lock=pin(make.one))
    monkeypatch.setattr(building, "SMALLEST", 10**18)
    assert make()["changed"]


BIG = {"three_big.py": f"X = [{'(1, 2.5, None),' * 200_000}]\n"}


def test_a_compiler_whose_worker_was_killed(working):
    """As the kernel does it when memory runs out."""
    wheel = working.index.add("three", "3.0", files=BIG)
    killed = threading.Event()

    def kill():
        while not killed.wait(0.01):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "compileall" in " ".join(process.cmdline()) and "compileall" in " ".join(
                        process.parent().cmdline()
                    ):
                        process.kill()
                        killed.set()

    watcher = threading.Thread(target=kill)
    watcher.start()
    told = refused(working, lock=pin(wheel))
    killed.set()
    watcher.join()
    assert "the bytecode could not be compiled, without which every start takes seconds" in told
    # In one sentence of Python's or another, by whether all files had been handed out by then.
    assert "BrokenProcessPool: A " in told
    assert " terminated abruptly" in told


@pytest.mark.full
def test_a_compiler_that_may_not_write(working, monkeypatch):
    """compileall itself keeps silent about what it can't write."""
    wheel = working.index.add("three", "3.0", files=BIG)
    start = subprocess.Popen

    def limited(argv, *words, **more):
        if compiling.COMPILE in argv:
            more["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return start(argv, *words, **more)

    monkeypatch.setattr(subprocess, "Popen", limited)
    assert "It said: OSError: [Errno 27] File too large" in refused(working, lock=pin(wheel))


def test_a_wheel_that_was_changed_on_its_way(working, tmp_path):
    package = wheel_of(make_wheel(tmp_path, "four", "4.0"))
    Path(package["path"]).write_bytes(b"something else")
    assert "it was changed on its way" in refused(working, packages=[package])


# -- the password of an index ------------------------------------------------------------------------------------------

PASSWORD = "s3cret-of-the-index"


@contextmanager
def arguments_seen():
    """The arguments of all processes that ran meanwhile, as everybody can read them."""
    seen, ended = set(), threading.Event()

    def look():
        while not ended.wait(0.02):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(process.read_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("installer", INSTALLERS)
def test_the_password_of_an_index_is_in_no_argument_and_no_error(make, tmp_path, installer):
    with serve(tmp_path / "index", login=f"fleet:{PASSWORD}", delay=0.2) as index, arguments_seen() as seen:
        make.params.update(index_url=index.url, installer=installer, uv_lock=pin(make.index.add_uv()))
        assert make()["changed"]
        wheel = make.index.add("three", "3.0")
        told = refused(make, lock=pin(wheel, digest="0" * 64))
    assert [one for one in seen if b"install\0" in one and installer.encode() in one] != []
    assert [one for one in seen if PASSWORD.encode() in one] == []
    assert "three" in told
    assert PASSWORD not in told


@pytest.mark.full
def test_nor_where_the_index_can_not_be_reached(working):
    url = NOWHERE.replace("//", f"//fleet:{PASSWORD}@")
    told = refused(working, lock=pin(working.index.add("three", "3.0")), index_url=url)
    assert "127.0.0.1" in told
    assert PASSWORD not in told


# -- what the control node brings --------------------------------------------------------------------------------------


def wheel_of(path, **more):
    name, version = path.name.split("-")[:2]
    return {
        **{"name": name, "version": version, "sha256": sha256(path), "file": path.name, "path": str(path)},
        **{"requires_python": "", **more},
    }


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_wheel_is_asked_for_only_where_it_is_needed(make, tmp_path, installer):
    package = wheel_of(make_wheel(tmp_path, "four", "4.0"))
    with pytest.raises(environment.Missing) as missing:
        make(packages=[{**package, "path": ""}], installer=installer)
    assert (missing.value.debian, missing.value.wheels) == ([], [package["sha256"]])
    assert make(packages=[package], installer=installer)["changed"]
    assert make.python("-c", "import four; print(four.VERSION)") == "4.0"
    assert not make(packages=[{**package, "path": ""}], installer=installer)["changed"]


def test_debian_packages_are_asked_for_together(make, monkeypatch, tmp_path):
    monkeypatch.setattr(pip, "pip_wheel", lambda: "")
    monkeypatch.setattr(environment, "program", lambda _word: "")
    package = {**wheel_of(make_wheel(tmp_path, "four", "4.0")), "path": ""}
    with pytest.raises(environment.Missing) as missing:
        make(interpreter="pypy3", packages=[package], system_packages=["dpkg", "no-such-package"])
    assert missing.value.debian == ["no-such-package", "pypy3", "python3-pip-whl"]
    assert missing.value.wheels == [package["sha256"]]


# -- damage, remains, and what goes ------------------------------------------------------------------------------------


def test_a_damaged_one_is_made_again(make):
    first = Path(make()["environment"])
    module = next(first.glob("lib/*/site-packages/one.py"))
    module.write_text("VERSION = 'harm'\n")
    told = make()
    assert told["changed"]
    assert "it is built again: " in told["settings"][0]["reason"]
    assert make.python("-c", "import one; print(one.VERSION)") == "1.0"
    assert make(verify="full")["changed"] is False
    assert Path(told["environment"]) == make.link.resolve() == first.with_name(f"{first.name}.1")
    assert not first.exists()
    next(make.link.resolve().glob("lib/*/site-packages/one.py")).unlink()
    assert make(check_mode=True)["environment"] == make()["environment"] == str(first.with_name(f"{first.name}.2"))
    assert [name for name in make.names() if name.startswith("miner-")] == [f"{first.name}.2"]


def test_a_damaged_cache_is_told_and_removed(make):
    first = make()["environment"]
    (module,) = Path(building.CACHE).rglob("one.py")
    module.unlink()  # it is the environment's file, too
    module.write_text("VERSION = 'harm'\n")
    with pytest.raises(HostError, match=r"one\.py is not as its wheel has it: the cache was damaged and is removed"):
        make(lock=pin(make.one))
    assert not Path(building.CACHE).exists()
    assert str(make.link.resolve()) == first
    assert make(lock=pin(make.one))["changed"]
    assert make.python("-c", "import one; print(one.VERSION)") == "1.0"


def test_who_starts_from_a_damaged_one_finds_it_all_the_time(make, tmp_path):
    first = Path(make()["environment"])
    release = tmp_path / "releases/r1"
    release.mkdir(parents=True)
    (release / "environment").symlink_to(first)
    next(first.glob("lib/*/site-packages/two.py")).unlink()
    missed, ended = [], threading.Event()

    def start():
        while not ended.is_set():
            for place in (release / "environment", make.link):
                if not (place / "bin/python").exists() or not list(place.glob("lib/*/site-packages/one.py")):
                    missed.append(place)

    watcher = threading.Thread(target=start)
    watcher.start()
    assert make()["changed"]
    ended.set()
    watcher.join()
    assert missed == []
    assert (release / "environment").resolve() == first != make.link.resolve()
    assert make.python("-c", "import two; print(two.VERSION)") == "2.0"
    assert not make()["changed"]


def test_what_can_not_be_removed_is_a_warning(make, monkeypatch):
    first = Path(make(keep=1)["environment"])

    def refuse(_host, _asked, name):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)

    monkeypatch.setattr(running, "_remove", refuse)
    told = make(keep=1, lock=pin(make.one))
    (warning,) = told["warnings"]
    assert warning.startswith(f"{make.link} is {Path(told['environment']).name} now, but not all that nothing needs")
    assert first.name in warning
    assert make.link.resolve() == Path(told["environment"]) != first
    assert "warnings" not in make(keep=1, lock=pin(make.one))


def test_after_the_switch_it_is_not_said_that_nothing_was_changed(make, monkeypatch):
    make()
    switch = Host.replace_link

    def broken(self, path, target):
        switch(self, path, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(Host, "replace_link", broken)
    with pytest.raises(HostError) as error:
        make(lock=pin(make.one))
    assert str(error.value).endswith(f"{make.link} is {make.link.resolve().name} already")


def test_of_the_same_size_it_is_found_by_a_full_check(make):
    module = next(Path(make()["environment"]).glob("lib/*/site-packages/one.py"))
    module.write_text(module.read_text().replace("1.0", "9.9"))
    assert not make()["changed"]
    assert make(verify="full")["changed"]
    assert make.python("-c", "import one; print(one.VERSION)") == "1.0"


def test_what_killed_runs_left_is_swept(make):
    name = Path(make()["environment"]).name
    for left in (f".{name}.building", f".{name}.work", ".miner-0123456789ab.removing"):
        (make.root / left / "lib").mkdir(parents=True)
    (make.root / ".other-0123456789ab.building").mkdir()
    told = make()
    assert (told["changed"], told["settings"][0]["reason"]) == (True, "what a stopped run left is removed")
    assert [left for left in make.names() if left.startswith(".") and "tool" not in left] == [
        ".other-0123456789ab.building"
    ]
    assert not make()["changed"]


def test_one_that_was_never_finished_is_made_again(make):
    place = Path(make()["environment"])
    (place / "environment.json").unlink()
    assert make()["settings"][0]["reason"] == "it is built again: it is not complete"
    assert not make()["changed"]


def test_a_way_back_is_a_switch_of_the_link(make, monkeypatch):
    first, second = make(), make(lock=pin(make.one))
    assert make.link.resolve() == Path(second["environment"])
    monkeypatch.setattr(building, "build", None)
    back = make()
    assert (back["changed"], make.link.resolve()) == (True, Path(first["environment"]))


def test_the_oldest_goes_unless_a_release_uses_it(make, tmp_path):
    first = Path(make(keep=1)["environment"])
    release = tmp_path / "releases/r1"
    release.mkdir(parents=True)
    (release / "environment").symlink_to(first)
    second = Path(make(keep=1, lock=pin(make.one))["environment"])
    assert first.exists()
    third = Path(make(keep=1, lock=pin(make.two))["environment"])
    assert [first.exists(), second.exists(), third.exists()] == [True, False, True]
    with pytest.raises(HostError, match=r"in use: .* Remove what uses them first"):
        make(state="absent")
    # A rollback removes the release first, so its check run may not stop here.
    assert make(state="absent", check_mode=True)["changed"]
    assert third.exists()
    (release / "environment").unlink()
    make(state="absent")
    assert not make.root.exists()


SLEEP = "import time; print('runs', flush=True); time.sleep(60)"


@pytest.mark.parametrize("place", ["itself", "by the link", "what it has loaded"])
def test_one_that_a_process_runs_from_stays(make, tmp_path, place):
    first = Path(make(keep=1)["environment"])
    program = first / "bin/python" if place == "itself" else "python3"
    loaded = first / "lib/loaded.so"
    script = SLEEP
    if place == "what it has loaded":
        loaded.write_bytes(b"x" * 4096)
        script = f"import mmap; f = open({str(loaded)!r}); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); {SLEEP}"
    elif place == "by the link":
        # As a release's link does it, of which nobody told.
        (tmp_path / "link").symlink_to(first)
        program = tmp_path / "link/bin/python"
    with subprocess.Popen([program, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"runs\n"
        second = Path(make(keep=1, lock=pin(make.one))["environment"])
        assert (first.exists(), second.exists()) == (True, True)
        with pytest.raises(HostError, match=rf"{first.name} by process {process.pid}\. Remove what uses them first"):
            make(state="absent")
        process.kill()
    make(keep=1, lock=pin(make.two))
    assert (first.exists(), second.exists()) == (False, False)


def test_absent_takes_all_away_but_not_others(make, tmp_path):
    make()
    make(name="other")
    told = make(state="absent", check_mode=True)
    assert (told["changed"], make.link.exists()) == (True, True)
    told = make(state="absent")
    assert (told["changed"], told["settings"][0]["after"]) == (True, None)
    assert [name for name in make.names() if name.startswith("miner")] == []
    assert (make.root / "other/bin/python").exists()
    assert not make(state="absent")["changed"]
    make(state="absent", name="other")
    assert not make.root.exists()
    assert not (tmp_path / "cache/uv").exists()


def test_two_runs_at_once_make_one(make):
    script = (
        "import json, sys\n"
        "from ansible_collections.precog.fleet.plugins.module_utils._environment import build as b, plan as e, "
        "run as r\n"
        "from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host\n"
        f"b.CACHE = {building.CACHE!r}\n"
        "print(json.dumps(r.present(Host(), e.request(json.loads(sys.argv[1])), check_mode=False)['seconds']))\n"
    )
    import json
    import sys

    collections = ROOT / ".ansible/collections"
    argv = [sys.executable, "-c", script, json.dumps(make.params)]
    env = {**os.environ, "PYTHONPATH": str(collections)}
    began = time.monotonic()
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    built = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert sum("install" in seconds for seconds in built) == 1, (built, time.monotonic() - began)
    assert not make()["changed"]
