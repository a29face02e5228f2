"""``seedvr2-ray batch`` and its verbs, and what they show. May import what the command line may."""
