"""What a row's images are worth: how close they are to the uncached ones, and how far, as a set, from real ones.

The metrics are those of experiments/evaluation; what is here knows which of them a row can have, and loads networks and
real images once for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from configs import InputError
from experiments.digest import file_digest
from experiments.evaluation.clip_score import Scorer, clip_score, load_clip, prompts_of
from experiments.evaluation.evaluator import Evaluator, images_evaluator
from experiments.evaluation.inception import load_inception
from experiments.evaluation.lsun import PREFIX
from experiments.evaluation.networks import POOL, FeatureNetwork, load_features
from experiments.evaluation.pairs import compare
from experiments.evaluation.references import Reference, open_reference
from experiments.evaluation.scores import NEIGHBOURS, layers_for, precision_recall, score
from experiments.evaluation.sets import ImageSet, open_sets
from experiments.training.classifier import BUNDLED, DIGITS

T = TypeVar("T")

# Of digits the bundled classifier judges; other images are Inception's.
OF_DIGITS, OF_OTHERS = ("fd",), ("fid", "sfid", "is", "prc")
# Under what name a row keeps a metric of experiments/evaluation.
KEPT = {"FID": "fid", "sFID": "sfid", "IS": "inception_score", "precision": "precision", "recall": "recall"}
DISTANCES = {"frechet", *KEPT.values()}  # what only real images can say
BATCH = 50  # images in a feature network at a time


@dataclass(frozen=True)
class Judged:
    """Metrics by name, how they are defined here, and why others are missing."""

    metrics: dict[str, float] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Judges:
    """Measures folders of images.

    data: real images or their statistics, as experiments.evaluation.open_reference takes them; None leaves distances
      out. Digits are compared with their test images, others with those of training. inception: the weights of FID's
      network. clip: the network of CLIP scores, for images that were made from prompts; None leaves these out. resize:
      see load_inception; of digits, which it does not judge, it says nothing.
    """

    def __init__(
        self,
        data: str | None = None,
        inception: str | None = None,
        clip: str | None = None,
        device: str = "cpu",
        resize: str = "tensorflow",
    ) -> None:
        self.data, self.inception, self.clip, self.resize = data, inception, clip, resize
        self.device = torch.device(device)
        self._loaded: dict[Any, Any] = {}  # what was loaded, or the sentence that it failed with

    def check_sources(self) -> None:
        """Raises InputError for files that are not there, before hours of sampling that nothing could judge then."""
        if self.data is not None and self.data not in ("mnist", "cifar10"):
            path = Path(self.data.removeprefix(PREFIX)).expanduser()
            if not path.exists():
                raise InputError(f"data must be mnist, cifar10, or an image folder, an .npz file or {PREFIX}FOLDER "
                                 f"that exists, not {self.data!r}")  # fmt: skip
        if self.inception is not None and not Path(self.inception).expanduser().is_file():
            raise InputError(f"there is no file {self.inception} with the weights of Inception")

    @cached_property
    def identity(self) -> dict[str, str]:
        """What images are measured against: as given, of files the sha256. Empty where nothing was asked for."""
        resize = None if self.resize == "tensorflow" else self.resize  # the usual one goes without saying
        given = {"data": self.data, "inception": self.inception, "clip": self.clip, "resize": resize}
        return {
            name: file_digest(source) if Path(source).is_file() else source
            for name, source in given.items()
            if source is not None
        }

    def have_measured(self, judged: Mapping[str, str], metrics: Collection[str]) -> bool:
        """Have images with these metrics, measured against `judged`, been measured against what is asked for now? Not
        where nothing came of it: a network that was missing may be there by now."""
        of_sources = ((self.data, DISTANCES), (self.clip, {"clip_score"}))
        wanted = [metrics_of for source, metrics_of in of_sources if source is not None]
        return not wanted or (judged == self.identity and all(each & set(metrics) for each in wanted))

    def measure(self, images: Path, uncached: Path | None, prompts: str | None = None) -> Judged:
        """images: those of a row. uncached: those it is compared with; None for an uncached row. prompts: the file they
        were made from; None takes the prompts, if any, from the summary of their run."""
        (samples,) = open_sets(images)
        judged = Judged()
        if uncached is not None:
            (reference,) = open_sets(uncached)
            close = compare(samples, reference).summary()
            judged.metrics.update({name: float(value) for name, value in close.items() if value is not None})
        if self.data is not None:
            self._try("distances to real images", judged, lambda: self._distances(samples, judged))
        if self.clip is not None:
            self._try("CLIP score", judged, lambda: self._clip_score(samples, images, prompts, judged))
        return judged

    def _distances(self, samples: ImageSet, judged: Judged) -> None:
        network, metrics = self._network(samples)
        layers = layers_for(metrics, network)
        reference = self._once((network.name, samples.shape), lambda: self._reference(network, samples, layers))
        evaluator = images_evaluator(network, samples.images, BATCH, layers, samples.name)
        scores = score(evaluator, reference, metrics)
        for name, value in scores.values.items():
            if name.startswith("FD-"):
                judged.metrics["frechet"] = value
            elif name in KEPT:
                judged.metrics[KEPT[name]] = value
        judged.settings.extend(scores.settings)
        judged.missing.extend(scores.missing)
        if samples.shape == DIGITS:
            self._try("precision and recall", judged, lambda: _precision_recall(evaluator, reference, judged))

    def _network(self, samples: ImageSet) -> tuple[FeatureNetwork, Sequence[str]]:
        if samples.shape == DIGITS:
            return self._once("digits", lambda: load_features(BUNDLED, self.device)), OF_DIGITS
        return self._once("inception", lambda: load_inception(self.inception, self.device, self.resize)), OF_OTHERS

    def _reference(self, network: FeatureNetwork, samples: ImageSet, layers: Sequence[str]) -> Reference:
        split = "test" if samples.shape == DIGITS else "train"
        return open_reference(
            self.data or "", network, split=split, shape=samples.shape, batch_size=BATCH, layers=layers
        )

    def _clip_score(self, samples: ImageSet, folder: Path, prompts: str | None, judged: Judged) -> None:
        scorer: Scorer = self._once("clip", lambda: load_clip(self.clip or "", self.device))
        judged.metrics["clip_score"] = clip_score(samples, prompts_of(prompts, folder, samples), scorer, BATCH)
        judged.settings.append(f"CLIP score: mean of 100 cos of image and prompt, clipped at 0, in {self.clip}")

    def _once(self, key: Any, load: Callable[[], T]) -> T:
        """What `load` returns; it is called once, also where it raises InputError."""
        if key not in self._loaded:
            try:
                self._loaded[key] = load()
            except InputError as error:
                self._loaded[key] = error
        if isinstance(self._loaded[key], InputError):
            raise self._loaded[key]
        return self._loaded[key]

    def _try(self, what: str, judged: Judged, measure: Callable[[], None]) -> None:
        try:
            measure()
        except InputError as error:
            judged.missing.append(f"no {what}: {' '.join(str(error).split())}")


def _precision_recall(samples: Evaluator, reference: Reference, judged: Judged) -> None:
    """As of Inception's features, in those of another network."""
    if reference.features is None:
        raise InputError(f"{reference.name} holds statistics alone")
    shares = precision_recall(samples.features(POOL), reference.features)
    judged.metrics["precision"], judged.metrics["recall"] = shares
    judged.settings.append(f"precision, recall: with the {NEIGHBOURS} nearest neighbours in the features of "
                           f"{samples.network.name}, of {len(reference.features)} real images")  # fmt: skip
