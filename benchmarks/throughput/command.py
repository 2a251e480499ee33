"""`python -m benchmarks throughput`: ours and the bare loop by turns in one Ray session, on one server; a table and JSON."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from agentraft_ray.checkpoint.embedded import EmbeddedServer
from benchmarks.bare_loop.loop import LoopSample, bare_loop
from benchmarks.machine import Machine, describe_machine
from benchmarks.throughput.load import LoadSample, our_load
from benchmarks.throughput.scale import ScaleSample, measure_scale

__all__ = ["main"]

_RUNS = (1, 64, 256, 1_000, 4_000)
_SHARDS = (1, 2, 4)
_SHARDS_RUNS = 1_000
_SCALE = (1_000, 10_000, 100_000)
_AIM_RUNS, _AIM_STEPS_PER_S, _AIM_SHARE, _AIM_LONE_MS = 1_000, 20_000.0, 0.35, 4.0


class Measurement(msgspec.Struct, frozen=True):
    """Everything that one call of the program found; the JSON that it writes."""

    machine: Machine
    load_after: float
    steps_per_run: int
    ours: dict[int, tuple[LoadSample, ...]]  # by runs at a time
    bare: dict[int, tuple[LoopSample, ...]]
    by_shards: dict[int, tuple[LoadSample, ...]]
    scale: tuple[ScaleSample, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when it could measure."""
    options = _parser().parse_args(arguments)
    base = Path(options.directory)
    base.mkdir(parents=True, exist_ok=True)
    repetitions, seconds = (1, 0.5) if options.quick else (options.repetitions, options.seconds)
    runs = options.runs_at_a_time or (_RUNS[:4] if options.quick else _RUNS)
    shards = () if options.quick else tuple(options.shards)
    scale = (1_000,) if options.quick else tuple(options.scale)
    with tempfile.TemporaryDirectory(prefix="throughput-", dir=base) as work:
        machine = describe_machine(Path(work))
        ours, bare = _side_by_side(Path(work) / "side", runs, options.steps, repetitions, seconds)
        by_shards = {count: _at_shards(Path(work) / f"shards{count}", count, options.steps, repetitions, seconds) for count in shards}
        samples = measure_scale(Path(work) / "scale", scale, options.steps, _say)
    measured = Measurement(machine, os.getloadavg()[0], options.steps, ours, bare, by_shards, tuple(samples))
    print("\n".join(lines_of(measured)))
    text = msgspec.json.encode(measured)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(text, indent=2) + b"\n")
        print(f"figures: {options.json}")
    else:
        print(text.decode())
    return 0


def _side_by_side(
    directory: Path, runs: Iterable[int], steps: int, repetitions: int, seconds: float
) -> tuple[dict[int, tuple[LoadSample, ...]], dict[int, tuple[LoopSample, ...]]]:
    """Ours, then the bare loop, over and over, so that what else the machine does falls on both."""
    ours: dict[int, tuple[LoadSample, ...]] = {}
    bare: dict[int, tuple[LoopSample, ...]] = {}
    with our_load(directory) as load:
        socket = unquote(urlsplit(EmbeddedServer(directory).url).path)
        with bare_loop(socket) as loop:
            for at_a_time in runs:
                _say(f"{at_a_time:,} runs at a time, beside the bare loop")
                pairs = [
                    (load.repetition(at_a_time, steps, seconds=seconds), loop.repetition(at_a_time, steps, seconds=seconds))
                    for _ in range(repetitions)
                ]
                ours[at_a_time], bare[at_a_time] = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    return ours, bare


def _at_shards(directory: Path, shards: int, steps: int, repetitions: int, seconds: float) -> tuple[LoadSample, ...]:
    _say(f"{shards} coordinator shards, {_SHARDS_RUNS:,} runs at a time")
    with our_load(directory, shards=shards) as load:
        return tuple(load.repetition(_SHARDS_RUNS, steps, seconds=seconds) for _ in range(repetitions))


def lines_of(measured: Measurement) -> Iterator[str]:
    """The tables for people."""
    machine = measured.machine
    yield f"{machine.cores} cores ({machine.cpu}), load {machine.load:.1f} before the start and {measured.load_after:.1f} at the end"
    yield f"{machine.python}; {machine.disk} with {machine.fsync_us:,.0f} us per small write and fdatasync; appendfsync always"
    yield "\nVerified, fenced, fsync-durable steps on a local cluster; one coordinator, two workers"
    yield f"runs of {measured.steps_per_run} steps; messages, trips to the store and CPU are per step"
    head = f"{'runs':>6} {'steps/s':>9} {'spread':>7} {'bare loop':>10} {'share':>6} {'p50':>9} {'p99':>9}"
    yield f"{head} {'messages':>10} {'trips':>7} {'CPU':>7}"
    for runs, samples in measured.ours.items():
        rate, bare = _middle(samples, _rate), _middle(measured.bare[runs], _rate)
        rates = [sample.steps_per_s for sample in samples]
        p50, p99 = _middle(samples, lambda one: one.p50_ms), _middle(samples, lambda one: one.p99_ms)
        messages = _middle(samples, lambda one: one.worker_messages + one.store_messages)
        trips = _middle(samples, lambda one: one.store_round_trips)
        cpu = _middle(samples, lambda one: sum(one.cpu_us.values()))
        spread = (max(rates) - min(rates)) / rate
        yield (
            f"{runs:>6,} {rate:>9,.0f} {spread:>7.0%} {bare:>10,.0f} {rate / bare:>6.2f} {p50:>6.2f} ms {p99:>6.1f} ms"
            f" {messages:>10.3f} {trips:>7.3f} {cpu:>4.0f} us"
        )
    yield from _cpu_lines(measured)
    yield from _shard_lines(measured)
    yield from _scale_lines(measured)
    yield from _aim_lines(measured)


