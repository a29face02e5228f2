"""Finishing, publishing and cleaning as tasks of Ray: started when something makes them possible, told of when done."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from seedvr2_ray.batch.execution.cluster import SettledPool
from seedvr2_ray.batch.execution.finishing import PartOrder, finish_part, publish_video, remove_work
from seedvr2_ray.batch.execution.head import HeadLostError
from seedvr2_ray.batch.execution.tracker import CleaningOrder, Order
from seedvr2_ray.batch.job import Job
from seedvr2_ray.restoration.work.failures import Failure, describe_failure

_MOST_CLEANED = 64
"""Contents whose work one task removes."""


@dataclass(frozen=True, slots=True)
class OrderDone:
    """The event that an order was carried out, or could not be."""

    order: Order
    result: Any


class Tasks:
    """CPU tasks for orders; so many at a time that the cluster is busy and no more."""

    def __init__(self, job: Job, pool: SettledPool, put: Callable[[OrderDone], object]) -> None:
        """Start with nothing to do.

        Args:
            put: told of every order that is done, by a thread of Ray's; must not block.
        """
        # Their names are what Ray's dashboard and ``ray list tasks`` show.
        self._finish = _task("finishing", finish_part, pool)
        self._publish = _task("publishing", publish_video, pool)
        self._clean = _task("cleaning", remove_work, pool)
        self._job = ray.put(job)
        self._put = put
        self._waiting: deque[PartOrder | Any] = deque()
        self._to_clean: deque[str] = deque()
        self._is_cleaning = False
        self._running: dict[int, tuple[Any, Order]] = {}
        self._most = pool.num_tasks

    def __enter__(self) -> "Tasks":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is HeadLostError:
            return
        for task, _order in self._running.values():  # None is left of a pass that came to its end.
            ray.cancel(task)

    @property
    def num_waiting(self) -> int:
        """Orders that are not done; what is to be cleaned holds nobody up and is not among them."""
        return len(self._waiting) + len(self._running) - self._is_cleaning

    @property
    def is_idle(self) -> bool:
        """Whether everything that was ordered is done."""
        return not (self._waiting or self._running or self._to_clean)

    def order(self, orders: Iterable[Order]) -> None:
        """Take orders; start as many as may run."""
        for order in orders:
            if isinstance(order, CleaningOrder):
                self._to_clean.extend(order.contents)
            else:
                self._waiting.append(order)
        self._start()

    def done(self, event: OrderDone) -> OrderDone:
        """Note that an order is done, which makes room for another."""
        self._running.pop(id(event.order), None)
        self._is_cleaning = self._is_cleaning and not isinstance(event.order, CleaningOrder)
        self._start()
        return event

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._most:
            order = self._waiting.popleft()
            task = self._finish if isinstance(order, PartOrder) else self._publish
            self._run(task.remote(order, self._job), order)
        if self._to_clean and not self._is_cleaning:
            self._is_cleaning = True
            cleaned = CleaningOrder(
                tuple(self._to_clean.popleft() for _ in range(min(_MOST_CLEANED, len(self._to_clean))))
            )
            self._run(self._clean.remote(cleaned.contents, self._job), cleaned)

    def _run(self, task: Any, order: Order) -> None:
        self._running[id(order)] = (task, order)
        task.future().add_done_callback(partial(self._tell, order))

    def _tell(self, order: Order, future: "Future[Any]") -> None:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, ray.exceptions.TaskCancelledError):
            return
        self._put(OrderDone(order, future.result() if error is None else _died(order, error)))


def _task(name: str, function: Callable[..., Any], pool: SettledPool) -> Any:
    task: Any = ray.remote(num_cpus=pool.task_cpus, max_retries=3)(function)
    return task.options(name=name)


def _died(order: Order, error: BaseException) -> Failure:
    failure = describe_failure("finish" if isinstance(order, PartOrder) else "assemble", error)
    return replace(failure, consequence="later")
