"""Gangs whose ranks are Ray actors: where they are placed, started, asked after and ended."""
