"""The verbs of the `edge` command, grouped by what they are about; `edge/__main__.py` gathers them.

Each module's `add` declares its verbs, and holds them: what a verb takes from the words of the command and from the configuration, and
nothing of what it does. The parts that do it are imported inside the verb, so that none pays for another. `verb` and `configuration` have
what all of them need.
"""
