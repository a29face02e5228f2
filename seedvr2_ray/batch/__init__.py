"""An archive through Ray Data: manifest, plan, restore, finish, publish, report. Safe to stop and to run again."""
