"""From features to metrics. The arithmetic of IS, KID, precision and recall is torch-fidelity's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from configs import InputError
from experiments.evaluation.evaluator import Evaluator
from experiments.evaluation.extras import optional
from experiments.evaluation.frechet import frechet_distance
from experiments.evaluation.inception import NAME, SPATIAL
from experiments.evaluation.networks import POOL, FeatureNetwork
from experiments.evaluation.references import Reference

SPLITS = 10  # of IS (Salimans et al. 2016)
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID (Bińkowski et al. 2018), as torch-fidelity and most papers take them
NEIGHBOURS = 3  # of precision and recall (Kynkäänniemi et al. 2019), and of OpenAI's evaluator
SEED = 2020  # torch-fidelity's, of the order for IS and of KID's subsets
ROWS = 2048  # of distances between features that are in memory at a time


@dataclass(frozen=True)
class Scores:
    """Metrics by name, how they are defined, and why others are missing."""

    values: dict[str, float] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def extend(self, other: Scores) -> None:
        self.values.update(other.values)
        self.settings.extend(other.settings)
        self.missing.extend(other.missing)


def score(samples: Evaluator, reference: Reference | None, metrics: Sequence[str]) -> Scores:
    """The metrics of the samples gathered in `samples`, against `reference`.

    metrics: of METRICS. fid, sfid, is, kid and prc are those of the Inception network; fd is the Fréchet distance in
      the features of any network, called by its name.
    """
    scores = Scores()
    for metric in metrics:
        try:
            values, setting = METRICS[metric].measure(samples, reference)
        except InputError as error:
            scores.missing.append(f"no {metric}: {error}")
        else:
            scores.values.update(values)
            scores.settings.append(setting)
    return scores


def layers_for(metrics: Sequence[str], network: FeatureNetwork) -> list[str]:
    """The layers of a network that these metrics are measured in."""
    return [layer for layer in network.widths if layer in {METRICS[metric].layer for metric in metrics} | {POOL}]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) | p(y)) over each of 10 parts of the shuffled images -> mean, deviation over the parts.

    logits: (N, classes).
    """
    module = optional("torch_fidelity.metric_isc", "eval", "the Inception Score needs")
    _at_least(SPLITS, len(logits))
    made = module.isc_features_to_metric(logits, SPLITS, shuffle=True, rng_seed=SEED)
    return made[module.KEY_METRIC_ISC_MEAN], made[module.KEY_METRIC_ISC_STD]


def kernel_distance(samples: Tensor, reference: Tensor) -> tuple[float, float]:
    """The unbiased squared MMD under the kernel (x·y/width + 1)³ over 100 random subsets -> mean, deviation.

    samples (N, width) and reference (M, width); subsets have 1000 of each, or all of the smaller set.
    """
    module = optional("torch_fidelity.metric_kid", "eval", "KID needs")
    size = subset_size(samples, reference)
    _at_least(2, size)
    made = module.kid_features_to_metric(
        samples.double(), reference.double(), kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=SEED, verbose=False
    )
    return made[module.KEY_METRIC_KID_MEAN], made[module.KEY_METRIC_KID_STD]


def precision_recall(samples: Tensor, reference: Tensor) -> tuple[float, float]:
    """The shares of samples near a real image, and of real images near a sample: nearer than the 3rd nearest
    neighbour of its own set is to the other one. samples (N, width), reference (M, width)."""
    module = optional("torch_fidelity.metric_prc", "eval", "precision and recall need")
    _at_least(NEIGHBOURS + 1, min(len(samples), len(reference)))
    made = module.prc_features_to_metric(
        samples, reference, prc_neighborhood=NEIGHBOURS, prc_batch_size=ROWS, save_cpu_ram=True, verbose=False
    )
    return made[module.KEY_METRIC_PRECISION], made[module.KEY_METRIC_RECALL]


def subset_size(samples: Tensor, reference: Tensor) -> int:
    return min(SUBSET_SIZE, len(samples), len(reference))


Measured = tuple[dict[str, float], str]  # metrics by name, and how they are defined


def _distance(layer: str, samples: Evaluator, reference: Reference | None) -> Measured:
    name = samples.network.metrics[layer]
    real = _given(reference, name)
    if layer not in real.moments:
        raise InputError(f"{real.name} has no statistics of the {layer} features, mu_s and sigma_s")
    distance = frechet_distance(samples.statistics(layer), real.moments[layer])
    images = f"{real.images} images of " if real.images else ""
    setting = (f"{name}: Fréchet distance to {images}{real.name} in {samples.network.widths[layer]} features of "
               f"{samples.network.name} (sha256 {samples.network.sha256[:8]})")  # fmt: skip
    return {name: distance}, setting


def _inception_distance(layer: str, samples: Evaluator, reference: Reference | None) -> Measured:
    _check_inception(samples)
    return _distance(layer, samples, reference)


def _is(samples: Evaluator, reference: Reference | None) -> Measured:
    _check_inception(samples)
    mean, deviation = inception_score(samples.features(POOL) @ samples.network.head.T)
    return {"IS": mean, "IS_std": deviation}, f"IS: mean ± deviation over {SPLITS} parts of the shuffled images"


def _kid(samples: Evaluator, reference: Reference | None) -> Measured:
    ours, real = _pools(samples, reference, "KID")
    mean, deviation = kernel_distance(ours, real)
    return {"KID": mean, "KID_std": deviation}, (
        f"KID: mean ± deviation over {SUBSETS} random subsets of {subset_size(ours, real)} images, cubic kernel"
    )


def _prc(samples: Evaluator, reference: Reference | None) -> Measured:
    ours, real = _pools(samples, reference, "precision and recall")
    precision, recall = precision_recall(ours, real)
    return {"precision": precision, "recall": recall}, (
        f"precision, recall: with the {NEIGHBOURS} nearest neighbours of {len(ours)} samples and {len(real)} real "
        f"images, in the {ours.shape[1]} features of FID as in OpenAI's evaluator"
    )


def _pools(samples: Evaluator, reference: Reference | None, what: str) -> tuple[Tensor, Tensor]:
    _check_inception(samples)
    real = _given(reference, what)
    if real.features is None:
        raise InputError(f"{real.name} holds statistics alone; take real images for {what}, or OpenAI's file of both")
    return samples.features(POOL), real.features


def _given(reference: Reference | None, what: str) -> Reference:
    if reference is None:
        raise InputError(f"name real images or their statistics for {what} with reference=")
    return reference


def _check_inception(samples: Evaluator) -> None:
    if not samples.network.name.startswith(NAME):
        raise InputError(f"it is defined in the features of {NAME}, not of {samples.network.name}; ask for fd")


def _at_least(count: int, given: int) -> None:
    if given < count:
        raise InputError(f"it takes at least {count} images, not {given}")


class Metric(NamedTuple):
    """One metric in the features of a network."""

    layer: str
    measure: Callable[[Evaluator, Reference | None], Measured]
    needs_reference: bool = True


METRICS = {
    "fid": Metric(POOL, partial(_inception_distance, POOL)),
    "sfid": Metric(SPATIAL, partial(_inception_distance, SPATIAL)),
    "is": Metric(POOL, _is, needs_reference=False),
    "kid": Metric(POOL, _kid),
    "prc": Metric(POOL, _prc),
    "fd": Metric(POOL, partial(_distance, POOL)),
}
