"""Views: drawn per sample, the same picture on either path."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from tl_runner.data.augment import Augment, Drawn, View, _batched, _each, apply

CONF = Path(__file__).parents[1] / "conf" / "augment"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int = 6, side: int = 24, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator(9))


def smooth(n: int = 6, side: int = 64) -> Tensor:
    """(n, side, side, 3), every image another pattern without symmetry, at most a few grey levels per pixel."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    images = []
    for i in range(n):
        waves = [
            127 + 60 * torch.sin(2 * x + i + c) + 60 * torch.cos(3 * y * (1 + 0.2 * c) + x) for c in range(3)
        ]
        images.append(torch.stack(waves, 2))
    return torch.stack(images).round().to(torch.uint8)


def plain(n: int, box: tuple[int, int, int, int], **changed: Tensor) -> Drawn:
    values = {
        "flip": torch.zeros(n, dtype=torch.bool),
        "angle": torch.zeros(n),
        "shear": torch.zeros(n),
        "color": torch.ones(n, 3),
        "erase": torch.zeros(n, 4, dtype=torch.long),
    }
    return Drawn(torch.tensor([box] * n), **(values | changed))


def far(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).abs()


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_rows_of_one_image_get_different_crops(crop: Any) -> None:
    rows = noise(1).expand(8, -1, -1, -1)
    (view,) = Augment([View(crop=crop)], size=16)(rows, generator())
    distinct = {tuple(image.flatten().tolist()) for image in view}
    assert len(distinct) >= 6


@pytest.mark.parametrize(
    "options",
    [
        {"flip": 0.5},
        {"rotate": 20.0},
        {"shear": 20.0},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.5},
        {"erase": 1.0},
    ],
    ids=lambda o: next(iter(o)),
)
def test_each_option_is_drawn_per_sample(options: dict[str, float]) -> None:
    rows = smooth(1, 24).expand(12, -1, -1, -1)
    (changed,) = Augment([View(**options)])(rows, generator())
    assert len({tuple(image.flatten().tolist()) for image in changed}) >= (2 if "flip" in options else 8)
    assert not View(**options).fixed


def test_two_views_of_one_image_differ() -> None:
    first, second = Augment([View("random"), View("random")], size=12)(noise(), generator())
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("side", "size"), [(24, 16), (25, 16), (24, 24), (8, 8)])
def test_center_is_a_slice(side: int, size: int) -> None:
    rows = noise(side=side)
    augment = Augment([View("resized", flip=0.5)], size).center()
    (view,) = augment(rows, generator())
    start = (side - size) // 2
    expected = rows[:, start : start + size, start : start + size].permute(0, 3, 1, 2)
    assert augment.fixed
    assert torch.equal(view, expected)


def test_a_size_of_none_keeps_the_stored_size() -> None:
    rows = noise()
    (view,) = Augment([View()])(rows, generator())
    assert torch.equal(view, rows.permute(0, 3, 1, 2))


def test_images_smaller_than_the_model_sees_are_enlarged() -> None:
    (view,) = Augment([View()], size=32)(smooth(side=16), generator())
    assert view.shape == (6, 3, 32, 32)
    assert far(view[:, :, ::2, ::2], smooth(side=16).permute(0, 3, 1, 2)).mean() < 4


STRONG = View("resized", (0.3, 1.0), flip=0.5, rotate=15, shear=10, brightness=0.4, contrast=0.4, erase=0.5)


@pytest.mark.parametrize("view", [View("random", flip=0.5), View("resized", flip=0.5), STRONG])
def test_the_generator_decides(view: View) -> None:
    augment = Augment([view, view], size=16)
    first, again, other = (augment(noise(), generator(seed)) for seed in (1, 1, 2))
    torch.manual_seed(0)  # the global generator has no part in it
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_the_global_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    Augment([STRONG], 16)(noise(), generator())
    assert torch.equal(torch.get_rng_state(), before)


