"""Runs in processes of their own that tests can kill, as torchrun would start them but without its start-up time."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing as mp
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from experiments.cli import main
from experiments.runs.run import SampleConfig, run
from experiments.runs.world import join


@functools.cache
def context() -> mp.context.ForkServerContext:
    """Starts processes as copies of one that has imported everything and computed nothing."""
    server = mp.get_context("forkserver")
    server.set_forkserver_preload(["processes"])
    # Before Python 3.12 the server looks for what it imports where the environment says, not where sys.path does.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return server


def sample(config: SampleConfig) -> None:
    print(run(config), flush=True)


def _process(rank: int, size: int, port: int, said: Path, work: Callable[[Any], object], words: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    torch.set_num_threads(1)
    with said.open("a", buffering=1) as sys.stderr, Path(os.devnull).open("w") as sys.stdout:
        try:
            main(work, SampleConfig, doc="", default="mnist32", words=words, shared=True)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            join().leave()  # which multiprocessing, unlike Python, does not do at exit


def start(size: int, said: Path, words: list[str], work: Callable[[Any], object] = sample) -> list[BaseProcess]:
    """Starts `size` processes that run `work` with the settings `words`; what they say on stderr goes to `said`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context().Process(target=_process, args=(r, size, port, said, work, words)) for r in range(size)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], seconds: float = 120.0) -> list[int | None]:
    """The exit statuses; None of a process that has not ended in time, and is killed then."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    statuses = [process.exitcode for process in processes]
    kill(processes)
    return statuses


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


@contextlib.contextmanager
def running(size: int, said: Path, words: list[str]) -> Iterator[list[BaseProcess]]:
    """Processes that are killed in the end, if they have not ended."""
    processes = start(size, said, words)
    try:
        yield processes
    finally:
        kill(processes)
