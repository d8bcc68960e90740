"""Many jobs at once, here or on the machines of a Ray cluster, a bar of their progress, and memory that stays flat."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from errors import InputError

ROOT = Path(__file__).parent
ROOMS = "models experts faces media corpora evaluation"
SENT = ("*.py", "weights/whisper*.safetensors", *(f"{room}/**/*.*" for room in ROOMS.split()))  # to a cluster
MALLOC = {  # what glibc's malloc is told, in bytes, by its numbers in malloc.h
    -3: 2 << 20,  # M_MMAP_THRESHOLD: larger blocks, frames among them, are the system's, mapped and unmapped each time
    -1: 64 << 20,  # M_TRIM_THRESHOLD: as much that is free at the end of the heap stays there
    -2: 16 << 20,  # M_TOP_PAD: what the heap grows by beyond what is asked for
}
SELDOM_S = 30  # between two lines of progress where there is no terminal to show a bar

STOPS = {signal.SIGINT, signal.SIGTERM}
GRACE_S = 5  # that a worker has to put its item back, once its parent is no more

_job = None  # of this process
_at_work, _stopped, _ends = False, False, False  # an item is being done; no other is begun; nor is the process needed


def processors():
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local(make, items, workers):
    """Yields `make()(item)` for every item, as they are done, from `workers` processes of this machine.

    make: called once in each process, so picklable; the job it returns is kept there. When the caller stops early,
    items that have begun are finished and the others are not begun; when the user stops the run or a worker, and when
    the caller's process ends, a KeyboardInterrupt comes to the jobs that are at work.
    Raises InputError if a process dies.
    """
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)  # closed, it tells the workers to stop
    how = {"mp_context": context, "initializer": _begin, "initargs": (make, reader)}
    with reader, writer, ProcessPoolExecutor(workers, **how) as pool:
        try:
            jobs = _submitted(pool, items)
            for job in as_completed(jobs):
                yield job.result()
        except BrokenProcessPool as error:
            why = "a worker process died, for want of memory perhaps"
            raise InputError(f"{why}: run it again with fewer --workers, it resumes where it was") from error
        except KeyboardInterrupt:
            writer.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool, items):
    """The jobs of all items. A stop waits until they are: processes take it only once they are set up."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return [pool.submit(_do, item) for item in items]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(make, reader):
    """Sets a worker process up. It stops when its parent says so, and ends when its parent does, however that ended."""
    global _job

    def watch():
        wait([parent_process().sentinel, reader])
        os.kill(os.getpid(), signal.SIGINT if parent_process().is_alive() else signal.SIGTERM)
        parent_process().join()
        time.sleep(GRACE_S)
        os._exit(1)

    for number in STOPS:
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=watch, daemon=True).start()
    _job = make()


def _stop(number, _):
    """Stops the item that is being done; SIGTERM ends the process too."""
    global _stopped, _ends
    _stopped, _ends = True, _ends or number == signal.SIGTERM
    if _at_work:
        raise KeyboardInterrupt
    if _ends:
        os._exit(1)


def _do(item):
    global _at_work
    if _stopped:
        raise KeyboardInterrupt
    try:
        _at_work = True
        return _job(item)
    except KeyboardInterrupt:
        if _ends:
            os._exit(1)
        raise
    finally:
        _at_work = False


def on_ray(make, items, address, workers=None):
    """Yields as `local`, from a Ray cluster: `address` is that of its head, "auto", or "local" for this machine alone.

    workers: at most so many at once, of one free processor each; by default all there are. The files that `items` name
    must have the same paths on all machines; our code is sent there.
    Raises InputError without the package, the cluster or a free processor, or when a worker dies.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise InputError("--ray: the package is missing: pip install ray, as in requirements-extra.txt") from error
    with TemporaryDirectory() as folder:
        for path in (path for pattern in SENT for path in ROOT.glob(pattern) if path.parent.name != "__pycache__"):
            target = Path(folder) / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, target)
        code = {"working_dir": folder}
        try:
            ray.init(address=address, runtime_env=code, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray {address}: no cluster there ({' '.join(str(error).split())[:200]})") from error
    try:
        free = int(ray.available_resources().get("CPU", 0))
        if not free:
            raise InputError(f"--ray {address}: no processor of the cluster is free")
        workers = min(workers or free, free)  # one that never starts would be waited for
        actors = [ray.remote(num_cpus=1)(Actor).remote(make) for _ in range(workers)]
        yield from ActorPool(actors).map_unordered(lambda actor, item: actor.do.remote(item), items)
    except ray.exceptions.RayActorError as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"--ray: a worker died ({why}): run it again, it resumes where it was") from error
    finally:
        ray.shutdown()


class Actor:
    """A worker of a Ray cluster: keeps a job and does it for one item after another."""

    def __init__(self, make):
        self.job = make()

    def do(self, item):
        """The job, done for one item."""
        return self.job(item)


def ahead(items, depth=4):
    """Yields the items of an iterator, none of which is None, while another thread makes the next `depth` of them."""
    items = iter(items)
    with ThreadPoolExecutor(1) as other:
        waiting = deque(other.submit(next, items, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(other.submit(next, items, None))
            yield item


def steady_memory():
    """Keeps memory flat over a long video: freed frames go back to the system at once, what is smaller stays.

    Otherwise glibc soon keeps arrays of a frame's size in its heap, where small ones that stay fragment it. Once told
    where that begins, it would give back every 128 KiB freed at the heap's end too, to have them filled with zeros
    again for the next call of a network: docs/speed.md has what that costs.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
        for option, size in MALLOC.items() if mallopt else ():
            mallopt(option, size)


def progress_bar(total, unit, **how):
    """A tqdm bar on stderr; where that is a file or a pipe, a whole line now and then instead of thousands of updates.

    how: other arguments of tqdm.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(total=total, unit=unit, **how)

    class Lines(tqdm):
        """tqdm that writes whole lines."""

        def display(self, *_, **__):
            """Writes the state of the bar as a line."""
            print(self, file=self.fp, flush=True)

        def clear(self, *_, **__):
            """Does nothing: what is written stays."""

    lines = {"mininterval": SELDOM_S, "maxinterval": 2 * SELDOM_S, "ncols": 80}
    # Without `leave`, closing writes one line and no more; without smoothing, that line has the rate of the whole.
    return Lines(total=total, unit=unit, leave=False, smoothing=0, **lines, **how)
