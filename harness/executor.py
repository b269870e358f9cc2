"""One way to do a list of work: `executor.map(fn, items)`, on this machine's cores or on a Ray cluster.

Results come in the order of the items, whatever finished first, so nothing downstream depends on the number
of workers. Functions travel by value (cloudpickle), so a function written in a script or notebook works.
This is the only module that knows Ray.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import cloudpickle  # type: ignore[import-untyped]

from harness.errors import ConfigError, HarnessError, InfraError, MethodError
from harness.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Items handed out per worker beyond what is read back: bounds what waits in memory."""
RETRIES = 2
"""How often an item is tried again whose worker died."""
ANSWER_SECONDS = 10
"""How long the host of a Ray cluster may take to accept a connection."""


class Executor(ABC):
    """Runs a function over items in parallel."""

    workers: int

    def map(
        self,
        fn: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        name: str,
        unit: str = "files",
        weights: Sequence[int] | None = None,
        threads: int = 0,
    ) -> list[Result]:
        """`[fn(item) for item in items]`, in parallel.

        `weights` are units of progress per item (rows, bytes); `unit` is their name. With `threads` the caller
        says that `fn` spends its time outside the interpreter lock (NumPy, pyarrow, input and output), so that on one
        machine threads of this process do, as many for each worker.

        An exception in `fn` is raised here. Raises InfraError if workers keep dying.
        """
        return list(self.stream(fn, items, name=name, unit=unit, weights=weights, threads=threads))

    def stream(
        self,
        fn: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        name: str,
        unit: str = "files",
        weights: Sequence[int] | None = None,
        threads: int = 0,
        quiet: bool = False,
    ) -> Iterator[Result]:
        """Like `map`, but results are handed over one by one; work goes on only as far as they are taken.

        `quiet` leaves the progress to the caller.
        """
        if quiet:
            yield from self._results(fn, items, name, threads)
            return
        sizes = [1] * len(items) if weights is None else list(weights)
        with Progress(name, total=sum(sizes), unit=unit) as bar:
            for size, result in zip(sizes, self._results(fn, items, name, threads), strict=True):
                bar.advance(size)
                yield result

    @abstractmethod
    def _results(
        self, fn: Callable[[Item], Result], items: Sequence[Item], name: str, threads: int
    ) -> Iterator[Result]: ...

    def close(self) -> None:  # noqa: B027 - not every executor has workers of its own
        """End the workers; the next `map` starts new ones."""


