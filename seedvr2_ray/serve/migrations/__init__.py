"""How the tables came to be, one step per file of ``versions``; run by ``open_database`` in ``serve/database.py``."""
