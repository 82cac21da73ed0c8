"""What images are worth: FID and its relatives against real images, CLIP scores, distances to other images.

`Evaluator` gathers features of images block by block; `score` turns them into metrics against a `Reference`. Only
networks that are asked for are imported and loaded; what scripts/evaluate.py does is `evaluate.evaluate`.
"""

from experiments.evaluation.evaluator import Evaluator, Evaluators, images_evaluator
from experiments.evaluation.inception import load_inception
from experiments.evaluation.networks import FeatureNetwork, load_features
from experiments.evaluation.references import Reference, open_reference, save_statistics
from experiments.evaluation.scores import METRICS, Scores, score

__all__ = [
    "Evaluator", "Evaluators", "images_evaluator", "FeatureNetwork", "load_features", "load_inception",
    "Reference", "open_reference", "save_statistics", "METRICS", "Scores", "score",
]  # fmt: skip
