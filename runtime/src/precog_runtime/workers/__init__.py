"""Where models do their work: threads for numpy, processes for pure Python, or any executor."""

from precog_runtime.workers.pool import WorkerPool

__all__ = ["WorkerPool"]
