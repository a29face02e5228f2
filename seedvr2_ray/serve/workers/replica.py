"""The restorer behind a Serve handle: one loaded model, one segment at a time. An ordinary class without Ray in it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.garbage import loaded_for_good
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, close_restorer
from seedvr2_ray.restoration.work.failures import leaves_device_unusable
from seedvr2_ray.serve.live.order import LiveOrder
from seedvr2_ray.serve.observability.instrumentation import Instrumentation
from seedvr2_ray.serve.workers.identities import remember_identity
from seedvr2_ray.serve.workers.protocol import SegmentEvent, SegmentOrder
from seedvr2_ray.serve.workers.scratch_cleanup import keep_tidy
from seedvr2_ray.serve.workers.segment_stream import SegmentCall
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.serve.live.replica_call import LiveCall

_log = logging.getLogger(__name__)

_PING_SECONDS = 5.0


class RestorerReplica:
    """Holds a model and restores what it is ordered. Everything that takes time happens in threads."""

    def __init__(
        self, layout: StorageLayout, model: str, stall_seconds: float, instrumentation: Instrumentation | None = None
    ) -> None:
        """Load the model, so that a replica which is up is ready.

        A model that cannot be had is no reason to start again and again: those who order something are told.

        Args:
            stall_seconds: a segment that shows no sign of life for so long makes the replica unhealthy.
            instrumentation: how this process is watched; not at all when not given.
        """
        if instrumentation is not None:
            instrumentation.start(f"restorer-{model}")
        self._layout = layout
        keep_tidy(layout)
        self._model = model
        self._stall_seconds = stall_seconds
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="restorer")
        self._turn = asyncio.Lock()
        self._call: SegmentCall | None = None
        self._live: LiveCall | None = None
        self._broken: str | None = None
        self._revival: Future[None] | None = None
        self._restorer: Restorer | None = None
        try:
            self._restorer = self._load()
        except DeploymentError as error:
            _log.error("%s cannot be loaded: %s", model, error)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits without loading the model again."""
        limits = user_config.get("limits", {})
        self._stall_seconds = float(limits.get("stall_seconds", self._stall_seconds))

    async def identify(self) -> RestorerIdentity:
        """Say who restores here.

        Raises:
            DeploymentError: the model cannot be had.
        """
        return (await self._loaded()).identity

    async def restore(self, order: SegmentOrder) -> AsyncGenerator[SegmentEvent, None]:
        """Restore a segment and say how far it is; closing the generator stops it within a batch of frames."""
        async with self._turn:
            await self._end_of_last_call()
            call = self._call = SegmentCall(self._layout, order, await self._loaded(), self._threads)
            events = call.events()
            try:
                async for item in events:
                    yield item
            except Exception as error:
                self._note_device(error)
                raise
            finally:
                await events.aclose()

    async def live(self, order: LiveOrder, relay: Any) -> AsyncGenerator[str, None]:
        """Restore a live stream for as long as it lasts; closing the generator ends it."""
        from seedvr2_ray.serve.live.replica_call import LiveCall, RelayActor  # Loads torch; a replica has it by now.

        async with self._turn:
            await self._end_of_last_call()
            call = self._live = LiveCall(await self._loaded(), order, RelayActor(relay), self._threads)
            signs = call.events()
            try:
                async for sign in signs:
                    yield sign
            except Exception as error:
                self._note_device(error)
                raise
            finally:
                await signs.aclose()
                await asyncio.gather(asyncio.wrap_future(call.thread), return_exceptions=True)
                self._live = None

    def _note_device(self, error: Exception) -> None:
        if leaves_device_unusable(error):
            self._broken = str(error)
            _log.error("CUDA failed and cannot recover in this process: %s", error)

    async def check_health(self) -> None:
        """Fail when only a new process helps. Answers at once, whatever the threads are doing.

        Raises:
            RuntimeError: the device is unusable, or a segment, or a stream that is to end, has shown no sign of life
                for too long.
        """
        if self._broken is not None:
            raise RuntimeError(f"the device is unusable: {self._broken}")
        await self._check_gang()
        for call in (self._call, self._live):
            # Whoever ordered it gives up first, and says why.
            if call is not None and not call.thread.done() and call.silent_seconds > 1.25 * self._stall_seconds:
                raise RuntimeError(f"what is restored has shown no sign of life for {call.silent_seconds:.0f} s")

    async def _check_gang(self) -> None:
        """Start a gang again that was lost between two segments; while one is at work, its leader watches it."""
        gang = self._restorer
        if not isinstance(gang, GangRestorer):
            return
        if self._revival is not None:
            if not self._revival.done():
                return
            revival, self._revival = self._revival, None
            if (error := revival.exception()) is not None:
                raise RuntimeError(f"the gang cannot be started again: {error}")
        if self._call is None or self._call.thread.done():
            loss = await asyncio.to_thread(gang.ask_after, _PING_SECONDS)
            if loss is not None:
                _log.warning("the gang is started again: %s", loss)
                self._revival = self._threads.submit(gang.revive)

    async def _end_of_last_call(self) -> None:
        """A segment that was stopped goes on to its next batch of frames; two at once would not fit."""
        if self._call is not None and not self._call.thread.done():
            # Whatever it ended with was told to whoever wanted it.
            await asyncio.gather(asyncio.wrap_future(self._call.thread), return_exceptions=True)

    def __del__(self) -> None:
        """End the processes of a gang before the replica goes."""
        close_restorer(getattr(self, "_restorer", None))

    async def _loaded(self) -> Restorer:
        if self._restorer is None:
            # What was missing may be there by now.
            self._restorer = await asyncio.get_running_loop().run_in_executor(self._threads, self._load)
        return self._restorer

    def _load(self) -> Restorer:
        with loaded_for_good():
            restorer = self._layout.restorers.load(RestoreSettings(model=self._model))
        remember_identity(self._layout.data, self._model, restorer.identity)
        return restorer
