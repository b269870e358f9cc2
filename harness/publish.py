"""`python -m harness.entry publish`: an entry's large files on the hub, and their addresses in entry.json.

Uploads what entry.json names and keeps elsewhere (uid file, pool list, predictions, checkpoints, a large bitmap of the
realised pool) and the data card, in one commit, then writes the addresses of that very commit into the entry. Files
the hub has already are not sent again. HF_ENDPOINT and HF_TOKEN are honoured as everywhere in huggingface_hub.
"""

from collections.abc import Sequence
from pathlib import Path

from harness import files, realised
from harness.entry import read_run, sources_of
from harness.entry_schema import load_entry
from harness.errors import ArtifactError, InfraError
from harness.progress import say
from harness.records import Record, write_record


def publish(
    entry_dir: str | Path, run_dirs: Sequence[str | Path], *, repo: str, pool: str | Path | None = None
) -> Record:
    """Upload the files that the entry in `entry_dir` keeps elsewhere to the data set `repo`; the new record.

    `pool` is the folder of pool.json (default: where the run found it).

    Raises ArtifactError if a file is not the one that the entry names, InfraError if the hub does not take them.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(entry_dir)
    entry = load_entry(folder)
    runs = sorted((read_run(Path(run)) for run in run_dirs), key=lambda run: run.seed)
    sources = sources_of(runs, pool) | {"realised.npy": realised.elsewhere(runs[0])}
    found = {name: path for name, path in sources.items() if name in entry.payload.elsewhere and path.exists()}
    missing = sorted(set(entry.payload.elsewhere) - set(found))
    if missing:
        raise ArtifactError(f"{folder}: {missing[0]} is in none of the run directories given; name those of every seed")
    for name, path in found.items():
        if files.sha256_file(path) != entry.record.inputs[name]:
            raise ArtifactError(f"{path}: is not the {name} that the entry names; pack the entry again")
    if (folder / "data-card.md").exists():
        found["README.md"] = folder / "data-card.md"
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in found.items()]
    try:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        commit = api.create_commit(
            repo, operations, repo_type="dataset", commit_message=f"Files of the entry {entry.payload.about.name}"
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InfraError(f"{repo}: the hub did not take the files ({reason}); run the same command again") from error
    elsewhere = {
        name: there.model_copy(update={"url": hf_hub_url(repo, name, repo_type="dataset", revision=commit.oid)})
        for name, there in entry.payload.elsewhere.items()
    }
    payload = entry.payload.model_copy(update={"elsewhere": elsewhere})
    record = entry.record.model_copy(update={"payload": payload.model_dump()})
    write_record(folder / "entry.json", record)
    say(f"{len(found)} files at {commit.commit_url}; their addresses are in {folder / 'entry.json'}")
    return record
