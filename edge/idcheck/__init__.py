"""The ID-card reader at the door: who is this person, as far as the card's chip can say.

Enters: bytes of a serial SDT/SAM_V reader. Leaves: `CardSeen`, `CardUnreadable`, `ReaderLost`, `ReaderBack`, through the `report`
that `reader.Reader` was given. Callers: `app` builds port and reader; `sim.card_reader` speaks `wire` and `card` turned round.
Never asks for fingerprints; keeps the photo's bytes nowhere.
"""
