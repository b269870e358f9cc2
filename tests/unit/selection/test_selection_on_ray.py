"""Methods on Ray choose what they choose without it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from metadata_pool import write_metadata
from waiting import LONG


@pytest.mark.slow
def test_ray_chooses_the_same_from_a_sealed_pool(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = write_metadata(tmp_path / "pool", (30, 20), features=False)
    script = tmp_path / "script.py"
    (tmp_path / "long_words.py").write_text(
        textwrap.dedent(
            """
            import numpy as np

            def select(pool, /, *, ctx, letters: int = 6):
                def wanted(table):
                    return np.array([any(len(w) > letters for w in t.split()) for t in table["text"].to_pylist()])
                return pool.filter(wanted, columns=["text"])
            """
        )
    )
    # In a process of its own: Ray's start-up warns, and its threads would outlive the test.
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            import numpy as np
            import ray
            from harness import Pool, executor
            from harness.config import MethodConfig, load_scale
            from harness.pool import view
            from harness.pool.sealed import SealedPool
            from harness.selection import plugins, run

            view.INLINE_ROWS = 0
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            folder, out = {str(folder)!r}, Path({str(tmp_path)!r})
            uids = np.array(Pool.open(folder).uids()[::2])
            sealed = SealedPool(path=folder, seal_dir=folder, digest="0" * 64, uids=uids,
                                borders=np.array([0, len(uids)]), shards=("0.tar",))
            for name, target in (("clip_score", None), ("custom", "long_words:select")):
                found = []
                for kind in ("local", "ray"):
                    workers = executor.get(kind)
                    pool = Pool.open(folder, sealed=sealed, holdout=5, executor=workers)
                    config = MethodConfig(name=name, target=target)
                    place = out / name / kind
                    found.append(run.select(plugins.resolve(config), config, pool=pool, scale=load_scale("tiny"),
                                            out=place, executor=workers))
                    workers.close()
                assert found[0].digest == found[1].digest and 0 < len(found[0]) < len(uids) - 5
            ray.shutdown()
            print("done")
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LONG)
    assert done.stdout.strip().endswith("done"), done.stderr
