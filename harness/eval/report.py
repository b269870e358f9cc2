"""Results in words: the scores of an evaluation as a table."""

from pathlib import Path

from harness.eval import results
from harness.eval.suite import AGGREGATES, Suite


def table(folder: Path, suite: Suite) -> str:
    """Score, interval and chance of each task, then the aggregates."""
    record, found = results.read(folder)
    evaluation, known = record.payload, {key: one.payload for key, one in found.items()}
    lines = [f"{'task':52}{'score':>7}  {'95 % interval':15}{'chance':>7}  metric"]
    for key, task in suite.tasks.items():
        payload = known.get(key)
        chance = "" if task.chance is None else f"{task.chance:.3f}"
        if payload is None:
            lines.append(f"{key:52}{'-':>7}  {'no result':15}{chance:>7}")
        elif payload["score"] is None:
            lines.append(f"{key:52}{'':7}  {'reported only':15}")
        else:
            low, high = payload["interval"]
            between = f"{low:.3f} to {high:.3f}"
            lines.append(f"{key:52}{payload['score']:7.3f}  {between:15}{chance:>7}  {payload['main_metric']}")
    lines.append("")
    for name in AGGREGATES:
        value = evaluation["aggregates"][name]
        lines.append(f"{name:52}{'-' if value is None else f'{value:.4f}':>7}")
    if evaluation["missing"]:
        lines.append(f"incomplete: no result of {', '.join(evaluation['missing'])}")
    return "\n".join(lines) + "\n"
