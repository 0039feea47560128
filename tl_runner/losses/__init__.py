"""Losses as pure functions: tensors in, a scalar out. Usable without the runner.

Every function computes in float32 at least, also inside an autocast region: kernels, covariances and
log-probabilities lose their meaning in half precision.
"""

from .adversarial import domain_adversarial
from .alignment import coral, joint_mmd, local_mmd, mmd
from .balance import balance_cross_entropy
from .centroids import centroid_distance, class_means
from .confusion import mcc
from .consistency import adversarial_direction, class_balance, distillation, divergence, softmax_mse
from .contrastive import categorical_contrast
from .critic import gradient_penalty
from .discrepancy import classifier_discrepancy
from .entropy import diversity, entropy, information_maximization
from .feature_maps import channel_attention, feature_map_distance
from .margin import margin_disparity
from .moments import cmd
from .neighbours import dispersion, neighbour_agreement
from .norms import hard_norm, stepwise_norm
from .pseudo import (
    balanced_labels,
    balanced_sharpening,
    class_thresholds,
    nearest_rows,
    neighbour_labels,
    pseudo_label,
    weighted_cross_entropy,
)
from .relationship import category_relationship
from .spectral import batch_nuclear_norm, spectral_penalty, spectral_shrinkage
from .starting_point import starting_point
from .symmetric import category_confusion, domain_confusion, merged_entropy, symmetric_domain
from .transport import deepjdot, sliced_wasserstein, transport_plan

__all__ = [
    "adversarial_direction",
    "balance_cross_entropy",
    "balanced_labels",
    "balanced_sharpening",
    "batch_nuclear_norm",
    "categorical_contrast",
    "category_confusion",
    "category_relationship",
    "centroid_distance",
    "channel_attention",
    "class_balance",
    "class_means",
    "class_thresholds",
    "classifier_discrepancy",
    "cmd",
    "coral",
    "deepjdot",
    "dispersion",
    "distillation",
    "divergence",
    "diversity",
    "domain_adversarial",
    "domain_confusion",
    "entropy",
    "feature_map_distance",
    "gradient_penalty",
    "hard_norm",
    "information_maximization",
    "joint_mmd",
    "local_mmd",
    "margin_disparity",
    "mcc",
    "merged_entropy",
    "mmd",
    "nearest_rows",
    "neighbour_agreement",
    "neighbour_labels",
    "pseudo_label",
    "sliced_wasserstein",
    "softmax_mse",
    "spectral_penalty",
    "spectral_shrinkage",
    "starting_point",
    "stepwise_norm",
    "symmetric_domain",
    "transport_plan",
    "weighted_cross_entropy",
]
