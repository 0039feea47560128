"""The processes that train one model together, and what each computes of a batch.

Every process holds the whole model and gets the whole batch. Backbones, where the time goes, are divided: each
process sends its share of the rows through, and all get the features of all. Whatever follows, losses above all, is
computed from the whole batch by every process alike, so that methods need not know. Inside a backbone a loss's
gradient is counted once per process, elsewhere each process has all of it: averaging over processes is right for both.
With one process nothing of this happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own() -> int:
    """This process's number; 0 is the one that writes files and speaks to the user."""
    return dist.get_rank() if count() > 1 else 0


def share(n: int) -> slice:
    """This process's part of n rows, which `count()` divides."""
    part = n // count()
    return slice(own() * part, (own() + 1) * part)


def joined(part: Tensor) -> Tensor:
    """(n, ...) of each process -> (n · count, ...), the same for all."""
    return _Joined.apply(part) if count() > 1 else part


def _gathered(part: Tensor) -> Tensor:
    whole = part.new_empty(count() * len(part), *part.shape[1:])
    dist.all_gather_into_tensor(whole, part.contiguous())
    return whole


class _Joined(Function):
    """The backward pass needs no exchange: every process has the gradient to all rows."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _gathered(part)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return count() * _Share.apply(grad)  # type: ignore[no-any-return]


class _Share(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return whole[share(len(whole))].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Joined.apply(grad) / count()  # type: ignore[no-any-return]


class _Stacked(Function):
    """(...) of each process -> (count, ...); unlike after `_Joined`, each goes on to rows of its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _gathered(part[None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[own()]


def divided(network: nn.Module, x: Tensor) -> Tensor:
    """`network(x)`, of which each process computes its share of the rows.

    What depends on the whole batch inside is computed from it: batch-norm statistics. Dropout masks are drawn for all
    rows, those of one process, and each process takes its own. Rows that do not divide are computed by every process.

    Args:
        network: rows in, the same rows out.
    """
    if count() == 1 or len(x) % count() or next(network.parameters(), None) is None:
        return network(x)  # type: ignore[no-any-return]
    with _Divided():
        part = network(_Share.apply(x))
    return joined(part)


def whole(inside: Tensor) -> Tensor:
    """All rows of what a module puts out, be it inside a divided network or not."""
    return joined(inside) if _Divided.depth else inside


class _Divided(TorchFunctionMode):
    """While it lasts, a batch is a process's share of one."""

    depth = 0

    def __enter__(self) -> _Divided:
        _Divided.depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        _Divided.depth -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func in _DROPOUTS:
            return _dropout(func, *args, **kwargs)
        if func is Tensor.bernoulli_ and args[0].ndim > 1:  # stochastic depth: one draw per row
            ones = args[0].new_empty(count() * len(args[0]), *args[0].shape[1:])
            drawn = ones.bernoulli_(*args[1:], **kwargs)
            return args[0].copy_(drawn[share(len(drawn))])
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` with the statistics of all processes' rows (torch's SyncBatchNorm knows GPUs alone)."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    variances, means = _Stacked.apply(torch.stack(torch.var_mean(wide, dims, correction=0))).unbind(1)
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            n = count() * x.numel() / x.shape[1]
            # As the kernels do it: not for autograd to see, which may hold them for a pass in eval mode.
            running_mean.data.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.data.lerp_((variance * (n / (n - 1))).to(running_var.dtype), momentum)
    y = (wide - mean.view(shape)) * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    shifted: Tensor = y if bias is None else y + bias.view(shape)
    return shifted.to(x.dtype)


def _dropout(
    func: Callable[..., Tensor], x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training:
        return x
    masks = func(x.new_ones(count() * len(x), *x.shape[1:]), p, True)
    return x * masks[share(len(masks))]


divided_weights = False
"""Whether backbones hold a part of their weights alone; see `sharding`."""


def average(gradients: Iterable[Tensor | None]) -> None:
    """`reduce`, for a method that asks `torch.autograd.grad` for the gradient of parameters.

    Raises:
        RuntimeError: if no process has these.
    """
    if divided_weights:
        raise RuntimeError("gradients of divided weights")
    reduce(gradients)


@torch.no_grad()
def reduce(gradients: Iterable[Tensor | None]) -> None:
    """Make each the mean over processes, in place: after a backward pass, the gradient of the whole batch.

    The optimiser's are averaged before every update; those of divided weights are already.
    """
    if count() == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        if gradient is not None and not isinstance(gradient, DTensor):
            kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    for same in kinds.values():
        flat = torch.cat([g.flatten() for g in same])
        dist.all_reduce(flat)
        parts = torch.split(flat / count(), [g.numel() for g in same])
        torch._foreach_copy_(same, [part.view_as(g) for part, g in zip(parts, same, strict=True)])


def from_first(compute: Callable[[], T]) -> T:
    """What the first process computes, told to all."""
    if count() == 1:
        return compute()
    told = [compute() if own() == 0 else None]
    dist.broadcast_object_list(told)
    return told[0]  # type: ignore[return-value]


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        dist.barrier()