# Two paths


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_paths_agree_exactly_where_nothing_is_resized(crop: Any, channels: int) -> None:
    rows = noise(channels=channels)
    drawn = View(crop, flip=0.5).draw(6, 24, 24, 16, generator())
    assert 0 < int(drawn.flip.sum()) < 6
    images = rows.permute(0, 3, 1, 2)
    each = _each(images, drawn, 16)
    assert each.dtype == torch.uint8
    assert far(_batched(images, drawn, 16), each).max() <= 1
    for i, (top, left, h, w) in enumerate(drawn.box.tolist()):
        expected = images[i, :, top : top + h, left : left + w]
        assert torch.equal(each[i], expected.flip(2) if drawn.flip[i] else expected)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_paths_agree_closely_where_crops_are_resized(size: int) -> None:
    rows = smooth(12)
    drawn = View("resized", (0.3, 1.0), flip=0.5).draw(12, 64, 64, size, generator(4))
    images = rows.permute(0, 3, 1, 2)
    each, batched = _each(images, drawn, size), _batched(images, drawn, size)
    assert each.shape == batched.shape == (12, 3, size, size)
    # One path antialiases, and sees nothing beyond the crop's edge.
    assert far(each, batched).mean() < 0.5
    assert far(each, batched).max() <= 5
    wrong = _batched(images, View("resized", (0.3, 1.0), flip=0.5).draw(12, 64, 64, size, generator(5)), size)
    assert far(each, wrong).mean() > 3


def test_the_cpu_path_resizes_as_a_bilinear_antialiased_filter() -> None:
    rows = noise(2, 48)
    drawn = plain(2, (4, 6, 40, 36))
    crop = rows.permute(0, 3, 1, 2)[:, :, 4:44, 6:42].float()
    expected = torch.nn.functional.interpolate(crop, (20, 20), mode="bilinear", antialias=True)
    assert far(apply(rows, drawn, 20), expected).max() <= 1.5


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    rows = smooth(1)
    images = rows.permute(0, 3, 1, 2)
    turned = _batched(images, plain(1, (0, 0, 64, 64), angle=torch.tensor([math.pi / 2])), 64)
    distances = {k: float(far(turned, images.rot90(k, (2, 3))).mean()) for k in range(4)}
    assert min(distances, key=lambda k: distances[k]) in (1, 3)
    assert min(distances.values()) < 1


def test_a_flip_with_a_turn_is_the_mirror_image_of_the_turn() -> None:
    rows = smooth()
    angle, shear = torch.linspace(-0.4, 0.4, 6), torch.linspace(0.3, -0.3, 6)
    flip = torch.ones(6, dtype=torch.bool)
    turned = apply(rows, plain(6, (8, 8, 48, 40), angle=angle, shear=shear), 32)
    both = apply(rows, plain(6, (8, 8, 48, 40), angle=angle, shear=shear, flip=flip), 32)
    assert far(both, turned.flip(3)).max() <= 1


def test_turns_keep_the_middle_in_place() -> None:
    rows = smooth()
    drawn = plain(6, (11, 11, 41, 41), angle=torch.full((6,), 0.5), shear=torch.full((6,), 0.2))
    turned = apply(rows, drawn, 41)
    assert far(turned[:, :, 20, 20], rows[:, 31, 31]).max() <= 1


# What is drawn


def test_random_crops_reach_every_position_and_no_further() -> None:
    box = View("random").draw(4000, 20, 18, 16, generator()).box
    assert set(box[:, 0].tolist()) == set(range(5))
    assert set(box[:, 1].tolist()) == set(range(3))
    assert (box[:, 2:] == 16).all()
    counts = torch.bincount(box[:, 0]).float()
    assert (counts / 800 - 1).abs().max() < 0.15


def test_resized_crops_keep_their_promises() -> None:
    box = View("resized", scale=(0.2, 0.6), ratio=(0.5, 2.0)).draw(4000, 64, 64, 16, generator()).box
    top, left, h, w = box.float().unbind(1)
    assert (box[:, :2] >= 0).all()
    assert (top + h <= 64).all()
    assert (left + w <= 64).all()
    area, ratio = h * w / 64**2, w / h
    assert area.min() > 0.18
    assert area.max() < 0.63
    assert ratio.min() > 0.47
    assert ratio.max() < 2.1
    assert area.max() - area.min() > 0.35
    assert abs(float(torch.log(ratio).mean())) < 0.05


