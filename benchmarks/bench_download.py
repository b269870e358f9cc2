"""How fast pictures are downloaded from loopback: harness.download against img2dataset alone, in pairs.

    python benchmarks/bench_download.py [--pictures 4000] [--pairs 5]

Both get the same links, settings and server (a process of its own); which goes first alternates from pair to pair.
Times include starting Python and reading img2dataset's many imports, so the harness's own cost is in them: about a
second of imports and records, however long the download is. The difference in seconds is told beside the ratio.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
        links = write_links(Path(folder), receiver.recv(), chosen.pictures)
        ratios, differences = [], []
        for pair in range(chosen.pairs):
            seconds = {}
            for who in (alone, harness) if pair % 2 else (harness, alone):
                out = Path(folder) / f"{who.__name__}-{pair}"
                started = time.perf_counter()
                shards = who(links, out)
                seconds[who.__name__] = time.perf_counter() - started
                got = read_counts(shards).successes
                assert got == chosen.pictures, f"{who.__name__}: {got} of {chosen.pictures} pictures"
            ratios.append(seconds["harness"] / seconds["alone"])
            differences.append(seconds["harness"] - seconds["alone"])
            print(f"pair {pair}: img2dataset alone {seconds['alone']:.2f} s, harness {seconds['harness']:.2f} s, "
                  f"ratio {ratios[-1]:.3f}", flush=True)  # fmt: skip
        server.terminate()
        server.join()
    spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    print(f"{chosen.pictures:,} pictures, {len(ratios)} pairs: harness takes {statistics.mean(ratios):.3f} ± "
          f"{spread:.3f} times the time of img2dataset alone (median {statistics.median(ratios):.3f}); "
          f"median difference {statistics.median(differences):+.2f} s")  # fmt: skip


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
    (folder / "links").mkdir()
    table = pa.table({
        "uid": [f"{n:032x}" for n in range(pictures)], "url": [f"{address}/{n}" for n in range(pictures)],
        "text": [f"caption {n}" for n in range(pictures)],
    })  # fmt: skip
    pq.write_table(table, folder / "links" / "0.parquet")
    return folder / "links"


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
