"""The records name each other by digest, and entry.json says what they say."""

from typing import Any

from harness import finished, order
from harness.config import locked_differences
from harness.records import PROTOCOL
from leaderboard.case import Case, Notes, error, warning
from leaderboard.entries import kind_of


def seeds(case: Case) -> Notes:
    """One run a seed, all alike but for the seed."""
    stated = [summary.seed for summary in case.payload.runs]
    if len(set(stated)) != len(stated):
        yield error("entry.json", f"training seeds {stated} are not distinct")
    elif sorted(stated) != list(range(len(stated))):
        yield warning("entry.json", f"training seeds {stated} are not 0 to {len(stated) - 1}; ask how they were chosen")
    first = case.runs[0]
    for run in case.runs:
        for name, record in (
            ("config.json", run.config),
            ("train/train.json", run.train),
            ("train/ledger.json", run.ledger),
        ):
            if record.payload.get("seed") != run.seed:
                yield error(f"{run.folder}/{name}", f"seed {record.payload.get('seed')!r}, the folder says {run.seed}")
        for name, value in first.config.payload.items():
            if name != "seed" and run.config.payload.get(name) != value:
                yield error(f"{run.folder}/config.json", f"setting {name} differs from {first.folder}")
    extra = {path.split("/")[0] for path in case.entry.record.inputs if path.startswith("seed-")}
    for name in sorted(extra - {run.folder for run in case.runs}):
        yield error(name, "is not a seed that entry.json names; no seed may be left out of the mean")


def inputs(case: Case) -> Notes:
    """Pool, subset, training, checkpoint, evaluation: each record names the one before it."""
    pool, subset = case.entry.read("pool/pool.json"), case.entry.read("subset.json")
    chain: list[tuple[str, str, Any, Any]] = [
        ("entry.json", "pool", case.payload.pool.digest, pool.digest),
        ("entry.json", "subset", case.payload.subset.uids, subset.payload.get("uids")),
        ("subset.json", "pool", subset.inputs.get("pool"), pool.digest),
    ]
    for run, summary in zip(case.runs, case.payload.runs, strict=True):
        weights = case.entry.record.inputs.get(f"{run.folder}/train/checkpoint.safetensors")
        checkpoint = run.train.payload.get("checkpoint")
        chain += [
            (f"{run.folder}/train/train.json", "checkpoint", checkpoint, weights),
            ("entry.json", f"checkpoint of seed {run.seed}", summary.checkpoint, checkpoint),
            ("entry.json", f"ledger of seed {run.seed}", summary.ledger, run.ledger.payload.get("digest")),
        ]
        tasks = {case.entry.suite.tasks[key].slug: record for key, record in run.tasks.items()}
        own = finished.links(
            subset=subset, config=run.config, train=run.train, ledger=run.ledger, evaluation=run.evaluation, tasks=tasks
        )
        chain += [(f"{run.folder}/{file}", *link) for file, *link in own]
    for where, what, stated, true in chain:
        if stated != true or true is None:
            yield error(where, f"{what} {_brief(stated)} is not {_brief(true)}: the chain of digests is broken")


