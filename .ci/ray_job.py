"""Submitted with `ray job submit --working-dir .`: the driver, a worker and a cluster's actors must all find the whole package."""

import sys
import tempfile
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parent))


@ray.remote
def on_worker() -> dict[str, object]:
    sys.path.insert(0, str(Path.cwd() / ".ci"))
    import quickstart

    return quickstart.main()


def on_cluster(directory: str) -> list[object]:
    """Pipelines by path and by value for a few tasks on a cluster of this job; their outputs."""
    from agentraft_ray import Pipeline, Step, Task
    from agentraft_ray.cluster import Cluster

    by_value = Pipeline([Step("shout", lambda ctx: ctx.task.goal.upper())])
    with Cluster.auto(directory=directory, workers=1, worker_cpus=0.5) as cluster:
        results = list(cluster.map("tests.ray.pipelines:QUICKSTART", [Task(f"agents {number}") for number in range(5)]))
        with Cluster.auto() as joined:  # the one that runs by now
            results += joined.map(by_value, [Task("joined")])
    assert all(result.success for result in results), [result.error for result in results]
    return sorted({result.output for result in results})


if __name__ == "__main__":
    import quickstart

    ray.init(address="auto", log_to_driver=False)
    driver, worker = quickstart.main(), ray.get(on_worker.remote(), timeout=120)
    assert driver == worker, (driver, worker)
    print("on a Ray worker:", worker)
    with tempfile.TemporaryDirectory(prefix="job", dir="/tmp") as directory:  # short: the store's unix socket lives in it
        print("on a cluster of this job:", on_cluster(directory))
