"""What a method reads, held against what the data has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from .data.augment import Augment
from .data.domains import Prepared
from .errors import UserError
from .methods.base import Method
from .parts import word
from .types import IMAGES, TEXTS

log = logging.getLogger(__name__)


def check(stage: str, kind: type[Method], read: Iterable[str], data: Prepared) -> None:
    """Of a class before it is built, which may need a role's size; of what was built, which may read others.

    Args:
        read: the roles that it reads.

    Raises:
        UserError: if the data lacks a role that the method reads.
    """
    fixes = {
        "source": "set data.source",
        "target": "set data.target (with data.labeled_per_class=all none is left unlabelled)",
        "labeled": "set data.labeled_per_class to a number or all, or data.label_fraction",
    }
    for role in read:
        if role not in data.roles:
            raise UserError(
                f"stage {stage}: method {word(kind)} reads role '{role}', which this data lacks: {fixes[role]}"
            )


def warn_of_small(sizes: Mapping[str, int], data: Prepared) -> None:
    """Say so if a role has fewer rows than a batch takes of it."""
    for role, size in sizes.items():
        if (units := data.roles[role].units) < size:
            log.warning(
                "role '%s' has %d rows, fewer than its batch of %d: rows repeat within a batch",
                *(role, units, size),
            )


def views(stage: str, method: Method, augment: Augment, kind: int) -> dict[str, Augment]:
    """As many views of each role as the method reads.

    Args:
        kind: of the samples: `IMAGES`, `TEXTS` or `VECTORS`.

    Raises:
        UserError: if the augmentation draws fewer, if vectors are to be cut, or texts to be blended.
    """
    drawn, images = len(augment.views), kind == IMAGES
    for role in method.two_views:
        if not images:
            log.info("the two views of a %s sample differ by dropout alone: these are no images", role)
        elif drawn < 2:
            raise UserError(
                f"stage {stage}: method {word(type(method))} compares two views of each {role} "
                f"image, and this augmentation draws {drawn}: set augment=weak_strong or augment=two_views"
            )
    for role, mixing in method.mixing.items():
        if kind == TEXTS:
            raise UserError(
                f"stage {stage}: mixup and cutmix blend samples, which texts cannot be; where the encoder is "
                "frozen (tuning=frozen), mixup blends its features"
            )
        if mixing.cutmix and not images:
            raise UserError(
                f"stage {stage}: method.cutmix pastes pieces of images, and the {role} samples are vectors: "
                "tuning.cache_features=false keeps images where the backbone is frozen; mixup blends vectors too"
            )
    return {role: augment.first(1 + (role in method.two_views)) for role in method.roles}
