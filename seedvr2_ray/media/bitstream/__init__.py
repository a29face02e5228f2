"""Codecs' and containers' own bytes: units, messages, checksums and flags that libav does not tell of."""
