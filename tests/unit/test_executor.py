import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import LONG, running, until

from harness import executor
from harness.errors import ConfigError, InfraError, MethodError


def test_results_stand_in_the_order_of_the_items_and_closures_travel() -> None:
    workers = executor.local(2)
    offset = 10

    def work(item: int) -> tuple[int, int]:
        import time as clock

        clock.sleep(0.02 if item % 3 == 0 else 0)
        return item + offset, os.getpid()

    try:
        found = workers.map(work, list(range(20)), name="test")
    finally:
        workers.close()
    assert [value for value, _ in found] == list(range(10, 30))
    assert os.getpid() not in {process for _, process in found}


def test_threads_stay_in_this_process() -> None:
    found = executor.local(2).map(lambda _: os.getpid(), [1, 2, 3], name="test", threads=True)
    assert set(found) == {os.getpid()}


def test_as_many_threads_for_each_worker() -> None:
    together = threading.Barrier(4, timeout=LONG)
    found = executor.local(2).map(lambda _: together.wait(), range(4), name="test", threads=2)
    assert sorted(found) == [0, 1, 2, 3]


def test_errors_reach_the_caller_with_their_notes() -> None:
    def work(item: int) -> int:
        if item == 2:
            error = MethodError("file 2")
            error.add_note("their traceback")
            raise error
        return item

    workers = executor.local(2)
    try:
        with pytest.raises(MethodError, match="file 2") as caught:
            workers.map(work, [1, 2, 3], name="test")
    finally:
        workers.close()
    assert caught.value.__notes__ == ["their traceback"]


def test_an_exception_that_cannot_be_copied_still_tells_what_it_was() -> None:
    class OddError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"odd {a} {b}")

    def work(_: int) -> None:
        raise OddError(1, 2)

    workers = executor.local(2)
    try:
        with pytest.raises(RuntimeError, match="OddError: odd 1 2"):
            workers.map(work, [1, 2], name="test")
    finally:
        workers.close()


def test_items_of_a_killed_worker_are_done_again(tmp_path: Path) -> None:
    def work(item: int) -> int:
        mark = tmp_path / "died"
        if item == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item

    workers = executor.local(2)
    try:
        assert workers.map(work, list(range(8)), name="test") == [item * item for item in range(8)]
    finally:
        workers.close()


def test_items_that_each_end_a_worker_once_are_all_done(tmp_path: Path) -> None:
    def work(item: int) -> int:
        mark = tmp_path / str(item)
        if item % 8 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    workers = executor.local(2)
    try:
        assert workers.map(work, list(range(32)), name="test") == list(range(32))
    finally:
        workers.close()
    assert len(list(tmp_path.iterdir())) == 4 > executor.RETRIES


def test_workers_that_keep_dying_are_the_machines_fault() -> None:
    workers = executor.local(2)
    try:
        with pytest.raises(InfraError, match="test: worker processes keep ending"):
            workers.map(lambda _: os._exit(1), [1, 2], name="test")
    finally:
        workers.close()


def test_a_script_without_main_guard_works_and_leaves_no_process_behind_when_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from harness import executor

            class Mine:
                def __init__(self, value):
                    self.value = value

            def work(item):
                return Mine(item.value + 1)

            workers = executor.local(2)
            print([m.value for m in workers.map(work, [Mine(1), Mine(2)], name="x")], flush=True)
            print(workers.map(lambda _: os.getpid(), [1, 2], name="x")[0], flush=True)
            workers.map(lambda _: time.sleep(3600), [1, 2], name="x")
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline().strip() == "[2, 3]"
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
    until(lambda: not running(worker), seconds=600)  # much less than it would sleep


@pytest.mark.parametrize("everyone", [False, True], ids=["the command alone", "all its processes"])
def test_ctrl_c_does_not_wait_for_the_files_at_hand(tmp_path: Path, everyone: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal, time
            from harness import cli, executor

            signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are started without

            def work(item):
                print("at work", flush=True)
                time.sleep(3600)

            cli.main(lambda argv: executor.local(2).map(work, range(6), name="x") and 0)
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            for _ in range(2):
                assert process.stdout.readline().strip() == b"at work"
            (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
            assert process.wait(timeout=600) == 130  # much less than they would sleep
        finally:
            process.kill()
            process.wait()


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither 'local' nor 'ray'"):
        executor.get("spark")


def test_the_cores_of_every_node_are_shared_by_its_gpus() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 13.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}},
    ]
    assert executor._cpus_beside(nodes, 1) == 6
    assert executor._cpus_beside(nodes[:1], 2) == 16
    assert executor._cpus_beside([], 1) == 1


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stands in for Ray: its own start takes long, and fails as `init` is told to."""
    module = SimpleNamespace(is_initialized=lambda: False, init=None, cluster_resources=lambda: {"CPU": 3})
    module.exceptions = SimpleNamespace(RayError=LookupError)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return module


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_ray_cluster_that_is_not_there_is_told_without_waiting_for_ray(
    ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with socket.socket() as bound:  # a port that is taken, where nobody listens
        bound.bind(("127.0.0.1", 0))
        address = form.format(bound.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InfraError, match=f"RAY_ADDRESS={address}: no Ray cluster answers .*refused"):
            executor.get("ray")


@pytest.mark.parametrize("error", [ConnectionError, LookupError])
def test_what_ray_fails_to_start_with_is_told(
    ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(address: str | None, **settings: object) -> None:
        raise error("no node\nat all.")

    ray.init = failing
    with pytest.raises(InfraError, match=r"Ray does not start on this machine \(no node at all\)"):
        executor.get("ray")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for address in ("auto", f"127.0.0.1:{listening.getsockname()[1]}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            with pytest.raises(InfraError, match=rf"RAY_ADDRESS={address}: no Ray cluster answers \(no node at all\)"):
                executor.get("ray")
        given: list[str | None] = []
        ray.init = lambda address, **settings: given.append(address)
        assert executor.get("ray").workers == 3 and given == [address]


@pytest.mark.slow
def test_ray_gives_the_same_although_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = tmp_path / "script.py"
    # In a process of its own: Ray's start-up warns, and its threads would outlive the test.
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, time
            import ray
            from pathlib import Path
            from harness import executor

            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            folder = Path({str(tmp_path)!r})
            mark = folder / "died"

            def work(item):
                (folder / f"at-{{os.getpid()}}").touch()
                while item == 0 and len(list(folder.glob("at-*"))) < 2:
                    time.sleep(0.01)  # until another process is there too, however long it takes to start
                if item == 5 and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return item * item, os.getpid()

            found = executor.get("ray").map(work, list(range(20)), name="squares")
            assert [value for value, _ in found] == [item * item for item in range(20)]
            assert mark.exists() and os.getpid() not in {{process for _, process in found}}
            try:
                executor.get("ray").map(lambda item: 1 // item, [1, 0], name="division")
            except ZeroDivisionError:
                print("done")
            ray.shutdown()
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LONG)
    assert done.stdout.strip().endswith("done"), done.stderr
