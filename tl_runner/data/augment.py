"""Augmented views, per sample, straight from the stored bytes.

The parameters of a view (crop box, flip, angle …) are drawn first, one set per sample, from one generator;
applying them is another matter: per image in uint8 on a CPU, where that is several times faster, and per
batch on a GPU. Both give the same picture from the same parameters, up to interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Count, Fraction, NonNegative


@dataclass
class Drawn:
    """Parameters of n views: boxes (n, 4) top, left, height, width in pixels, and (n,) each of the rest."""

    box: Tensor
    flip: Tensor
    angle: Tensor
    shear: Tensor
    color: Tensor
    erase: Tensor

    def rows(self, part: slice) -> Drawn:
        return Drawn(*(getattr(self, f.name)[part] for f in fields(self)))


class View:
    """How one view of an image is drawn.

    Args:
        crop: `center`, `random` (a square of the model's size, anywhere), or `resized` (random area and
            aspect ratio, resized to the model's size).
        scale: area of a `resized` crop as share of the image. ratio: its width / height.
        flip: probability of mirroring left to right.
        rotate, shear: largest angle in degrees, either way.
        brightness, contrast, saturation: largest relative change, either way.
        erase: probability of blanking a rectangle of 2 to 20 % of the area.
    """

    def __init__(
        self,
        crop: Literal["center", "random", "resized"] = "center",
        scale: tuple[Fraction, Fraction] = (0.08, 1.0),
        ratio: tuple[NonNegative, NonNegative] = (0.75, 1.3333),
        flip: Fraction = 0.0,
        rotate: NonNegative = 0.0,
        shear: NonNegative = 0.0,
        brightness: Fraction = 0.0,
        contrast: Fraction = 0.0,
        saturation: Fraction = 0.0,
        erase: Fraction = 0.0,
    ) -> None:
        self.crop, self.scale, self.ratio, self.flip = crop, tuple(scale), tuple(ratio), flip
        self.rotate, self.shear, self.erase = rotate, shear, erase
        self.color = (brightness, contrast, saturation)

    @property
    def fixed(self) -> bool:
        """Whether it gives the same picture every time."""
        return self.crop == "center" and not any(
            (self.flip, self.rotate, self.shear, self.erase, *self.color)
        )

    def draw(self, n: int, height: int, width: int, size: int, generator: torch.Generator) -> Drawn:
        """Parameters for n images of height × width."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        def either_way(limit: float) -> Tensor:
            return (2 * uniform(n) - 1) * limit

        if self.crop == "resized":
            box = self._resized(n, height, width, uniform)
        else:
            h, w = min(size, height), min(size, width)
            top = (
                uniform(n) * (height - h + 1) if self.crop == "random" else torch.full((n,), (height - h) / 2)
            )
            left = (
                uniform(n) * (width - w + 1) if self.crop == "random" else torch.full((n,), (width - w) / 2)
            )
            box = torch.stack([top.floor(), left.floor(), torch.full((n,), h), torch.full((n,), w)], 1)
        flip = uniform(n) < self.flip
        angle, shear = either_way(math.radians(self.rotate)), either_way(math.radians(self.shear))
        color = 1 + torch.stack([either_way(limit) for limit in self.color], 1)
        area, where, at = 0.02 + 0.18 * uniform(n), uniform(n, 2), uniform(n)
        side = area.sqrt()[:, None].expand(n, 2)
        corner = where * (1 - side)
        erase = torch.cat([corner, corner + side], 1) * (at < self.erase)[:, None]
        return Drawn(box.long(), flip, angle, shear, color, (erase * size).round().long())

    def _resized(self, n: int, height: int, width: int, uniform: Callable[..., Tensor]) -> Tensor:
        """Random resized crops as torchvision draws them: the first of ten tries that fits, else the centre."""
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(n, 10))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * uniform(n, 10))
        w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.float().argmax(1, keepdim=True)
        whole = ~fits.any(1)
        h = torch.where(whole, torch.tensor(float(height)), h.gather(1, first)[:, 0])
        w = torch.where(whole, torch.tensor(float(width)), w.gather(1, first)[:, 0])
        where = uniform(n, 2)
        return torch.stack(
            [(where[:, 0] * (height - h + 1)).floor(), (where[:, 1] * (width - w + 1)).floor(), h, w], 1
        )


