"""Colour matching and transparency: what is done to restored pictures beside the networks."""
