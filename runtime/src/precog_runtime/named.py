"""What an operator names in their own code: something in a file, path/to/file.py:NAME, or in a module, module:NAME."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from types import ModuleType

from precog_runtime.errors import RuntimeFault


def from_file(title: str, path: Path, attribute: str, fault: type[RuntimeFault]) -> object:
    """Return what a file has under a name.

    :param title: what it is for and what was named, for messages: "model /srv/mine.py:Mine".
    :raises fault: there is none, or the file can't be imported; says which, why and what to do.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, (each.name for each in path.parent.glob("*.py")), n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Give the path of a Python file"
        raise fault(f"{title}: there is no file {path}. {hint}")
    # As a module of its own name, from the search path, so that another process can unpickle what is in it; the folder
    # comes last, so that no file in it hides another package.
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    module = _imported(title, path.stem, str(path), fault)
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise fault(f"{title}: another module is called {path.stem!r}. Rename the file")
    return _member(title, module, str(path), attribute, fault)


def from_module(title: str, name: str, attribute: str, fault: type[RuntimeFault]) -> object:
    """Return what a module that is installed has under a name; the rest is as for a file."""
    return _member(title, _imported(title, name, name, fault), name, attribute, fault)


def _imported(title: str, name: str, shown: str, fault: type[RuntimeFault]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the operator's code raises
        raise fault(f"{title}: {shown} can't be imported: {type(error).__name__}: {error}") from error


def _member(title: str, module: ModuleType, shown: str, attribute: str, fault: type[RuntimeFault]) -> object:
    found: object = getattr(module, attribute, None)
    if found is None:
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"Did you mean {near[0]}?" if near else "Name what is in it"
        raise fault(f"{title}: {shown} has no {attribute!r}. {hint}")
    return found