class Augment:
    """The views that a batch carries.

    Args:
        views: one or more; methods that compare views read the second.
        size: side in pixels of what the model sees; None keeps the stored size.
    """

    def __init__(self, views: Sequence[View], size: Count | None = None) -> None:
        if not views:
            raise ValueError("augment.views: at least one view is needed")
        self.views, self.size = tuple(views), size

    @property
    def fixed(self) -> bool:
        return all(view.fixed for view in self.views)

    def __call__(
        self, rows: Tensor, generator: torch.Generator, of: int | None = None, part: slice = slice(None)
    ) -> tuple[Tensor, ...]:
        """(n, H, W, C) uint8 rows -> views, each (n, C, size, size) uint8. Vectors pass unchanged.

        Args:
            of, part: the rows are that part of a batch of so many, which get the views that they have in it.
        """
        if rows.dtype != torch.uint8:
            return (rows,) * len(self.views)
        _, height, width, _ = rows.shape
        size = self.size or height
        drawn = (view.draw(of or len(rows), height, width, size, generator) for view in self.views)
        return tuple(apply(rows, every.rows(part), size) for every in drawn)

    def first(self, count: int) -> Augment:
        """The first `count` views, repeated if there are fewer."""
        return Augment((self.views * count)[:count], self.size)

    def center(self) -> Augment:
        """What evaluation sees."""
        return Augment([View()], self.size)


def apply(rows: Tensor, drawn: Drawn, size: int) -> Tensor:
    """(n, H, W, C) uint8 -> (n, C, size, size) uint8 with the drawn parameters."""
    images = rows.permute(0, 3, 1, 2)
    turned = bool(drawn.angle.any()) or bool(drawn.shear.any())
    draw = _batched if rows.is_cuda or turned else _each
    return _recolor(draw(images, drawn, size), drawn)


def _each(images: Tensor, drawn: Drawn, size: int) -> Tensor:
    box, flips = drawn.box, drawn.flip.tolist()
    if bool((box == box[0]).all()) and tuple(box[0, 2:].tolist()) == (size, size):
        top, left = box[0, :2].tolist()
        out = images[:, :, top : top + size, left : left + size]
        if not any(flips):
            return out.contiguous()
        return torch.where(drawn.flip[:, None, None, None], out.flip(3), out)
    out = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    for i, (top, left, h, w) in enumerate(box.tolist()):
        crop = images[i : i + 1, :, top : top + h, left : left + w]
        if (h, w) != (size, size):
            crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        out[i] = crop[0].flip(2) if flips[i] else crop[0]
    return out


def _batched(images: Tensor, drawn: Drawn, size: int) -> Tensor:
    n, _, height, width = images.shape
    device = images.device
    top, left, h, w = drawn.box.to(device).float().unbind(1)
    angle, shear = drawn.angle.to(device), drawn.shear.to(device)
    flip = torch.where(drawn.flip.to(device), -1.0, 1.0)
    # Output coordinates in [-1, 1] -> the box in the input's [-1, 1]: rotation and shear inside the box.
    sx, sy = w / width, h / height
    cx, cy = (2 * left + w) / width - 1, (2 * top + h) / height - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([sx * cos * flip, sx * (torch.tan(shear) * cos - sin), cx], 1),
            torch.stack([sy * sin * flip, sy * (torch.tan(shear) * sin + cos), cy], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    out = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out.round().to(torch.uint8)


def _recolor(images: Tensor, drawn: Drawn) -> Tensor:
    if bool((drawn.color != 1).any()):
        brightness, contrast, saturation = drawn.color.to(images.device)[:, :, None, None, None].unbind(1)
        x = images.float() * brightness
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + contrast * (x - mean)
        grey = x.mean(1, keepdim=True)
        images = (grey + saturation * (x - grey)).clamp(0, 255).round().to(torch.uint8)
    if bool(drawn.erase.any()):
        images = images.clone()
        for i, (top, left, bottom, right) in enumerate(drawn.erase.tolist()):
            images[i, :, top:bottom, left:right] = 127
    return images
