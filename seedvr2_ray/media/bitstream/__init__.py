"""Codecs' and containers' own bytes: units, checksums and flags that libav does not tell of."""
