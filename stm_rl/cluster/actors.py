"""Work divided among Ray actors, one for each GPU or CPU of a cluster.

Ray pickles what it sends between its own processes (functions too, with cloudpickle). Nothing is unpickled from a file,
but whoever can reach a Ray cluster can run code on it: a cluster of several machines belongs in a private network. One
that is started here takes orders from this command alone, by a token that is drawn for it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Generic, TypeVar

import torch

from stm_rl.errors import StmError

LOCAL = "local"
"""The address that starts a cluster on this machine, and ends it afterwards."""
RESTARTS = 3
"""How often an actor that was lost is started again, on whatever machine has room."""

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job], Result]


class _Actor(Generic[Job, Result]):
    """Makes its work, such as a model, at the first job, so that what fails then is an error of the job."""

    def __init__(self, threads: int, path: list[str]) -> None:
        self._threads, self._path = threads, path
        self._work: Work[Job, Result] | None = None

    def do(self, make: list[Any], number: int, job: Job) -> tuple[int, Result]:
        """Do a job; ``make`` is in a list since Ray replaces a reference that is an argument of its own."""
        if self._work is None:
            import ray

            sys.path += [folder for folder in self._path if folder not in sys.path]  # for modules of the user
            torch.set_num_threads(self._threads)
            self._work = ray.get(make[0])()
        return number, self._work(job)


class Cluster:
    """A Ray cluster that this process is connected to; see :func:`connect`.

    Attributes:
        workers: Actors that work together.
    """

    def __init__(self, workers: int, gpus: bool, threads: int) -> None:
        """Use ``workers`` actors with a GPU each or none, and with ``threads`` CPUs each."""
        self.workers = workers
        self._options = {"num_cpus": threads, "num_gpus": int(gpus)}
        self._threads = threads

    def map(self, make: Callable[[], Work[Job, Result]], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Do jobs; yield the number of each and its result, as they come.

        An actor that is lost, with its machine or alone, is started again and its job done once more.

        Args:
            make: Makes, on an actor, the function that does a job. Sent to the machines once.
            jobs: What to do. Each is sent when an actor is free.

        Raises:
            StmError: A job did, or two actors were lost with the same job.
        """
        import ray
        from ray.util import ActorPool

        kind: Any = ray.remote(_Actor).options(**self._options, max_restarts=RESTARTS, max_task_retries=1)
        shared = [ray.put(make)]
        actors = [kind.remote(self._threads, sys.path) for _ in range(min(self.workers, len(jobs)))]
        pool = ActorPool(actors)
        try:
            yield from pool.map_unordered(lambda actor, job: actor.do.remote(shared, *job), list(enumerate(jobs)))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StmError):
                raise StmError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            if "creation task" in lines[0]:
                raise StmError(
                    f"no actor can be made on the Ray cluster ({lines[-1]}); install the same stm-rl on all machines"
                ) from error
            raise StmError(
                f"an actor on the Ray cluster was lost, and the one that took its place too ({lines[0]}); its machine "
                "may have too little memory: use fewer --ray-workers. What was saved is kept"
            ) from error
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def connect(address: str, device: str = "cpu", workers: int | None = None, threads: int = 1) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one on this machine.

    Until the end what is printed goes to stderr, for Ray prints on stdout what it restarts, where results belong.

    Args:
        address: ``local``, or the address of a cluster that ``ray start --head`` printed.
        device: Torch device of the actors' models. With ``cuda`` each actor has a GPU of its own; with ``auto`` too, if
            the cluster has any.
        workers: How many actors; by default one for each GPU or, without GPUs, for each ``threads`` CPUs.
        threads: Torch threads of an actor.

    Raises:
        StmError: Ray is not installed, nothing answers at the address, or the cluster is smaller than asked for.
    """
    ray = _import_ray(address)
    ours = not ray.is_initialized()
    with redirect_stdout(sys.stderr):
        try:
            if ours:
                _start(ray, address, workers and workers * threads)
            resources = ray.cluster_resources()
            cpus, gpus = int(resources.get("CPU", 0)) // threads, int(resources.get("GPU", 0))
            on_gpus = device.startswith("cuda") or (device == "auto" and gpus > 0)
            most = min(cpus, gpus) if on_gpus else cpus
            wanted = most if workers is None else workers
            if not 1 <= wanted <= most:
                raise StmError(
                    f"the Ray cluster at {address!r} has {gpus} GPU(s), and CPUs for {cpus} actor(s) of {threads} "
                    f"thread(s): too little for {max(wanted, 1)} on {device}; give --ray-workers, --threads and "
                    "--device for which there is room"
                )
            yield Cluster(wanted, on_gpus, threads)
        finally:
            if ours:
                ray.shutdown()


def _import_ray(address: str) -> Any:
    """Return the module; what it reads from the environment has to be there before it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to nobody
    if address == LOCAL and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise StmError("ray is not installed; run: pip install 'stm-rl[ray]'") from error
    return ray


def _start(ray: Any, address: str, cpus: int | None) -> None:
    """Connect to a cluster; a local one is started with ``cpus``, or as many as there are."""
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}
    try:
        if address != LOCAL:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), 10).close()  # Ray itself tries for many minutes
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StmError(
            f"cannot use the Ray cluster at {address!r} ({reason}); give the address that `ray start --head` "
            f"printed, such as 10.0.0.1:6379, or {LOCAL!r} for this machine"
        ) from error
