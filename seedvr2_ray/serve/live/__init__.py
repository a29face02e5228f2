"""Live streams of callers: relayed between their socket and the replica that restores them."""
