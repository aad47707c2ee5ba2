"""Where pages of events are decoded: in the threads that fetch them, in processes, or on a Dask cluster.

This process alone asks Lago and Postgres: one gate holds the requests in flight, one wait answers a 429, and neither
key nor password leaves it. A worker is handed the bytes of a page and gives back a value that is the same wherever it
was made. Pages whose worker dies are decoded again by another one; a page that keeps losing its worker ends the run.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog

from reconcile import __version__
from reconcile.errors import Interrupted, ReconcileError, UsageError, WorkerFault
from reconcile.lago.events import Decode, EventShape, Page, decode_page
from reconcile.settings import Settings

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

log = structlog.get_logger()

_DEATHS: Final = 3  # of its workers until a page is given up: what Dask allows a task, too
_LOOK: Final = 0.5  # seconds between two looks at `stop`


@dataclass(frozen=True, slots=True)
class Workers:
    """`decode` may be called from any thread. `count` is how many workers there were when the run began."""

    decode: Decode = decode_page
    count: int = 1


@contextmanager
def open_workers(settings: Settings, stop: threading.Event) -> Iterator[Workers]:
    """The workers that the settings ask for, until the block ends.

    Raises `UsageError` where Dask or its certificates are not there, `WorkerFault` where no scheduler answers.
    `decode` raises `WorkerFault` where workers keep dying or are none, and `Interrupted` where the run is to stop.
    """
    if settings.dask:
        with _dask(settings.dask, settings.timeout.total_seconds(), stop) as found:
            yield found
    elif settings.workers > 1:
        pool = Processes(settings.workers, stop)
        try:
            yield Workers(pool.decode, settings.workers)
        finally:
            pool.close()
    else:
        yield Workers()


class Processes:
    """Decodes in `count` processes of this host, which begin with the first pages and end with this process."""

    def __init__(self, count: int, stop: threading.Event) -> None:
        self._count = count
        self._stop = stop
        self._lock = threading.Lock()
        self._executor = self._open()

    def decode(self, shape: EventShape, code: str, subscription_id: str | None, body: bytes) -> Page:
        for _ in range(_DEATHS):
            executor = self._executor
            try:
                return executor.submit(decode_page, shape, code, subscription_id, body).result()
            except concurrent.futures.BrokenExecutor:
                if self._stop.is_set():  # what told this process to stop may have ended its workers
                    raise Interrupted("stopped while pages were decoded") from None
                self._renew(executor)
        raise WorkerFault(
            f"RECONCILE_WORKERS: processes that decode pages died {_DEATHS} times in a row, perhaps for want of "
            "memory; nothing is lost: run it again, with fewer of them or none (1)"
        )

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _open(self) -> Executor:
        import multiprocessing

        # Not forked: another thread may hold any lock at that moment.
        spawning = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(self._count, spawning, _begin_worker)

    def _renew(self, broken: Executor) -> None:
        with self._lock:
            if self._executor is broken:
                log.warning("a process that decodes pages died; its pages are decoded again")
                self._executor = self._open()
                broken.shutdown(wait=False)


def _begin_worker() -> None:
    """Ctrl-C reaches every process of a terminal, and is this process' parent's to answer; with it the worker ends."""
    import multiprocessing
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()


@contextmanager
def _dask(address: str, patience: float, stop: threading.Event) -> Iterator[Workers]:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--dask needs the package {error.name}; install it with: pip install 'litellm-lago-reconcile[dask]'"
        ) from None
    if address.startswith(("tls://", "wss://")) and not _has_certificates(distributed.Security()):
        raise UsageError(
            f"--dask: {address} wants certificates, and Dask's configuration names none; set distributed.comm.tls there"
        )
    try:
        client = distributed.Client(address, timeout=patience, set_as_default=False)
    except OSError:
        raise WorkerFault(f"--dask: no Dask scheduler answers at {address} within {patience:g} s") from None
    with client:
        cluster = Cluster(client.get_executor(), lambda: len(client.nthreads()), patience, stop)
        yield Workers(cluster.decode, len(client.nthreads()))


def _has_certificates(security: Any) -> bool:
    return security.get_connection_args("client").get("ssl_context") is not None


class Cluster:
    """Decodes on a Dask cluster, whose scheduler gives a page to another worker where one dies.

    `workers` asks the scheduler how many there are; without any the run waits for `patience` seconds.
    """

    def __init__(self, executor: Executor, workers: Callable[[], int], patience: float, stop: threading.Event) -> None:
        self._executor = executor
        self._workers = workers
        self._patience = patience
        self._stop = stop

    def decode(self, shape: EventShape, code: str, subscription_id: str | None, body: bytes) -> Page:
        try:
            future = self._executor.submit(_decode_as, __version__, shape, code, subscription_id, body)
            self._await(future)
            page: Page = future.result()
        except ReconcileError:
            raise
        except (Exception, concurrent.futures.CancelledError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise WorkerFault(
                f"--dask: the cluster failed ({said}); nothing is lost: run it again, or without --dask"
            ) from None
        return page

    def _await(self, future: Future[Any]) -> None:
        """Returns when the future is done. A page without a worker would wait for ever."""
        deserted = None
        while not concurrent.futures.wait([future], _LOOK).done:
            if self._stop.is_set():
                raise Interrupted("stopped while pages were decoded")
            if self._workers():
                deserted = None
                continue
            deserted = deserted or monotonic()
            if monotonic() - deserted > self._patience:
                raise WorkerFault(
                    f"--dask: the cluster has had no worker for {self._patience:g} s; nothing is lost: run it again"
                )


def _decode_as(release: str, shape: EventShape, code: str, subscription_id: str | None, body: bytes) -> Page:
    """In a worker. One of another release may understand a page in another way."""
    if release != __version__:
        raise WorkerFault(
            f"--dask: a worker has reconcile {__version__}, and this is {release}; install the same on both"
        )
    return decode_page(shape, code, subscription_id, body)
