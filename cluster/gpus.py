"""The same function on several GPUs at once through Ray Train, one process a GPU. The only file that knows Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentraft_ray.errors import VerifierUnavailable

__all__ = ["GpuWorkers", "run_on_gpus"]


class GpuWorkers:
    """This process among those of a Ray Train run: `rank` of `world`."""

    def __init__(self) -> None:
        from ray import train  # noqa: PLC0415 - needs the extra ray[train]

        context = train.get_context()
        self.rank, self.world = int(context.get_world_rank()), int(context.get_world_size())

    def prepared(self, model: Any) -> Any:
        """The model under DistributedDataParallel, on this process's GPU."""
        from ray.train.torch import prepare_model  # noqa: PLC0415 - needs the extra ray[train]

        return prepare_model(model)


def run_on_gpus(work: Callable[[GpuWorkers], None], gpus: int) -> None:
    """Run `work` in `gpus` processes with a GPU each, on the Ray that this process is connected to (or starts), and wait for the end.

    Raises VerifierUnavailable where Ray Train is not installed.
    """
    try:
        from ray.train import ScalingConfig  # noqa: PLC0415 - needs the extra ray[train]
        from ray.train.torch import TorchTrainer  # noqa: PLC0415
    except ImportError as missing:
        raise VerifierUnavailable(
            f"training on {gpus} GPUs needs Ray Train ({missing.name} is missing): pip install 'ray[train]'"
        ) from None
    TorchTrainer(lambda: work(GpuWorkers()), scaling_config=ScalingConfig(num_workers=gpus, use_gpu=True)).fit()
