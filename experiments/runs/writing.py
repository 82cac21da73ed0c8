"""Work for one background thread: encoding and writing the last images while the next are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Does one job after the other in a thread of its own; of a few jobs in line, the next caller waits.

    An error of a job is raised by the next `submit`, `check` or the end of the `with` block, whichever comes first.
    """

    def __init__(self, in_line: int = 4) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._jobs: deque[Future[Any]] = deque()
        self._in_line = in_line

    def submit(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        while len(self._jobs) >= self._in_line:
            self._jobs.popleft().result()
        self.check()
        self._jobs.append(self._thread.submit(job, *arguments))
        return self._jobs[-1]

    def check(self) -> None:
        """Raises the error of a job that has failed."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()

    def wait(self) -> None:
        """Waits for all jobs. Raises the error of one that has failed."""
        while self._jobs:
            self._jobs.popleft().result()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.check()
