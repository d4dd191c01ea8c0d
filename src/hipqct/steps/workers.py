"""Work in several processes, of which nothing is left waiting when something goes wrong."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from hipqct.errors import HipqctError


def run_in_processes(
    processes: int,
    function: Callable,
    calls: Iterable[tuple],
    on_done: Callable[[int], None] = lambda done: None,
) -> list:
    """Results of ``function`` for every tuple of arguments in ``calls``, in their order.

    An error of a call or of ``on_done``, or Ctrl-C, ends the work with the calls that have begun: those that
    wait are dropped.

    Args:
        on_done: called with the number of calls that are done, after each.

    Raises:
        HipqctError: a process was killed.
    """
    with ProcessPoolExecutor(processes) as pool:
        try:
            jobs = [pool.submit(function, *arguments) for arguments in calls]
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                on_done(done)
        except BrokenProcessPool as error:
            raise HipqctError(
                "a worker was killed, mostly for want of memory: use fewer --processes; what is done stays"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [job.result() for job in jobs]
