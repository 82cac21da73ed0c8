"""The evaluation of folders of samples: every metric that can be had, in a table and in a JSON file beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from configs import InputError, one_of
from experiments.evaluation.clip_score import CLIP, clip_score, load_clip, prompts_of
from experiments.evaluation.evaluator import images_evaluator
from experiments.evaluation.inception import RESIZES, is_published, load_inception
from experiments.evaluation.networks import FeatureNetwork, load_features
from experiments.evaluation.pairs import compare, load_lpips, perceptual
from experiments.evaluation.references import Reference, open_reference, save_statistics
from experiments.evaluation.result import Evaluation, earlier, metrics_file
from experiments.evaluation.scores import METRICS, Scores, layers_for, score
from experiments.evaluation.sets import ImageSet, open_sets
from experiments.runs.world import World, join
from experiments.training.classifier import BUNDLED, DIGITS
from models.files import check_writable

OF_INCEPTION = ("fid", "sfid", "is", "kid", "prc")
OF_PAIRS = ("psnr", "ssim", "lpips")
ALL = (*METRICS, *OF_PAIRS, "clip")


@dataclass(frozen=True)
class EvaluateConfig:
    """One run of scripts/evaluate.py."""

    folder: str = MISSING  # of samples, also in its sub-folders, each a set of its own; or an .npz of images in arr_0
    reference: str | None = None  # see open_reference
    metrics: list[str] | None = None  # of ALL; null is all that the other keys call for, but for those that download
    split: str = "train"  # of the reference, where it has train and test
    inception: str | None = None  # the weights of FID's network; null looks where torch.hub keeps them, and downloads
    resize: str = "tensorflow"  # to Inception's size: tensorflow (OpenAI's evaluator) | pytorch (pytorch-fid)
    features: str | None = None  # another network, for fd; null is the bundled classifier where samples are digits
    statistics: str | None = None  # an .npz that receives the statistics of the reference, to be a reference later
    against: str | None = None  # a folder of images of the same names: those of psnr, ssim and lpips
    prompts: str | None = None  # for clip; null takes them from the run's summary.json
    clip: str = CLIP  # ARCHITECTURE/WEIGHTS of open_clip, or a file of ViT-g-14
    batch_size: int = 50
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {self.batch_size}")
        one_of(self.split, ("train", "test"), "the split")
        one_of(self.resize, RESIZES, "resize")
        for metric in self.metrics or ():
            one_of(metric, ALL, "the metric")
        if self.statistics is not None:
            if not self.statistics.endswith(".npz"):
                raise InputError(f"statistics must be the name of an .npz file, not {self.statistics}")
            if self.reference is None:
                raise InputError("statistics are those of the reference; name it with reference=")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics asked for, or else those that the keys call for."""
        if self.metrics is not None:
            return tuple(self.metrics)
        of_pairs = ("psnr", "ssim") if self.against else ()
        of_sets = tuple(METRICS) if self.reference else ("is",) if not self.against else ()
        return (*of_sets, *of_pairs, *(("clip",) if self.prompts else ()))


def evaluate(config: EvaluateConfig, world: World | None = None) -> Evaluation:
    """Measures the samples -> what they are worth, which its `save` adds to FOLDER.metrics.json.

    world: the processes that share the features of networks; None: those of torchrun, or this one alone. Every one of
      them must call `evaluate`, and gets the result.

    What cannot be had, for want of weights, packages or real images, is left out, and the result says why.
    Raises InputError where nothing is left; before anything is measured also where that file holds anything else, and
    OSError where it or the one of statistics cannot be written.
    """
    work = _Work(config, world or join())
    work.world.first(work.check_outputs)
    for metrics, measure in work.jobs():
        wanted = [metric for metric in config.wanted if metric in metrics]
        if not wanted:
            continue
        try:
            measure(wanted)
        except InputError as error:
            work.missing.append(f"no {', '.join(wanted)}: {error}")
    return work.world.first(work.result)


