"""The processes of a run: one alone, or those that torchrun started, on one machine or several.

A run is sharded, not synchronised: processes meet where a piece of work begins and ends, and never within it. What
they tell each other goes through torch.distributed's key-value store, where waiting can be interrupted: an error of one
process becomes the error of all, at their next meeting or progress report, and leaves none waiting for good.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from configs import InputError
from experiments.model import pick_device

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

POLL = 0.05  # seconds between two looks at what one waits for
REPORT = 0.5  # seconds between two progress reports
PART = 2**22  # bytes; the store takes 8 MiB at a time
LAST_WORDS = 30.0  # seconds that processes wait for each other when they end


class World:
    """One process among `size`; rank 0 is the first, the only one that talks to people.

    All methods but `device`, `sharers`, `say_last` and `check` are meetings: every process must call them, in the same
    order, and none from within `together`.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._meetings = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: `auto` and `cuda` are the GPU of its local rank. Raises InputError where there
        is none."""
        if self.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            local, count = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
            if local >= count:
                raise InputError(f"there are more processes than the {count} GPUs of this machine; start torchrun with "
                                 f"--nproc-per-node {count}, or share one with device=cuda:0")  # fmt: skip
            name = f"cuda:{local}"
        device = pick_device(name)
        if device.type == "cuda":
            if device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
            torch.cuda.set_device(device)  # of nothing but an index
        return device

    def sharers(self, name: str) -> int:
        """How many processes run on the device that `name` gives to this one: all of this machine, but where each has
        a GPU of its own."""
        if self.size == 1 or (name in ("auto", "cuda") and torch.cuda.is_available()):
            return 1
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @contextlib.contextmanager
    def together(self, while_waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """A piece of work that every process does its share of. It ends when all have ended.

        Where one of them fails, all of them raise: its own exception there, elsewhere InputError, OSError or
        RuntimeError with the same sentence. So a caller that catches it goes on in step with the others.
        """
        self._meetings += 1
        if self._store is None:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except _FailedElsewhere:
            pass
        except Exception as raised:
            error = raised
            self._store.set(self._key("failed"), json.dumps(_describe(raised)))
        self._store.add(self._key("ended"), 1)
        while self._store.add(self._key("ended"), 0) < self.size:
            while_waiting()
            time.sleep(POLL)
        if error is not None:
            raise error
        if self._failed:
            raise _rebuild(json.loads(self._store.get(self._key("failed"))))

    def check(self) -> None:
        """Within `together`: leaves it at once if it has failed elsewhere."""
        if self._failed:
            raise _FailedElsewhere

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on every process."""
        made = None
        with self.together():
            if self.is_first:
                made = make()
                self._tell("made", made)
        return made if self.is_first else self._hear("made")  # type: ignore[return-value]

    def first_then_others(self, make: Callable[[], T]) -> T:
        """What every process makes for itself, the others after the first: it may have to download what they find."""
        made = None
        for turn in (True, False):
            with self.together():
                if self.is_first == turn:
                    made = make()
        return made  # type: ignore[return-value]

    def gather(self, value: T) -> list[T] | None:
        """What every process has, by rank, on the first process; None on the others."""
        with self.together():
            if not self.is_first:
                self._tell(f"value of {self.rank}", value)
        if not self.is_first:
            return None
        return [value, *(self._hear(f"value of {rank}", and_forget=True) for rank in range(1, self.size))]

    def progress(self, total: int, unit: str) -> Progress:
        """A bar of the first process that counts what all of them have done. For use within the next `together`."""
        return Progress(self, total, unit)

    def say_last(self, say: Callable[[], None]) -> None:
        """Lets the first process say why the run ends. Another one waits for that (torchrun ends all processes once one
        of them has ended), and speaks itself only if it is the only one to know."""
        if self._store is None:
            say()
        elif self.is_first:
            say()
            self._store.set("last words", "")
        else:
            try:
                self._store.wait(["last words"], timedelta(seconds=LAST_WORDS))
            except RuntimeError:  # nothing came, or the store is gone
                say()

    def leave(self) -> None:
        """Ends what `join` began. The first process leaves last: the others may still be talking to each other by the
        store that it, or its launcher, holds."""
        store, self._store = self._store, None
        if store is None:
            return
        with contextlib.suppress(RuntimeError):  # the store is gone
            gone = store.add("gone", 1)
            until = time.monotonic() + LAST_WORDS
            while self.is_first and gone < self.size and time.monotonic() < until:
                time.sleep(POLL)
                gone = store.add("gone", 0)

    def count(self, amount: int, meeting: int) -> int:
        """Adds to what all processes have done for the work of that meeting -> the sum so far."""
        return amount if self._store is None else self._store.add(f"done/{meeting}", amount)

    @property
    def next_meeting(self) -> int:
        return self._meetings + 1

    def _tell(self, what: str, value: object) -> None:
        """Lets the others `_hear` it, after this meeting."""
        if self._store is None:
            return
        message = pickle.dumps(value)
        parts = [message[start : start + PART] for start in range(0, len(message), PART)]
        for number, part in enumerate(parts):
            self._store.set(self._key(f"{what}/{number}"), part)
        self._store.set(self._key(what), str(len(parts)))

    def _hear(self, what: str, and_forget: bool = False) -> Any:
        """What one of the others told in this meeting. and_forget: nobody else will ask."""
        keys = [self._key(f"{what}/{number}") for number in range(int(self._store.get(self._key(what))))]
        message = b"".join(map(self._store.get, keys))
        for key in keys if and_forget else ():
            self._store.delete_key(key)
        return pickle.loads(message)

    @property
    def _failed(self) -> bool:
        return self._store is not None and self._store.check([self._key("failed")])

    def _key(self, what: str) -> str:
        return f"{what}/{self._meetings}"


