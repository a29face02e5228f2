"""A gang: several processes, a device each, that behave as one restorer; knows no Ray."""
