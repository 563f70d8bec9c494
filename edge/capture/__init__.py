"""Pictures and sound onto the disk: one process per stream, one file and one sidecar per minute, nothing lost on the way.

Enters: packets of a camera, blocks of a microphone, or the pattern's own frames. Leaves: segments below the footage folder, a
status file per stream, and, on the room's side, one call per finished segment. `recorder` and `worker` are for `edge recorder`;
`intake`, `control`, `sidecar` and `storage_id` are for the room as well and load neither PyAV nor OpenCV nor NumPy.
"""
