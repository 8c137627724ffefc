"""Work on the parts of a stream while the next ones move: a bounded `map` in a thread of its own.

Hashing, reading and writing leave Python to other threads, so that they take their turns beside the network.
A second thread was no faster, for what is left is Python's.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def overlapped(work: Callable[[Part], Result], parts: Iterable[Part], *, ahead: int) -> Iterator[Result]:
    """Yield the results in the order of the parts; `parts` is drawn from by the caller's thread alone.

    When it ends, in whatever way, no work is under way any more, and every part that was drawn has been
    worked on. Where the work on a part failed, that is what is raised, even if the stream of parts broke too.

    Args:
        work: done in the other thread, a part at a time.
        parts: a stream.
        ahead: how many parts may be drawn before the work on the first of them is waited for.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="overlap") as pool:
        begun: deque[Future[Result]] = deque()
        try:
            for part in parts:
                begun.append(pool.submit(work, part))
                if len(begun) > ahead:
                    yield begun[0].result()
                    begun.popleft()
        except Exception:
            for one in begun:
                one.result()
            raise
        for one in begun:
            yield one.result()