def test_a_resized_crop_that_fits_nowhere_is_the_whole_image() -> None:
    box = View("resized", scale=(1.0, 1.0), ratio=(3.0, 3.0)).draw(5, 20, 20, 16, generator()).box
    assert box.tolist() == [[0, 0, 20, 20]] * 5


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_the_share_of_flips(flip: float) -> None:
    drawn = View(flip=flip).draw(2000, 8, 8, 8, generator())
    assert float(drawn.flip.float().mean()) == pytest.approx(flip, abs=0.04)


@pytest.mark.parametrize("name", ["rotate", "shear"])
def test_angles_go_either_way_up_to_the_limit(name: str) -> None:
    drawn = View(**{name: 30.0}).draw(2000, 8, 8, 8, generator())
    angle = torch.rad2deg(drawn.angle if name == "rotate" else drawn.shear)
    assert angle.min() == pytest.approx(-30, abs=0.5)
    assert angle.max() == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("option", [0, 1, 2], ids=["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_colours_change_as_by_hand(option: int, factor: float) -> None:
    rows = smooth(3)
    color = torch.ones(3, 3)
    color[:, option] = factor
    x = rows.permute(0, 3, 1, 2).double()
    centre: Callable[[], Tensor | int] = (
        lambda: 0,
        lambda: x.mean((1, 2, 3), keepdim=True),
        lambda: x.mean(1, keepdim=True),
    )[option]
    expected = (centre() + factor * (x - centre())).clamp(0, 255)
    found = apply(rows, plain(3, (0, 0, 64, 64), color=color), 64)
    assert found.dtype == torch.uint8
    assert far(found, expected).max() <= 0.51


@pytest.mark.parametrize("erase", [0.0, 0.5, 1.0])
def test_erased_areas(erase: float) -> None:
    n, size = 400, 50
    rows = torch.zeros(n, size, size, 1, dtype=torch.uint8)
    (view,) = Augment([View(erase=erase)])(rows, generator())
    share = (view == 127).float().mean((1, 2, 3))
    hit = share > 0
    assert float(hit.float().mean()) == pytest.approx(erase, abs=0.08)
    assert (view[~hit] == 0).all()
    if hit.any():
        assert share[hit].min() > 0.01
        assert share[hit].max() < 0.23
    assert not rows.any()  # the stored pixels are not touched


@pytest.mark.parametrize("view", [View(), View("random", flip=1.0, brightness=0.3, erase=1.0), STRONG])
def test_the_stored_rows_are_never_written_to(view: View) -> None:
    rows = noise()
    before = rows.clone()
    for out in Augment([view], 24)(rows, generator()):
        out.zero_()
    assert torch.equal(rows, before)


# What passes


@pytest.mark.parametrize("views", [1, 2])
def test_vectors_pass_unchanged(views: int) -> None:
    rows = torch.randn(5, 7)
    out = Augment([STRONG] * views, 16)(rows, generator())
    assert len(out) == views
    assert all(torch.equal(view, rows) for view in out)


@pytest.mark.parametrize(
    ("view", "fixed"),
    [
        (View(), True),
        (View("random"), False),
        (View("resized"), False),
        (View(flip=0.5), False),
        (STRONG, False),
    ],
)
def test_fixed(view: View, fixed: bool) -> None:
    assert view.fixed is fixed
    assert Augment([View(), view]).fixed is fixed


def test_no_view_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        Augment([])


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shipped_config_can_be_drawn(path: Path, channels: int) -> None:
    config = OmegaConf.create({"augment": OmegaConf.load(path), "model": {"size": 20}, "data": {"flip": 0.5}})
    augment = instantiate(config.augment)
    assert isinstance(augment, Augment)
    views = augment(noise(channels=channels), generator())
    assert len(views) == len(config.augment.views)
    for view in views:
        assert view.shape == (6, channels, 20, 20)
        assert view.dtype == torch.uint8
        assert view.float().std() > 5


def test_the_shipped_configs_are_found() -> None:
    assert len(list(CONF.glob("*.yaml"))) >= 5
