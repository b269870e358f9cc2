"""How fast pictures are downloaded from loopback: harness.download against img2dataset alone, in pairs.

    python benchmarks/bench_download.py [--pictures 4000] [--pairs 5]

Both get the same links, settings and server (a process of its own); which goes first alternates from pair to pair,
after a run of each that is not counted: the first to read img2dataset's many imports from the disk would pay for the
other. Times include starting Python and those imports. Processor seconds are of all processes that a command starts,
without the server; they tell the two apart where other work shares the machine.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.crawl import CrawlSettings, read_counts
from harness.files import list_files
from harness.tars import Reader, index_tar

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "realpool_sample"
PROCESSES, THREADS, PER_SHARD = 1, 16, 1000
ALONE = "import json, sys, img2dataset; img2dataset.download(**json.loads(sys.argv[1]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        server = multiprocessing.Process(target=serve, args=(sender,), daemon=True)
        server.start()
        address = receiver.recv()
        before = write_links(Path(folder) / "before", address, THREADS)
        for who in (alone, harness):
            who(before, Path(folder) / f"{who.__name__}-before")
        links = write_links(Path(folder) / "links", address, chosen.pictures)
        ratios: dict[str, list[float]] = {"wall": [], "processor": []}
        for pair in range(chosen.pairs):
            taken = {}
            for who in (alone, harness) if pair % 2 else (harness, alone):
                taken[who.__name__] = measured(who, links, Path(folder) / f"{who.__name__}-{pair}", chosen.pictures)
            for kind, theirs, ours in zip(ratios, taken["alone"], taken["harness"], strict=True):
                ratios[kind].append(ours / theirs)
            (wall, processor), (our_wall, our_processor) = taken["alone"], taken["harness"]
            print(f"pair {pair}: img2dataset alone {wall:.2f} s ({processor:.2f} s of processors), harness "
                  f"{our_wall:.2f} s ({our_processor:.2f} s), load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
        server.terminate()
        server.join()
    for kind, values in ratios.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"{chosen.pictures:,} pictures, {len(values)} pairs: harness takes {statistics.mean(values):.3f} "
            f"± {spread:.3f} times the {kind} time of img2dataset alone (median {statistics.median(values):.3f})"
        )


def measured(who: Callable[[Path, Path], Path], links: Path, out: Path, pictures: int) -> tuple[float, float]:
    """Wall and processor seconds of a download."""
    started, before = time.perf_counter(), processor_seconds()
    shards = who(links, out)
    seconds = time.perf_counter() - started, processor_seconds() - before
    got = read_counts(shards).successes
    assert got == pictures, f"{who.__name__}: {got} of {pictures} pictures"
    return seconds


def processor_seconds() -> float:
    """Of all processes that have ended and were waited for, here or further down."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def serve(sender: Any) -> None:
    """Serve the sample's pictures under any name until killed."""
    pictures = []
    for path in list_files(SAMPLE / "shards", ".tar"):
        with Reader(path) as reader:
            pictures += [reader.exactly(int(row["image"]), int(row["image_size"])) for row in index_tar(path)[0]]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = pictures[int(self.path.strip("/")) % len(pictures)]
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sender.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


def write_links(folder: Path, address: str, pictures: int) -> Path:
    """Metadata of so many links."""
    folder.mkdir()
    table = pa.table({
        "uid": [f"{n:032x}" for n in range(pictures)], "url": [f"{address}/{n}" for n in range(pictures)],
        "text": [f"caption {n}" for n in range(pictures)],
    })  # fmt: skip
    pq.write_table(table, folder / "0.parquet")
    return folder


def alone(links: Path, out: Path) -> Path:
    """img2dataset with the same arguments."""
    settings = CrawlSettings(processes=PROCESSES, threads=THREADS, per_shard=PER_SHARD)
    arguments = json.dumps(settings.arguments(links, out, ["uid", "url", "text"]))
    call([sys.executable, "-c", ALONE, arguments])
    return out


def harness(links: Path, out: Path) -> Path:
    """The command of this project."""
    call([sys.executable, "-m", "harness.download", f"metadata_dir={links}", f"data_dir={out}",
          f"processes={PROCESSES}", f"threads={THREADS}", f"per_shard={PER_SHARD}"])  # fmt: skip
    return out / "shards"


def call(command: list[str]) -> None:
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=quiet)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
