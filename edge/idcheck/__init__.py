"""The ID-card reader at the door: who is this person, as far as the card's chip can say.

Enters: bytes of an SDT/SAM_V reader, over a serial line or USB. Leaves: `CardSeen`, `CardUnreadable`, `ReaderLost`, `ReaderBack`,
through the `report` that `reader.Reader` was given. Callers: `config` names the port, `app` builds the reader; `doctor_reader` takes a
`trial`; `sim` speaks `wire` and `card` turned round.
Never asks for fingerprints; keeps the photo's bytes nowhere.
"""
