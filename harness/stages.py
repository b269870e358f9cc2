"""The contest round: pool, selection, reading, training, evaluation, entry.

Each stage writes a record last and does nothing where a record of the same inputs is already there, so running
the same command again goes on where it was stopped. A run folder is locked while a command works in it.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness import byod, charts, files, holdout
from harness import executor as executors
from harness.board import print_tables, shown
from harness.compose import compose
from harness.config import RunConfig
from harness.entry import write_entry
from harness.errors import ArtifactError, ConfigError, StageError, from_os_error
from harness.eval import suite as suites
from harness.plan import Chosen, Plan, too_small
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool, load_table
from harness.pool.union import unite
from harness.pool.view import Pool
from harness.progress import say
from harness.records import Record, digest_of, read_record
from harness.reshard import ReshardedPool, reshard
from harness.selection import plugins
from harness.selection import run as selecting
from harness.settled import settle
from harness.subset import Subset
from harness.tiny import cache as tiny
from harness.tiny.pool import SAMPLES

MASK_ABOVE = 0.1
"""Kept fraction from which the pool's own tars are read through a mask: below it, reading skips so much that
copying the chosen pairs once is cheaper than seeking in every pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What one contest round gives back."""

    run_dir: Path
    entry: Record
    aggregates: dict[str, float | None]
    """imagenet, shifts, vtab, retrieval, average: fractions in [0, 1], None where a task is missing."""

    def __repr__(self) -> str:
        # The entry is thousands of lines, which a notebook would show.
        told = self.entry.payload
        method, average = told["method"], self.aggregates.get("average")
        facts = {
            "method": None if method is None else method["name"], "scale": told["scale"],
            "seed": ", ".join(str(one["seed"]) for one in told["runs"]),
            "average": None if average is None else round(average, 4), "run_dir": str(self.run_dir),
        }  # fmt: skip
        return f"RunResult({', '.join(f'{name}={value}' for name, value in facts.items())})"


@dataclass
class _Clock:
    """What each stage did and how long it took, for the table at the end."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        started = time.monotonic()
        done: list[str] = []
        yield done.append
        self.rows.append((name, done[0] if done else "", time.monotonic() - started))
        say(f"[bold]{name:>8}[/]  {self.rows[-1][1]}  ({self.rows[-1][2]:.1f} s)")


def run(*overrides: str) -> RunResult:
    """One contest round from hydra overrides (see harness.run)."""
    result = run_config(compose(overrides))
    if result is None:
        raise ConfigError("setting dry_run: `run` gives back a result; use `python -m harness.run … dry_run=true`")
    return result


def run_config(config: RunConfig) -> RunResult | None:
    """One contest round; None after a dry run. Raises the HarnessError of the stage that cannot go on."""
    config, method = bind(config)
    suite = suites.load(config.eval.suite or config.scale.suite)
    keys = suite.select(config.eval.tasks)
    executor = executors.get(config.executor)
    _check_machine(config)
    if config.dry_run:
        for line in plan(config, keys, executor).lines():
            sys.stdout.write(line + "\n")
        return None

    tiny.find_tasks(suite.name, config.eval.data_dir, make=False)  # refused now rather than after training
    run_dir = Path(config.run_dir or default_run_dir(config))
    clock = _Clock()
    with files.lock(run_dir):
        files.remove_leftovers(run_dir)
        with clock.stage("pool") as done:
            own = open_own(config, executor)
            sealed = united(config, own, run_dir, executor)
            done(f"{len(sealed.uids):,} pairs sealed, digest {sealed.digest[:8]}")
        settle(run_dir, config, sealed, method)
        with clock.stage("select") as done:
            subset = choose(config, run_dir, own, sealed, method, executor)
            done(f"{method.name if method else config.subset or 'byod alone'}: {len(subset):,} uids")
        if reason := too_small(len(subset), config.scale):
            say(f"   entry  {reason}")
        with clock.stage("shards") as done:
            resharded = shards(config, run_dir, sealed, subset, executor)
            kept = subset.distinct / max(len(sealed.uids), 1)
            done(f"{'resharded' if resharded else 'masked reading'} ({kept:.0%} kept)")
        with clock.stage("train") as done:
            trained = train(config, run_dir, sealed, subset, resharded)
            done(f"{config.scale.name}, {config.scale.samples_seen:,} samples, {config.scale.steps:,} steps")
        with clock.stage("eval") as done:
            evaluation = evaluate_run(config, run_dir, sealed, trained)
            average = shown(evaluation.payload["aggregates"]["average"])
            done(f"{len(evaluation.payload['scores'])} tasks, average {average}")
        with clock.stage("entry") as done:
            entry = write_entry([run_dir], run_dir / "entry", pool=sealed.seal_dir)
            done(str(run_dir / "entry" / "entry.json"))
        draw(run_dir, config, suite, evaluation)
    print_tables(clock.rows, scale=config.scale.name, entry=entry, run_dir=run_dir)
    return RunResult(run_dir=run_dir, entry=entry, aggregates=evaluation.payload["aggregates"])


