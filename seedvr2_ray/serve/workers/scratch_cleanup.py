"""Every machine's scratch folder is kept tidy by the replicas that live there, for as long as one of them does."""

import logging
import threading
import time

from seedvr2_ray.serve.workers.storage_layout import StorageLayout

_log = logging.getLogger(__name__)

_EVERY_SECONDS = 600.0


def keep_tidy(layout: StorageLayout) -> None:
    """Delete what nobody needs any more, now and every few minutes, in a thread that ends with the process."""

    def tidy() -> None:
        while True:
            try:
                layout.remove_abandoned()
            except OSError as error:
                _log.warning("the scratch folder cannot be tidied now: %s", error)
            time.sleep(_EVERY_SECONDS)

    threading.Thread(target=tidy, name="scratch-cleanup", daemon=True).start()
