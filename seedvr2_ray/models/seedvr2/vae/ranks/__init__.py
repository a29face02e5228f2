"""Frames spread over several devices by rows: what neighbours and all of them hand each other, exactly."""