def bind(config: RunConfig) -> tuple[RunConfig, plugins.Method | None]:
    """`config` with the method's parameters bound to its signature, defaults filled in; the method itself.

    A ready uid file is looked at instead, so that a bad one is refused before any work.
    """
    if config.subset is not None:
        Subset.load(config.subset)
    if not config.uses_method:
        return config, None
    settings, method = plugins.bound(config.method)
    return config.model_copy(update={"method": settings}), method


def _check_machine(config: RunConfig) -> None:
    """ConfigError for a device that is not there, ArtifactError for a file in the place of a folder.

    torch, which takes seconds, is asked about devices that are named only.
    """
    for place in (config.run_dir, config.train.cache_dir):
        if place is not None and os.path.isfile(place):
            raise from_os_error(NotADirectoryError(), place)
    if config.train.device not in ("auto", "cpu"):
        from harness.device import pick

        pick(config.train.device, setting="train.device")
    if config.eval.device not in ("auto", "cpu", "all") and config.executor == "local":
        from harness.eval.encoder import devices

        devices(config.eval.device)


def default_run_dir(config: RunConfig) -> str:
    """`runs/<scale>-<method>[-<digest>]-seed<seed>`; the digest is of what differs from the defaults."""
    if config.subset is not None:
        name = Path(config.subset).stem
    elif not config.uses_method:
        name = "byod"
    else:
        name = config.method.name if config.method.target is None else config.method.target.split(":")[0].split(".")[-1]
    plain = compose([f"scale={config.scale.name}"]).identity
    changed = {key: value for key, value in config.identity.items() if key != "seed" and value != plain.get(key)}
    method = changed.get("method")
    if method is not None and config.method.target is None:
        default, _ = bind(compose([f"method={config.method.name}"]))
        if default.method == config.method:
            del changed["method"]
    if config.pool.path is not None:
        changed["pool"] = str(Path(config.pool.path).absolute())
    if config.subset is not None:
        changed["subset"] = str(Path(config.subset).absolute())
    if config.byod:
        changed["byod"] = [str(Path(folder.path).absolute()) for folder in config.byod]
    mark = f"-{digest_of(changed)[:8]}" if changed else ""
    return f"runs/{config.scale.name}-{name}{mark}-seed{config.seed}"


def open_own(config: RunConfig, executor: executors.Executor) -> SealedPool | None:
    """The sealed pool that is chosen from; None where a byod run leaves it out."""
    return open_sealed(config, executor) if config.pool.weight else None


def united(config: RunConfig, own: SealedPool | None, run_dir: Path, executor: executors.Executor) -> SealedPool:
    """What is trained on: the pool itself, or its union with the byod folders."""
    if own is not None and not config.byod:
        return own
    return byod.gather(config, own, run_dir, executor)


def open_sealed(config: RunConfig, executor: executors.Executor) -> SealedPool:
    """The sealed pool of `config`; sealed now if it is not yet. Scale tiny has a generated pool of its own."""
    path = tiny.find_pool(config.scale.name, config.pool.path)
    return seal(path, seal_dir=config.pool.seal_dir, executor=executor)


def choose(
    config: RunConfig,
    run_dir: Path,
    own: SealedPool | None,
    sealed: SealedPool,
    method: plugins.Method | None,
    executor: executors.Executor,
) -> Subset:
    """The subset that is trained on: what is chosen from the pool, mixed with the byod folders if there are any."""
    if own is not None and not config.byod:
        return select(config, run_dir, own, method, executor)
    chosen = select(config, run_dir / byod.SELECTION, own, method, executor) if own is not None else None
    return byod.mix(config, chosen, sealed, run_dir)


def select(
    config: RunConfig, run_dir: Path, sealed: SealedPool, method: plugins.Method | None, executor: executors.Executor
) -> Subset:
    """The subset of the run, chosen by its method or taken from its uid file; uids.npy and subset.json are written."""
    pool = Pool.open(sealed.path, sealed=sealed, holdout=config.pool.holdout, executor=executor)
    if method is None:
        return selecting.adopt(str(config.subset), pool=pool, out=run_dir, intersect=config.intersect)
    return selecting.select(method, config.method, pool=pool, scale=config.scale, out=run_dir, executor=executor)


def shards(
    config: RunConfig, run_dir: Path, sealed: SealedPool, subset: Subset, executor: executors.Executor
) -> ReshardedPool | None:
    """Resharded tars of the subset, or None where the pool's tars are read through a mask."""
    if not wants_reshard(config, subset.distinct, len(sealed.uids)):
        return None
    return reshard(sealed, subset, out=run_dir / "shards", executor=executor)


def wants_reshard(config: RunConfig, kept: int, of: int) -> bool:
    """True if the subset is copied before training; `train.reading=auto` decides by the kept fraction."""
    if config.train.reading == "auto":
        return kept < MASK_ABOVE * of
    return config.train.reading == "reshard"