def sources(case: Case) -> Notes:
    """Of a byod entry: pool.json is the union of the sources whose records stand in the entry, as it says."""
    union, stated = case.pool, {source.name: source for source in case.payload.pool.sources}
    named = case.pool.payload.get("sources") or []
    if not named:
        if stated or case.entry.read("subset.json").payload.get("sources"):
            yield error("entry.json", "names sources, pool.json is not a union of any")
        return
    records = {name: case.entry.read(f"pool/{name}/pool.json") for name in case.sources}
    if len(named) != len(records) or [s.name for s in case.payload.pool.sources] != list(records):
        yield error("entry.json", f"pool.sources are not the {len(named)} of pool.json in their order")
        return
    if case.payload.about.track != "byod":
        yield error("entry.json", f"track is {case.payload.about.track}, but byod folders were trained on")
    if not case.payload.about.external_data:
        yield warning("entry.json", "external_data does not say what the byod folders hold")
    weights = case.entry.read("subset.json").payload.get("sources")
    for what, found in (("subset.json", weights), ("config", case.runs[0].config.payload.get("sources"))):
        if found != {name: source.weight for name, source in stated.items()}:
            yield error(what, f"weights of the sources {_brief(found)} are not those of entry.json")
    for item in named:
        name, record = item["name"], records[item["name"]]
        for what, value, true in (
            ("digest in pool.json", union.inputs.get(name), record.digest),
            ("digest in entry.json", stated[name].digest, record.digest),
            ("samples in pool.json", item["samples"], record.payload.get("samples")),
            ("samples in entry.json", stated[name].samples, record.payload.get("samples")),
        ):
            if value != true:
                yield error(f"pool/{name}/pool.json", f"{what} {_brief(value)} is not {_brief(true)}")
    for what, total in (
        ("samples", sum(record.payload["samples"] for record in records.values())),
        ("shards", sum(record.payload["shards"] for record in records.values())),
        ("left_out", sum(record.payload["left_out"]["count"] for record in records.values())),
    ):
        value = union.payload.get(what)
        if (value["count"] if isinstance(value, dict) else value) != total:
            yield error("pool/pool.json", f"{what} are not the sum over the sources, {total:,}")


def protocol(case: Case) -> Notes:
    """All records are of the protocol that this verifier knows; training in another order bears a name of its own."""
    chosen: Any = case.runs[0].config.payload.get("order")
    fed = order.protocol(chosen)
    for path in sorted(["entry.json", *case.entry.record.inputs]):
        if path.endswith(".json"):
            record = case.entry.record if path == "entry.json" else case.entry.read(path)
            known = fed if kind_of(path) in ("train", "ledger") else PROTOCOL
            if record.protocol != known:
                yield error(path, f"protocol {record.protocol[:40]!r}, this verifier knows {known[:40]}")


def summary(case: Case) -> Notes:
    """What entry.json tells people is what the records say."""
    payload, subset, pool = (
        case.payload,
        case.entry.read("subset.json").payload,
        case.entry.read("pool/pool.json").payload,
    )
    config = case.runs[0].config.payload
    size = subset.get("size")
    stated_repeats = case.scale.samples_seen / size if isinstance(size, int) and size > 0 else None
    for what, stated, true in (
        ("scale", payload.scale, case.scale.name),
        ("suite", payload.suite, config.get("suite")),
        ("method", payload.method, config.get("method")),
        ("unofficial", sorted(payload.unofficial), _unofficial(case)),
        ("pool.samples", payload.pool.samples, pool.get("samples")),
        ("pool.left_out", payload.pool.left_out, (pool.get("left_out") or {}).get("count")),
        ("subset.size", payload.subset.size, size),
        ("subset.distinct", payload.subset.distinct, subset.get("distinct")),
        ("subset.max_count", payload.subset.max_count, subset.get("max_count")),
    ):
        if stated != true:
            yield error("entry.json", f"{what} is {_brief(stated)}, the records say {_brief(true)}")
    # Stated to six places; a multiset that is not seen whole once has few digits among them.
    if stated_repeats is None or abs(payload.subset.mean_repeats - stated_repeats) > 1e-6 + 1e-5 * stated_repeats:
        yield error(
            "entry.json", f"subset.mean_repeats is {payload.subset.mean_repeats}, the records give {stated_repeats}"
        )
    if payload.unofficial:
        changed = ", ".join(payload.unofficial)
        yield warning("entry.json", f"the run changed {changed}: it is unofficial, and the board shows it unranked")


def _unofficial(case: Case) -> list[str]:
    """What differs from the locked protocol, worked out here and not read from the record that states it."""
    config = case.runs[0].config.payload
    changed = locked_differences(case.scale)
    changed += ["pool.holdout"] if config.get("holdout") else []
    changed += ["train.order"] if config.get("order") != "block_shuffle" else []
    changed += ["eval.suite"] if config.get("suite") != case.scale.suite else []
    changed += ["eval.precision"] if config.get("eval_precision") != "fp32" else []
    return sorted(changed)


def _brief(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if isinstance(value, str) and len(value) == 64 else text[:80]
