"""From restored frames to a finished file: encoders, segments, images, joins, the clock of all tracks, verification."""
