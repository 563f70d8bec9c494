"""What an exam session is: people, facts, order, rosters, how long to keep.

Enters: facts and rosters. Leaves: states, verdicts, dates. Standard library only (plus rfc8785), so that an auditor can be
handed this folder. Callers: `room`, `storage`, `evidence`, `idcheck`, `capture`.
"""
