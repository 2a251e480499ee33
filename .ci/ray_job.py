"""Submitted with `ray job submit --working-dir .`: the driver and a worker must both find the whole package."""

import sys
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parent))


@ray.remote
def on_worker() -> dict[str, object]:
    sys.path.insert(0, str(Path.cwd() / ".ci"))
    import quickstart

    return quickstart.main()


if __name__ == "__main__":
    import quickstart

    ray.init(address="auto", log_to_driver=False)
    driver, worker = quickstart.main(), ray.get(on_worker.remote(), timeout=120)
    assert driver == worker, (driver, worker)
    print("on a Ray worker:", worker)
