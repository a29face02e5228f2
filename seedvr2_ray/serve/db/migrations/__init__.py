"""How the tables came to be, one step per file of ``versions``; run by ``open_database`` of ``database.py``."""
