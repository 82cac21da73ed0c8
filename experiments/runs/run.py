"""The main job: sample the same seeds with and without the cache, and say what it saved and what it cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from caching import NoCache, PlanFile
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import UNCACHED, Strategy, classes, default_forecaster, strategies
from experiments.model import ModelConfig, model_config
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.plugins import code_of
from experiments.precision import emulation_warning
from experiments.runs import samples
from experiments.runs.batch_size import AUTO, auto_batch_size
from experiments.runs.blocks import RunFolder, Task
from experiments.runs.making import Job, Observer, environment
from experiments.runs.memory import give_back
from experiments.runs.sampling import begin_all
from experiments.runs.summarise import finish
from experiments.runs.summary import Summary
from experiments.runs.world import World, join
from samplers import NUM_SEEDS, Sampler, SamplerConfig

# Where a run goes and how far: no image depends on these settings.
NO_IMAGE = ("num_images", "seed", "device", "out")


@dataclass(frozen=True)
class SampleConfig(PipelineConfig):
    """One run of scripts/sample.py."""

    model: str = "mnist32"  # NAME in configs/models, or a YAML file
    checkpoint: str | None = None  # file, folder, URL, hf://owner/name, published name, random; null: the model's first
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    policy: dict[str, Any] = field(default_factory=lambda: {"name": "none"})  # lists of values are compared
    # What a cached feature is taken to be now; the paper's is reuse. auto: an extrapolation where sampling is
    # deterministic and full passes are many enough, else reuse. A plan file brings its own.
    forecaster: dict[str, Any] = field(default_factory=lambda: {"name": "auto"})
    num_images: int = 16
    # Batches are always whole and lie on a grid from seed 0, so that no image depends on which others were asked for.
    # auto: as the output folder was begun, else the largest that fits into memory.
    batch_size: int | str = 16
    seed: int = 0  # image i is made from seed + i, and depends on nothing else
    compare: bool = True  # against the same seeds without a cache
    storage: str = "png"  # of the images: png (a file for each) | npz (shards, as OpenAI's evaluator takes them)
    device: str = "auto"
    out: str | None = None  # null: outputs/, in a folder named after the model and what the images depend on

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.batch_size, str) and self.batch_size != AUTO:
            raise InputError(f"batch_size must be a number of images or auto, not {self.batch_size!r}")
        for name in ("num_images", "batch_size"):
            if getattr(self, name) != AUTO and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed <= NUM_SEEDS - self.num_images:
            raise InputError(f"the seeds of {self.num_images} images must lie in 0..{NUM_SEEDS - 1}; seed={self.seed} "
                             "does not leave room for them")  # fmt: skip
        samples.storage(self.storage)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_images)


def run(config: SampleConfig, world: World | None = None, observer: Observer | None = None) -> Summary:
    """Samples what is not yet in the output folder, writes images, grid and summary.json -> the summary.

    world: the processes that share the work; None: those of torchrun, or this one alone. Each of them must call `run`
      with the same configuration; each gets the summary, and where one fails all of them raise.
    observer: sees every image of every strategy once, on the process that made or read it: as it is made, in memory, or
      from disk where it was made before.

    Raises InputError for what cannot be sampled and for a folder that holds other images, OSError where the images
    cannot be written. What is whole on disk then stays, and the next call goes on from there.
    """
    world = world or join()
    job = world.first_then_others(lambda: prepare(config, world))
    if config.batch_size == AUTO:
        size = world.first(lambda: job.folder.begun_batch_size() or fitting_batch_size(config, job, world))
        config, job = replace(config, batch_size=size), replace(job, folder=job.folder.sized(size))
    tasks = world.first(lambda: begin(job, config.seeds))
    if observer is not None:
        job.show(config.seeds, tasks, world, observer)
    if tasks:
        job.make(tasks, world, observer)
    count = model_config(config.model).paper_macs
    return world.first(lambda: finish(job, config.seeds, asdict(config), count))


def prepare(config: SampleConfig, world: World) -> Job:
    """Everything before the first image, and before the first file."""
    model = model_config(config.model)
    device = world.device(config.device)
    if device.type == "cuda":
        give_back(device)  # what an earlier run compiled refers to itself, and waits for the collector
    chosen = compared(config)
    sampler = sampler_of(config)
    pipeline = load_pipeline(config.checkpoint, config.model, config, device)
    for strategy in chosen:
        if isinstance(strategy.policy, PlanFile):
            strategy.policy.check(config.trajectories(pipeline.parts.trajectory_sha256, sampler))
    runs = begin_all(pipeline, sampler, chosen)
    return Job(pipeline, sampler, runs, config.compare, output_folder(config, model, pipeline, chosen))


def compared(config: SampleConfig) -> list[Strategy]:
    """What is sampled: the uncached network, if the others are compared with it, and the configuration's strategies."""
    uncached = [UNCACHED] if config.compare else []
    return uncached + strategies(config.policy, config.forecaster, sampler_of(config))


