"""Static programs: the passes of a network compiled, one program for every depth.

Python decides which depth runs next; so nothing in a program depends on data, and every one is a single graph. On a GPU
it is recorded as a CUDA graph and replayed: a partial pass is short, and launching its kernels one by one takes longer
than running them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from tqdm import tqdm

from models.feature import Feature, each
from models.memory_format import memory_format
from models.unet import UNet

PassKey = tuple[int | None, tuple[int, ...]]  # of a pass: its branch, None for a full one, and what it taps
Output = tuple[Tensor, dict[int, Feature]]
Program = Callable[[Tensor, Any, Any, Feature | None], Output]


def compile_passes(unet: UNet, backend: str = "inductor") -> Programs:
    """Makes `unet` run compiled, from its next pass on -> its programs.

    backend: of torch.compile. What inductor compiles it also keeps on disk (in TORCHINDUCTOR_CACHE_DIR, or the folder
    for temporary files), where later processes find it.
    """
    unet.run = Programs(unet.run, backend, memory_format(unet))
    return unet.run


class Programs:
    """Stands in for `UNet.run`: compiles a pass when its depth is first asked for, with a word about how long it takes.

    A program is for one shape of batch, the first that comes at its depth; any other, such as the last of a run that
    does not divide evenly, runs as it would uncompiled.
    """

    def __init__(self, run: Callable[..., Output], backend: str, layout: torch.memory_format) -> None:
        self.backend, self.layout = backend, layout
        self.seconds = 0.0  # spent on first calls, compiling
        self._run = run
        self._programs: dict[PassKey, Program] = {}
        self._shapes: dict[PassKey, torch.Size] = {}

    def __len__(self) -> int:
        return len(self._programs)

    def __call__(
        self, x: Tensor, emb: Any, context: Any, branch: int | None, feature: Feature | None, taps: Sequence[int]
    ) -> Output:
        key = branch, tuple(taps)
        if x.shape != self._shapes.setdefault(key, x.shape):
            return self._run(x, emb, context, branch, feature, taps)
        x = x.contiguous(memory_format=self.layout)  # whatever layout the sampler's arithmetic left
        if key not in self._programs:
            self._programs[key] = self._compile(*key, as_graph=x.is_cuda)
            return self._first(key, x, emb, context, feature)
        return self._replay(key, x, emb, context, feature)

    def _compile(self, branch: int | None, taps: tuple[int, ...], as_graph: bool) -> Program:
        def one_depth(x: Tensor, emb: Any, context: Any, feature: Feature | None) -> Output:
            return self._run(x, emb, context, branch, feature, taps)

        # torch counts what it compiles by code object and stops at eight; depths are no recompilations of each other.
        program = FunctionType(one_depth.__code__.replace(), globals(), closure=one_depth.__closure__)
        options = {"mode": "reduce-overhead"} if self.backend == "inductor" and as_graph else {}
        return torch.compile(program, backend=self.backend, dynamic=False, fullgraph=True, **options)

    def _first(self, key: PassKey, *arguments: Any) -> Output:
        depth = "the full pass" if key[0] is None else f"the pass at branch {key[0]}"
        start, left_out = time.perf_counter(), _graphs_left_out()
        # A network's epsilons are constants. torch 2.6 takes them for inputs where another network had others before.
        constants = torch._dynamo.config.patch(specialize_float=True)
        with constants, tqdm(total=1, desc=f"compiling {depth}", bar_format="{desc}: {elapsed}") as bar:
            output = self._replay(key, *arguments)
            if output[0].is_cuda:  # the second run is the one that is recorded
                output = self._replay(key, *arguments)
            bar.update()
        if _graphs_left_out() > left_out:
            print(f"PyTorch recorded no CUDA graph of {depth}, which is compiled, but launched kernel by kernel; "
                  "TORCH_LOGS=cudagraphs says why", file=sys.stderr)  # fmt: skip
        self.seconds += time.perf_counter() - start
        return output

    def _replay(self, key: PassKey, *arguments: Any) -> Output:
        torch.compiler.cudagraph_mark_step_begin()
        eps, tapped = self._programs[key](*arguments)
        if not eps.is_cuda:
            return eps, tapped
        # A recorded graph writes into the same memory again the next time, and callers keep what they get.
        return eps.clone(), {branch: each(torch.clone, feature) for branch, feature in tapped.items()}


def _graphs_left_out() -> int:
    return counters["inductor"]["cudagraph_skips"]