def _cpu_lines(measured: Measurement) -> Iterator[str]:
    roles = list(next(iter(measured.ours.values()))[0].cpu_us)
    yield f"\nCPU us per step  {' '.join(f'{role:>12}' for role in roles)}   the bare loop: together"
    for runs, samples in measured.ours.items():
        used = [_middle(samples, lambda one, role=role: one.cpu_us[role]) for role in roles]
        bare = _middle(measured.bare[runs], lambda one: sum(one.cpu_us.values()))
        yield f"{runs:>15,}  {' '.join(f'{one:>12.1f}' for one in used)} {bare:>25.1f}"


def _shard_lines(measured: Measurement) -> Iterator[str]:
    if measured.by_shards:
        yield f"\nCoordinator shards, at {_SHARDS_RUNS:,} runs at a time (all on the same cores)"
    for shards, samples in measured.by_shards.items():
        cpu = _middle(samples, lambda one: sum(one.cpu_us.values()))
        yield f"{shards:>6} {_middle(samples, _rate):>9,.0f} steps/s {cpu:>6.0f} us CPU per step"


def _scale_lines(measured: Measurement) -> Iterator[str]:
    if measured.scale:
        yield "\nLive runs in one coordinator, all of which wait for a person before their last step"
    for sample in measured.scale:
        memory = f"{sample.bytes_per_run / 1024:>6.1f} KiB of the coordinator per live run"
        yield f"{sample.runs:>8,} runs: {memory}, {sample.steps_per_s:>7,.0f} steps/s until all wait"


def _aim_lines(measured: Measurement) -> Iterator[str]:
    yield ""
    if _AIM_RUNS in measured.ours:
        rate, bare = _middle(measured.ours[_AIM_RUNS], _rate), _middle(measured.bare[_AIM_RUNS], _rate)
        wanted = f"{_AIM_STEPS_PER_S:,.0f} steps/s at {_AIM_RUNS:,} runs at a time on two cores"
        yield f"aim: {wanted}: {_met(rate >= _AIM_STEPS_PER_S)} ({rate:,.0f})"
        yield f"aim: {_AIM_SHARE} of the bare loop there: {_met(rate / bare >= _AIM_SHARE)} ({rate / bare:.2f})"
    if 1 in measured.ours:
        lone = _middle(measured.ours[1], lambda one: one.p50_ms)
        yield f"aim: p50 of a lone step under {_AIM_LONE_MS:.0f} ms: {_met(lone < _AIM_LONE_MS)} ({lone:.2f} ms)"


def _met(is_met: bool) -> str:
    return "MET" if is_met else "NOT MET"


def _rate(sample: LoadSample | LoopSample) -> float:
    return sample.steps_per_s


def _middle(samples: Sequence[LoadSample] | Sequence[LoopSample], figure: Callable[..., float]) -> float:
    return statistics.median(figure(sample) for sample in samples)


def _say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks throughput",
        description="Steps per second, latency, messages, store round trips and CPU per step of the actor runtime on a local Ray "
        "cluster with a durable store, beside a loop without any feature in the same session; in about five minutes. Best on a "
        "machine that does nothing else.",
    )
    parser.add_argument("--quick", action="store_true", help="one short repetition, up to 1,000 runs at a time, one shard")
    parser.add_argument("--runs-at-a-time", nargs="+", type=int, metavar="N", help=f"default: {' '.join(map(str, _RUNS))}")
    parser.add_argument("--shards", nargs="*", type=int, default=_SHARDS, metavar="N", help="numbers of coordinators to compare")
    parser.add_argument("--scale", nargs="*", type=int, default=_SCALE, metavar="N", help="numbers of live runs to hold")
    parser.add_argument("--steps", type=int, default=10, help="of a run (default 10)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a repetition lasts at least (default 2)")
    parser.add_argument("--directory", default=".agentraft", help="whose disk the server writes to (default: .agentraft here)")
    parser.add_argument("--json", metavar="FILE", help="write the samples there instead of printing them on the last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