class LocalExecutor(Executor):
    """Processes of this machine, started when first needed."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def _results(
        self, fn: Callable[[Item], Result], items: Sequence[Item], name: str, threads: int
    ) -> Iterator[Result]:
        if self.workers == 1 or len(items) <= 1:
            yield from map(fn, items)
        elif threads:
            with ThreadPoolExecutor(self.workers * threads) as pool:
                yield from self._in_order(lambda item: pool.submit(fn, item), items)
        else:
            yield from self._in_processes(cloudpickle.dumps(fn), items, name)

    def _in_processes(self, function: bytes, items: Sequence[Any], name: str) -> Iterator[Any]:
        done = failures = 0
        while done < len(items):
            try:
                for result in self._in_order(lambda item: self._submit(function, item), items[done:]):
                    yield cloudpickle.loads(result)
                    done, failures = done + 1, 0
            except KeyboardInterrupt:
                # The end of this process would wait until they are through with the files at hand.
                for process in list(self._pool._processes.values()) if self._pool else []:
                    process.terminate()
                raise
            except BrokenProcessPool as error:
                self.close()
                failures += 1
                if failures > RETRIES:
                    raise InfraError(
                        f"{name}: worker processes keep ending suddenly (often the memory is used up); "
                        "run the same command again with more memory or fewer workers"
                    ) from error

    def _in_order(self, submit: Callable[[Any], "Future[Any]"], items: Sequence[Any]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        todo = iter(items)
        try:
            for item in todo:
                waiting.append(submit(item))
                if len(waiting) >= AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, function: bytes, item: Any) -> "Future[bytes]":
        if self._pool is None:
            threads = max(len(os.sched_getaffinity(0)) // self.workers, 1)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _start_worker, (threads,))
        with _hidden_main():
            return self._pool.submit(_call_bytes, function, cloudpickle.dumps(item))

    def close(self) -> None:
        """End the workers; the next `map` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep new processes from importing the caller's script: all travels by value, so it needs no main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker(threads: int) -> None:
    """First thing in a worker: its share of the cores, and an end when the caller ends, however that ends."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A worker would take Ctrl-C for a result of the file at hand and go on with the next.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _call_bytes(function: bytes, item: bytes) -> bytes:
    return bytes(cloudpickle.dumps(_call(function, cloudpickle.loads(item))))


def carried(fn: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """`fn` as a worker gets it, wherever it runs: for each item a copy, of the values that travel with it too.

    Raises MethodError if something that it uses cannot be copied.
    """
    try:
        function = cloudpickle.dumps(fn)
    except HarnessError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise left_behind("all that it holds", f"make inside it what cannot be sent ({reason})") from error
    return partial(_call, function)


def left_behind(name: str, instead: str) -> MethodError:
    """The error for a function that would take along what stays in this process."""
    return MethodError(f"a function on the pool's files runs in other processes and cannot use {name} there; {instead}")


def _call(function: bytes, item: Any) -> Any:
    try:
        return cloudpickle.loads(function)(item)
    except Exception as error:
        try:
            cloudpickle.loads(cloudpickle.dumps(error))
        except Exception:  # noqa: BLE001 - an exception of a stranger may fail in any way when it is copied
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


class RayExecutor(Executor):
    """Tasks on a Ray cluster: the one of $RAY_ADDRESS, or one on this machine. Needs the extra `ray`."""

    def __init__(self, *, gpus: int = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("executor=ray needs the extra ray: pip install 'datacomp-harness[ray]'") from error
        self._ray = ray
        if not ray.is_initialized():
            _start_ray(ray, os.environ.get("RAY_ADDRESS"))
        there = ray.cluster_resources()
        self._gpus = gpus if there.get("GPU", 0) >= gpus else 0
        self._cpus = _cpus_beside(ray.nodes(), self._gpus) if self._gpus else 1
        self.workers = max(int(there["GPU"]) // self._gpus if self._gpus else int(there.get("CPU", 1)), 1)

    def _results(
        self, fn: Callable[[Item], Result], items: Sequence[Item], name: str, threads: int
    ) -> Iterator[Result]:
        ray = self._ray
        function = ray.put(cloudpickle.dumps(fn))
        # Ray starts a task again when its worker or node dies; exceptions of the function are not tried again.
        task = ray.remote(_call).options(
            max_retries=RETRIES, retry_exceptions=False, num_gpus=self._gpus, num_cpus=self._cpus
        )
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(task.remote(function, item))
                if len(waiting) >= AHEAD * self.workers:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise InfraError(f"{name}: the Ray cluster failed: {str(error).splitlines()[0]}") from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)


def _start_ray(ray: types.ModuleType, address: str | None) -> None:
    try:
        _require_answer(address or "")
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if not address:
            raise InfraError(
                f"Ray does not start on this machine ({reason}); mend that, or give executor=local"
            ) from error
        raise InfraError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({reason}); give the address of one that runs, or unset "
            "RAY_ADDRESS to start one on this machine"
        ) from error


def _require_answer(address: str) -> None:
    """OSError if `address` names a host and a port where nothing listens: Ray itself tries for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=ANSWER_SECONDS).close()


def _cpus_beside(nodes: Sequence[Mapping[str, Any]], gpus: int) -> int:
    """The cores for each task with `gpus` GPUs, so that every node with GPUs can use them all: at least one."""
    there = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus]
    return max(min((int(node.get("CPU", 0) * gpus // node["GPU"]) for node in there), default=1), 1)


def local(workers: int | None = None) -> LocalExecutor:
    """Processes of this machine, one per usable core unless `workers` says otherwise."""
    return LocalExecutor(workers)


def get(name: str) -> Executor:
    """The executor of that name: `local` or `ray`."""
    if name == "local":
        return local()
    if name == "ray":
        return RayExecutor()
    raise ConfigError(f"setting executor: {name!r} is neither 'local' nor 'ray'")


def ray_for_models(device: str) -> Executor:
    """Ray with a GPU for each task where the cluster has any, unless `device` is cpu."""
    return RayExecutor(gpus=int(device != "cpu"))