class Progress:
    """See World.progress. `update` is cheap: it reports to the others, and hears of their errors, twice a second."""

    def __init__(self, world: World, total: int, unit: str) -> None:
        self._world, self._meeting = world, world.next_meeting
        self._unreported, self._reported = 0, time.monotonic()
        self.bar = tqdm(total=total, unit=unit, unit_scale=True, disable=not world.is_first)

    def update(self, amount: int) -> None:
        self._unreported += amount
        if time.monotonic() - self._reported >= REPORT:
            self.report()
            self._world.check()

    def report(self) -> None:
        done = self._world.count(self._unreported, self._meeting)
        self.bar.update(done if self._world.size == 1 else done - self.bar.n)
        self._unreported, self._reported = 0, time.monotonic()

    def set_description(self, text: str) -> None:
        self.bar.set_description(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            self.report()
        self.bar.close()


def is_first() -> bool:
    """Whether this is the process that talks to people; it need not have joined the others."""
    return os.environ.get("RANK", "0") == "0"


@functools.cache
def join() -> World:
    """The world of this process. Under torchrun, where it has others in it, the first call joins them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://"))
    world = World(rank, size, dist.PrefixStore("world", store))
    atexit.register(world.leave)
    return world


class _FailedElsewhere(Exception):  # noqa: N818  # control flow, never seen outside
    """Another process has failed."""


def _describe(error: Exception) -> dict[str, Any]:
    if isinstance(error, InputError):
        return {"kind": "input", "words": [str(error)]}
    if isinstance(error, torch.OutOfMemoryError):
        return {"kind": "memory", "words": [str(error)]}
    if isinstance(error, OSError):
        return {"kind": "os", "words": [error.errno, error.strerror or str(error), error.filename]}
    return {"kind": "other", "words": [f"{type(error).__name__}: {error}"]}


def _rebuild(described: dict[str, Any]) -> Exception:
    kinds: dict[str, type[Exception]] = {
        "input": InputError,
        "memory": torch.OutOfMemoryError,
        "os": OSError,
        "other": RuntimeError,
    }
    return kinds[described["kind"]](*described["words"])