def train(
    config: RunConfig, run_dir: Path, sealed: SealedPool, subset: Subset, resharded: ReshardedPool | None
) -> Record:
    """The training record of the run; trained now if it is not yet."""
    from harness.train.run import train as train_model

    return train_model(
        config,
        sealed=sealed,
        subset=subset,
        resharded=resharded,
        out=run_dir / "train",
    )


def evaluate_run(config: RunConfig, run_dir: Path, sealed: SealedPool, trained: Record) -> Record:
    """The evaluation record of the run's final checkpoint; tasks whose results are there are not done again."""
    from harness.eval.run import evaluate as evaluate_suite

    settings = config.eval
    score = partial(
        evaluate_suite,
        model=config.scale.model,
        checkpoint=run_dir / "train" / "checkpoint.safetensors",
        device=settings.device,
        workers=settings.workers,
        batch_size=settings.batch_size,
        precision=settings.precision,
        executor=executors.ray_for_models(settings.device) if config.executor == "ray" else None,
    )
    suite = suites.load(settings.suite or config.scale.suite)
    data_dir = tiny.find_tasks(suite.name, settings.data_dir)
    record = score(suite=suite, data_dir=data_dir, out=run_dir / "eval", tasks=settings.tasks)
    if config.pool.holdout:
        folder = run_dir / "holdout"
        holdout.write(sealed, config.pool.holdout, folder)
        score(suite=holdout.suite(config.pool.holdout), data_dir=folder, out=folder / "eval")
        metrics = read_record(folder / "eval" / f"{holdout.KEY}.json", "task").payload["metrics"]
        say("holdout   " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return record


def evaluate(
    *, model: str, checkpoint: str, data_dir: str | None, suite: str, out: str, tasks: list[str] | None
) -> dict[str, Any]:
    """Payload of the evaluation record of any checkpoint on a suite (see harness.evaluate)."""
    from harness.eval.run import evaluate as evaluate_suite

    chosen, folder = suites.load(suite), tiny.find_tasks(suite, data_dir)
    record = evaluate_suite(
        model=model, checkpoint=checkpoint, suite=chosen, data_dir=folder, out=Path(out), tasks=tasks
    )
    return record.payload


def plan(config: RunConfig, keys: list[suites.Task], executor: executors.Executor) -> Plan:
    """What `run_config` would do. Selects into a temporary folder and writes nothing else."""
    config, method = bind(config)
    pools = _sealed_before(config)
    pool_size, chosen, no_tasks = SAMPLES, None, ""
    if pools is not None:
        with tempfile.TemporaryDirectory() as name:
            here, own = Path(name), pools[0] if config.pool.weight else None
            sources = dict(zip(config.weights, pools, strict=True))
            sealed = unite(sources, here / byod.FOLDER) if config.byod else pools[0]
            subset = choose(config, here, own, sealed, method, executor)
            pool_size = len(sealed.uids)
            chosen = Chosen(
                size=len(subset),
                distinct=subset.distinct,
                shard_bytes=int(load_table(sealed.seal_dir)["bytes"].sum()),
                reshard=wants_reshard(config, subset.distinct, pool_size),
            )
    missing: list[str] | None = None
    try:
        folder = tiny.find_tasks(config.eval.suite or config.scale.suite, config.eval.data_dir, make=False)
        if folder.exists():
            missing = [task.key for task in keys if not (folder / task.folder).is_dir()]
    except ConfigError as error:
        no_tasks = str(error)
    return Plan(
        config=config,
        pool_size=pool_size - config.pool.holdout,
        chosen=chosen,
        missing_tasks=missing,
        no_tasks=no_tasks,
        device=_device_name(config.train.device),
        cores=os.cpu_count() or 1,
    )


def _sealed_before(config: RunConfig) -> list[SealedPool] | None:
    """The pool and the byod folders as they are sealed; None for the pool of scale tiny that is still to be made."""
    places = [(folder.path, folder.seal_dir) for folder in config.byod]
    if config.pool.weight:
        places.insert(0, (tiny.find_pool(config.scale.name, config.pool.path, make=False), config.pool.seal_dir))
        if config.pool.path is None and not config.byod and not tiny.pool_dir().exists():
            return None
    pools = []
    for path, seal_dir in places:
        try:
            pools.append(SealedPool.open(path, seal_dir))
        except ArtifactError as error:
            raise StageError(
                f"{path}: not sealed yet, so its size is unknown; run `python -m harness.pool seal {path}`"
            ) from error
    return pools


def _device_name(device: str) -> str:
    from harness.model import device_name

    return device_name(device)


def draw(run_dir: Path, config: RunConfig, suite: suites.Suite, evaluation: Record) -> None:
    """The two pictures of the run folder."""
    title = run_dir.name
    charts.draw_loss(run_dir / "train" / "log.jsonl", run_dir / "loss.png", title=title)
    scored = {task.key: task for task in suite.scored}
    charts.draw_scores(
        {key: score for key, score in evaluation.payload["scores"].items() if key in scored},
        {key: task.chance for key, task in scored.items()},
        {key: task.group or "-" for key, task in scored.items()},
        run_dir / "scores.png",
        title=title,
    )