class _Work:
    """The samples, and what has been found out about them so far."""

    def __init__(self, config: EvaluateConfig, world: World) -> None:
        self.config, self.world = config, world
        self.device = world.first_then_others(lambda: world.device(config.device))
        self.sets = open_sets(Path(config.folder).expanduser())
        if len({images.shape for images in self.sets}) > 1:
            raise InputError(f"the sets of samples in {config.folder} are of different sizes; name one of them")
        self.scores = {images.name: Scores() for images in self.sets}
        self.networks: dict[str, str] = {}  # sha256 by name
        self.missing: list[str] = []

    def jobs(self) -> list[tuple[Sequence[str], Callable[[Sequence[str]], None]]]:
        """What to do for which metrics. Features are the work of all processes, the rest is that of the first."""
        return [
            (OF_INCEPTION, self._of_inception),
            (("fd",), self._of_features),
            (("psnr", "ssim"), lambda metrics: self.world.first(lambda: self._of_pixels(metrics))),
            (("lpips",), lambda metrics: self.world.first(self._lpips)),
            (("clip",), lambda metrics: self.world.first(self._clip)),
        ]

    def check_outputs(self) -> None:
        files = [self.config.statistics, metrics_file(self.config.folder)]
        for file in filter(None, files):
            check_writable(Path(file).expanduser())
        earlier(metrics_file(self.config.folder))

    def result(self) -> Evaluation:
        """Everything together."""
        missing = list(dict.fromkeys([*self.missing, *(line for s in self.scores.values() for line in s.missing)]))
        if not any(scores.values for scores in self.scores.values()):
            raise InputError("; ".join(missing) or "there is nothing to measure: name reference= or against=")
        return Evaluation(
            folder=self.config.folder,
            reference=self.config.reference,
            split=self.config.split,
            against=self.config.against,
            metrics=list(self.config.wanted),
            images={images.name: len(images) for images in self.sets},
            values={name: scores.values for name, scores in self.scores.items()},
            networks=self.networks,
            settings=list(dict.fromkeys(line for scores in self.scores.values() for line in scores.settings)),
            missing=missing,
        )

    def _of_inception(self, metrics: Sequence[str]) -> None:
        source = self.config.inception, self.device, self.config.resize
        network = self.world.first_then_others(lambda: load_inception(*source))
        self._of_network(network, metrics)
        if not is_published(network):
            self._add_setting(f"the weights of {network.name} are not the published ones: these figures compare with "
                              "no others")  # fmt: skip

    def _of_features(self, metrics: Sequence[str]) -> None:
        path = self.config.features or (BUNDLED if self.sets[0].shape == DIGITS else None)
        if path is not None:
            self._of_network(load_features(path, self.device), metrics)
        elif self.config.metrics:
            raise InputError("name the network with features=FILE")

    def _of_network(self, network: FeatureNetwork, metrics: Sequence[str]) -> None:
        layers = layers_for(metrics, network)
        reference = self._reference(network, metrics, layers)
        for images in self.sets:
            samples = images_evaluator(network, images.images, self.config.batch_size, layers, images.name, self.world)
            if self.world.is_first:
                self.scores[images.name].extend(score(samples, reference, metrics))
        self.networks[network.name] = network.sha256

    def _reference(self, network: FeatureNetwork, metrics: Sequence[str], layers: Sequence[str]) -> Reference | None:
        if self.config.reference is None or not any(METRICS[metric].needs_reference for metric in metrics):
            return None
        reference = open_reference(
            self.config.reference,
            network,
            split=self.config.split,
            shape=self.sets[0].shape,
            batch_size=self.config.batch_size,
            layers=layers,
            singles=bool({"kid", "prc"} & set(metrics)),
            world=self.world,
        )
        file = self.config.statistics
        if file is not None and not self.networks:  # of the first network alone
            self.world.first(lambda: save_statistics(Path(file).expanduser(), reference, network))
            self._add_setting(f"{file} holds the statistics of {reference.name} in {network.name}")
        return reference

    def _of_pixels(self, metrics: Sequence[str]) -> None:
        for images, reference in self._pairs():
            summary = compare(images, reference).summary()
            chosen = {key: value for key, value in summary.items() if key.startswith((*metrics, "identical"))}
            self.scores[images.name].values.update(chosen)
        self._add_setting(f"{', '.join(metrics)}: of each image to the one of its name in {self.config.against}, in "
                          "8 bits; mean over the images that differ / worst")  # fmt: skip

    def _lpips(self) -> None:
        pairs = self._pairs()
        distance = load_lpips(self.device)
        for images, reference in pairs:
            values = perceptual(images, reference, distance)
            summary = {"lpips_mean": sum(values) / len(values), "lpips_worst": max(values)}
            self.scores[images.name].values.update(summary)
        self._add_setting("lpips: version 0.1 on AlexNet; mean / worst")

    def _clip(self) -> None:
        folder = Path(self.config.folder).expanduser()
        prompts = {images.name: prompts_of(self.config.prompts, folder, images) for images in self.sets}
        scorer = load_clip(self.config.clip, self.device)
        for images in self.sets:
            value = clip_score(images, prompts[images.name], scorer, self.config.batch_size)
            self.scores[images.name].values["CLIP"] = value
        self._add_setting(f"CLIP: mean of 100·cos of image and prompt, clipped at 0, in {self.config.clip}")

    def _pairs(self) -> list[tuple[ImageSet, ImageSet]]:
        """Every set with what it is compared to: the set of its name, or the only one there is."""
        if self.config.against is None:
            raise InputError("name the images to compare with by against=FOLDER")
        others = open_sets(Path(self.config.against).expanduser())
        by_name = {other.name: other for other in others}
        if len(others) > 1 and any(images.name not in by_name for images in self.sets):
            raise InputError(f"{self.config.against} holds {', '.join(by_name)}; name one of them")
        return [(images, others[0] if len(others) == 1 else by_name[images.name]) for images in self.sets]

    def _add_setting(self, line: str) -> None:
        self.scores[self.sets[0].name].settings.append(line)
