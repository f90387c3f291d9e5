"""Data frames that lose nothing and take little: narrow dtypes, fast reading, chunks within bounded memory.

Needs the extra `frames`; the rest of the package doesn't. See docs/runtime/frames.md.
"""

try:
    from precog_runtime.frames.chunks import PRICES, FrameError, chunks, concat, process, read
    from precog_runtime.frames.dtypes import ColumnBytes, optimize_dtypes, report
except ModuleNotFoundError as error:
    if error.name not in ("pandas", "pyarrow", "tqdm"):
        raise
    raise ModuleNotFoundError(
        f"{error}. precog_runtime.frames needs it: pip install precog-runtime[frames]", name=error.name
    ) from error

__all__ = ["PRICES", "ColumnBytes", "FrameError", "chunks", "concat", "optimize_dtypes", "process", "read", "report"]
