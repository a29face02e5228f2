"""From restored frames to a finished file: encoders, encoded segments, joins, verification."""
