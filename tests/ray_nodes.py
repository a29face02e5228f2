"""What the Ray nodes that tests start have in common. Not a test module."""

from typing import Any

SMALL_NODE: dict[str, Any] = {"object_store_memory": 100 << 20}
NOTICES_LOSS_SOON: dict[str, Any] = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}
"""For the head, which by itself asks its machines every three seconds."""
