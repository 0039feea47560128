"""Data sets that need no folder layout: embedded, generated, or read by torchvision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, nearest, reason
from ..types import Count, NonNegative
from .folders import Folders
from .samples import Samples, from_labels


class EmbeddedDigits:
    """A real domain shift without a file or a download.

    `clean`: half of scikit-learn's handwritten digits, upsampled to 32². `photo`: the other half, blended
    with patches of scikit-learn's two sample photographs as |photo − digit|, the recipe of MNIST-M (Ganin
    et al. 2016). No digit is in both domains. About 900 colour images each, ten classes.

    Args:
        seed: of the patches' positions; the domains are the same for every run unless you change it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def read(self, domain: str) -> Samples:
        """Domain `clean` or `photo`.

        Raises:
            DataError: for another name.
        """
        if domain not in ("clean", "photo"):
            raise DataError(f"data=digits has no domain '{domain}'{nearest(domain, ['clean', 'photo'])}")
        from sklearn.datasets import load_digits, load_sample_images

        digits, labels = load_digits(return_X_y=True)
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(digits))
        half = len(digits) // 2
        rows = order[:half] if domain == "clean" else order[half:]
        small = (digits[rows].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
        images = np.stack(
            [np.asarray(Image.fromarray(d).resize((32, 32), Image.Resampling.BICUBIC)) for d in small]
        )
        images = np.repeat(images[..., None], 3, axis=3)
        if domain == "photo":
            photos = load_sample_images().images
            for i in range(len(images)):
                photo = photos[rng.integers(len(photos))]
                top, left = (rng.integers(0, n - 32) for n in photo.shape[:2])
                patch = photo[top : top + 32, left : left + 32].astype(np.int16)
                images[i] = np.abs(patch - images[i]).astype(np.uint8)
        return from_labels(
            domain, [f"digit_{i:04d}" for i in rows], [str(y) for y in labels[rows]], array=images
        )


class GaussianShift:
    """Two Gaussian classes in the plane; the target is rotated and nearer to the boundary.

    Args:
        source_size, target_size: samples of each domain.
        source_mean: the source's classes are centred at ±(source_mean, source_mean).
        target_mean: the target's at ±(target_mean, target_mean), then rotated.
        angle: of the target's rotation about the origin, in degrees.
        std: standard deviation of each class, in both directions.
        seed: of the draws.
    """

    def __init__(
        self,
        source_size: Count = 1000,
        target_size: Count = 1000,
        source_mean: NonNegative = 2.0,
        target_mean: NonNegative = 1.0,
        angle: float = 45.0,
        std: NonNegative = 1.0,
        seed: int = 0,
    ) -> None:
        self.sizes = {"source": source_size, "target": target_size}
        self.means = {"source": source_mean, "target": target_mean}
        self.angle, self.std, self.seed = angle, std, seed

    def read(self, domain: str) -> Samples:
        """Domain `source` or `target`.

        Raises:
            DataError: for another name.
        """
        if domain not in self.sizes:
            raise DataError(f"data=toy has no domain '{domain}'{nearest(domain, self.sizes)}")
        n, mean = self.sizes[domain], self.means[domain]
        rng = np.random.default_rng([self.seed, domain == "target"])
        labels = np.arange(n) % 2
        x = rng.normal(scale=self.std, size=(n, 2)) + mean * np.where(labels, 1, -1)[:, None]
        if domain == "target":
            a = math.radians(self.angle)
            x = x @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        names = [f"{domain}_{i:06d}" for i in range(n)]
        return from_labels(
            domain, names, [("negative", "positive")[y] for y in labels], array=x.astype(np.float32)
        )


class DigitsFive:
    """MNIST, USPS and SVHN through torchvision; MNIST-M and SYN as folders `<name>/<split>/<class>/*`.

    Args:
        root: holds `MNIST/raw/`, `usps.bz2`, `train_32x32.mat`, `mnist_m/`, `syn/`.
        download: fetch what torchvision can.
    """

    def __init__(self, root: str, download: bool = False) -> None:
        self.root, self.download = Path(root).expanduser(), download

    def read(self, domain: str) -> Samples:
        """One of mnist, usps, svhn, mnist_m, syn, with its own train and test split.

        Raises:
            DataError: for another name, or missing files.
        """
        names = {"mnist": "MNIST", "usps": "USPS", "svhn": "SVHN"}
        if domain in ("mnist_m", "syn"):
            return Folders(str(self.root), "{domain}/{split}/{class}/*").read(domain)
        if domain not in names:
            raise DataError(
                f"data=digit5 has no domain '{domain}'{nearest(domain, [*names, 'mnist_m', 'syn'])}"
            )
        parts: list[tuple[str, Any, list[int]]] = []
        for split in ("train", "test"):
            data = self._open(names[domain], split)
            images = np.asarray(data.data)
            images = images.transpose(0, 2, 3, 1) if domain == "svhn" else images
            labels = data.labels if domain == "svhn" else data.targets
            parts.append((split, images, [int(y) for y in labels]))
        return from_labels(
            domain,
            [f"{split}_{i:06d}" for split, _, labels in parts for i in range(len(labels))],
            [str(y) for _, _, labels in parts for y in labels],
            [split for split, _, labels in parts for _ in labels],
            array=np.concatenate([images for _, images, _ in parts]),
        )

    def _open(self, name: str, split: str) -> Any:
        from torchvision import datasets

        which = {"split": split} if name == "SVHN" else {"train": split == "train"}
        try:
            return getattr(datasets, name)(str(self.root), download=self.download, **which)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{name} ({split}) is not in {self.root.resolve()}: {reason(error)}. "
                "Set data.download=true, data.root, or paths.data / TLRUN_DATA"
            ) from error
