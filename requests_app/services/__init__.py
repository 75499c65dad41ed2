"""The only writers of the legal record.

Every function is one change: one transaction, one row lock, one lifecycle check, one audit entry.
Callers: views, tasks and commands. Model work is started by task name, after commit, with ids only.
"""
