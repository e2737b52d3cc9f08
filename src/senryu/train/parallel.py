"""Several processes that train one net, as torchrun starts them: each takes its part of every batch, gradients are shared.

    torchrun --nproc-per-node 8 ...     one process a GPU (NCCL), or on CPUs (gloo)

DistributedDataParallel keeps a whole net in every process. FSDP2, which shards it, is not needed for our sizes: with its
gradients and optimiser states the largest shape (61M parameters, float32) takes 0.8 GB, and sharding would only add
traffic. Every process reads the same folder; only rank 0 writes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from senryu.train.device import Device
from senryu.train.net import Net
from senryu.train.objective import Loss, Objective, Part

PATIENCE = timedelta(hours=2)  # how long processes wait for each other: rank 0 may be preparing data


@contextmanager
def joined(device: Device) -> Iterator[tuple[Part, Device]]:
    """This process's part and device: a member of the group where torchrun started it, else all of the work, on `device`."""
    if not dist.is_torchelastic_launched():
        yield Part(), device
        return
    if device.kind == "cuda":
        device = replace(device, name=f"cuda:{dist.get_node_local_rank()}")
        torch.cuda.set_device(device.name)
    dist.init_process_group("nccl" if device.kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Part(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


@contextmanager
def first_alone(part: Part) -> Iterator[None]:
    """What stands inside is done by rank 0 before the others, who then find its files."""
    if part.rank > 0:
        dist.barrier()
    yield
    if part.rank == 0:
        wait(part)


def wait(part: Part) -> None:
    """Until all processes are here."""
    if part.world > 1:
        dist.barrier()


def agreed(seconds: float, part: Part, device: Device) -> float:
    """Rank 0's clock, so that all decide alike."""
    if part.world == 1:
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64, device=device.name)
    dist.broadcast(clock, src=0)
    return float(clock)


class Step(nn.Module):
    """A net under an objective as one module whose forward is the loss: what DistributedDataParallel has to see."""

    def __init__(self, net: Net, objective: Objective) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, batch: list[Tensor]) -> Loss:
        return self.objective.loss(self.net, batch)


def shared(step: Step, part: Part) -> nn.Module:
    """`step`, with gradients averaged over all processes during backward."""
    return step if part.world == 1 else DistributedDataParallel(step)


def weigh(loss: Loss, part: Part) -> tuple[Tensor, Loss]:
    """(what this process has to differentiate, the loss of the whole batch, detached).

    DistributedDataParallel gives the mean over processes; processes with more items must weigh more, so each loss is
    scaled by count * world / count of all: then the mean is that over all items, as one process would have computed it.
    """
    if part.world == 1:
        return loss.total, Loss(loss.total.detach(), loss.count, loss.figures)
    values = [1.0, float(loss.total.detach()), *loss.figures.values()]
    sums = loss.count * torch.tensor(values, dtype=torch.float64, device=loss.total.device)
    dist.all_reduce(sums)
    count = max(int(sums[0]), 1)
    _, total, *figures = (sums / count).tolist()
    whole = Loss(torch.tensor(total), count, dict(zip(loss.figures, figures, strict=True)))
    return loss.total * (loss.count * part.world / count), whole