def sampler_of(config: SampleConfig) -> Sampler:
    """The sampler of a configuration, on its model's noise schedule."""
    return Sampler(config.sampler, model_config(config.model).diffusion)


def fitting_batch_size(config: SampleConfig, job: Job, world: World) -> int:
    """What batch_size=auto comes to: no more than leaves a batch for every process."""
    most, sharers = -(-config.num_images // world.size), world.sharers(config.device)
    size = auto_batch_size(job.pipeline, job.sampler, compared(config), most, sharers)
    print(f"batch_size={size} fits into the memory of {job.pipeline.device.type}", file=sys.stderr)
    return size


def begin(job: Job, seeds: range) -> list[Task]:
    """Claims the folder -> what is left to be made there."""
    folder = job.folder
    folder.claim()
    tasks, sentences = folder.examine(seeds)
    blocks = len(folder.blocks(seeds))
    if len(tasks) < blocks:
        sentences.append(
            f"{folder.path} holds {blocks - len(tasks)} of {blocks} batches; {len(tasks)} are left to make"
        )
    computed = sum(len(task.block) for task in tasks)
    if computed >= 2 * len(seeds):
        sentences.append(f"{computed} images are computed for {len(seeds)}: batches are always whole, so that no image "
                         f"depends on the others that were asked for; a smaller batch_size is quicker")  # fmt: skip
    if tasks and (slow := emulation_warning(job.pipeline.config.precision, job.pipeline.device)):
        sentences.append(slow)
    if tasks and len(tasks) < blocks and (other := _made_elsewhere(job, seeds, tasks)):
        sentences.append(other)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return tasks


def _made_elsewhere(job: Job, seeds: range, tasks: Sequence[Task]) -> str | None:
    """A sentence where images that are kept differ by rounding from what would be made of their seeds here."""
    left, here = {task.block for task in tasks}, environment(job.pipeline)
    kept = next(block for block in job.folder.blocks(seeds) if block not in left)
    there = job.folder.record(kept).environment
    for key, what in (("device", "on"), ("torch", "by torch")):
        if there[key] != here[key]:
            return f"what is there was made {what} {there[key]}, which may round otherwise than {here[key]} does here"
    return None


def output_folder(
    config: SampleConfig, model: ModelConfig, pipeline: Pipeline, chosen: Sequence[Strategy]
) -> RunFolder:
    known = identity(config, model, pipeline, chosen)
    path = Path("outputs") / f"{Path(config.model).stem}-{json_digest(known)[:8]}" if config.out is None else config.out
    names = [strategy.name for strategy in chosen]
    size = 0 if config.batch_size == AUTO else int(config.batch_size)  # 0: `run` settles it
    return RunFolder(Path(path), known, names, size, config.storage)


def identity(
    config: SampleConfig, model: ModelConfig, pipeline: Pipeline, chosen: Sequence[Strategy]
) -> dict[str, Any]:
    """All that the images of a run depend on besides their seeds, as flat settings. Of files it is their contents."""
    settings = {key: value for key, value in asdict(config).items() if key not in NO_IMAGE}
    network = {key: value for key, value in asdict(model).items() if key not in ("checkpoints", "paper_group_norms")}
    if config.forecaster["name"] == "auto":
        settings["forecaster"] = meant_by_auto(chosen, sampler_of(config))
    elif isinstance(config.forecaster["name"], list) and "auto" in config.forecaster["name"]:
        settings["forecaster"] = {**config.forecaster, "auto": meant_by_auto(chosen, sampler_of(config))}
    if config.prompts is not None:
        settings["prompts"] = json_digest(pipeline.prompts)
    plans = [asdict(strategy.policy.saved) for strategy in chosen if isinstance(strategy.policy, PlanFile)]
    if plans:
        settings["policy"] = {"name": "plan", "plans": json_digest(plans)} | _beside_plans(config.policy)
    settings["checkpoint"] = pipeline.parts.sha256 or "random"
    settings |= code_of(*classes(chosen))
    return dict(_flat({**settings, "model": Path(config.model).stem, "network": json_digest(network)}))


def _beside_plans(policy: Mapping[str, Any]) -> dict[str, Any]:
    """What of the policies' settings says more than the plan files among them."""
    names = policy["name"] if isinstance(policy["name"], list) else [policy["name"]]
    others = [name for name in names if name != "plan" and not str(name).endswith(".json")]
    return {**policy, "name": others, "file": None} if others else {}


def meant_by_auto(chosen: Sequence[Strategy], sampler: Sampler) -> Any:
    """What forecaster=auto came to: its settings, or where strategies have different ones the list of them."""
    forecasting = [s.policy for s in chosen if not isinstance(s.policy, NoCache | PlanFile)]
    each = [default_forecaster(policy, sampler) for policy in forecasting]
    return each[0] if each and all(settings == each[0] for settings in each) else each


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
