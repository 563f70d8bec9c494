"""Which configuration a verb goes by, and `edge config`, which prints what there is to configure."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.verb import verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.config import Config

SITE_CONFIG = Path("/etc/edge/edge.toml")
CONFIG = "configuration file"
CONFIG_OR = f"configuration file (default: $EDGE_CONFIG, {SITE_CONFIG}, or the demo's)"


def add(verbs: Verbs) -> None:
    """`edge config`."""
    verb(verbs, "config", _print, "print every configuration key, its default and its meaning", described=True)


def site_config() -> Path | None:
    """The file that this machine has been given; None on a desk."""
    named = os.environ.get("EDGE_CONFIG")
    if named:
        return Path(named)
    return SITE_CONFIG if SITE_CONFIG.exists() else None


def config_path(args: argparse.Namespace) -> Path:
    """The file: as named, else the site's, else the demo's (which need not exist yet)."""
    path: Path | None = args.config or site_config()
    if path is None:
        from edge import demo
        path = demo.config_path(demo.default_folder())
    return path.resolve()


def load(args: argparse.Namespace) -> Config:
    """The configuration, checked. ConfigError in words if it is none."""
    from edge import config
    return config.load(config_path(args))


def pinned(config: Config) -> str | None:
    """The identity of the storage that this room records on; None if it never was pinned."""
    from edge.capture import storage_id
    return storage_id.pinned(config.paths.state)


def _print(args: argparse.Namespace) -> int:
    from edge.config import table
    print(table(), end="")
    return 0
