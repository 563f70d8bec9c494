"""`edge key`: the device's signing key, its certificate, and the key that is to follow. The keyring does it; nothing here keeps a key."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import CONFIG, load
from edge.commands.verb import Refused, group, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.config import Config


def add(verbs: Verbs) -> None:
    """init, csr, install, roll, status."""
    key = group(verbs, "key", "the device's signing key: init, csr, install, roll, status")

    def make(name: str, run: object, text: str) -> argparse.ArgumentParser:
        v = verb(key, name, run, text, config=CONFIG, described=True)
        v.add_argument("--device", help="the device's id (default: that of the certificate in force, else the room's code with -E1)")
        return v

    v = make("init", _init, "make the device key (never twice) and print a certificate request")
    _place(v)
    v.add_argument("--sm2", action="store_true", help="the key of the second signature (evidence.sm2_key) instead")
    v = make("csr", _csr, "print a new certificate request for a key there is")
    v.add_argument("--next", action="store_true", help="for the key that is to follow")
    v.add_argument("--sm2", action="store_true", help="for the key of the second signature")
    v = verb(key, "install", _install, "put an issued certificate and the authority's root in place", config=CONFIG)
    v.add_argument("--certificate", type=Path, required=True, help="PEM chain: the device's leaf, then intermediates")
    v.add_argument("--root", type=Path, help="PEM of the authority's root (the first time; later the one in force)")
    v = make("roll", _roll, "make the key that is to follow the one in force, and print its certificate request")
    _place(v)
    v.add_argument("--withdraw", action="store_true", help="only this: take back what waits to follow")
    v = verb(key, "status", _status, "key, certificate, days left, what waits to follow; signs, to see that it does", config=CONFIG)
    v.add_argument("--json", action="store_true", help="one JSON object")


def _place(v: argparse.ArgumentParser) -> None:
    v.add_argument("--place", choices=("file", "credential", "tpm2", "pkcs11"), default="file", help="where it lives (default file)")
    v.add_argument("--module", type=Path, help="pkcs11: the maker's library")
    v.add_argument("--token", default="", help="pkcs11: the token's label")
    v.add_argument("--pin-file", type=Path, help="pkcs11: file with the token's PIN, mode 0600")
    v.add_argument("--sealed-to", choices=("host", "tpm2", "host+tpm2"), default="host", help="credential: to what (default host)")


def _init(args: argparse.Namespace) -> int:
    config = load(args)
    if args.sm2:
        return _sm2_init(args, config)
    from edge import keyring
    from edge.credentials import files_of
    _make_and_request(args, config.in_state(config.evidence.key), _device(args, config))
    keyring.hand_over(files_of(config))
    print("send this request to the authority; then: edge key install --certificate … --root …", file=sys.stderr)
    return 0


def _roll(args: argparse.Namespace) -> int:
    from edge import keyring
    from edge.credentials import files_of
    config = load(args)
    files = files_of(config)
    try:
        if args.withdraw:
            print("taken back; the key in force goes on" if keyring.withdraw(files) else "nothing waits to follow; nothing was changed")
            return 0
    except keyring.Unfit as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    if not files.certificate.exists():
        raise Refused("the key in force has no certificate yet: edge key install. Nothing was changed.")
    _make_and_request(args, files.next_key, _device(args, config))
    keyring.hand_over(files)
    print("send this request to the authority; then: edge key install --certificate …. Until then the key in force goes on signing",
          file=sys.stderr)
    return 0


def _make_and_request(args: argparse.Namespace, path: Path, device: str) -> None:
    from edge.evidence import keys, signers
    try:
        keys.san_uri("device", device)
        key = signers.make_key(path, args.place, module=args.module and args.module.resolve(), token=args.token,
                               pin=args.pin_file and args.pin_file.resolve(), sealed_to=args.sealed_to)
        sys.stdout.write(keys.request(signers.Borrowed(key), device).decode())
    except FileExistsError as error:
        raise Refused(f"{path} exists: there is a key already, and nothing was changed. For a new request of the same key: edge key csr"
                      f"{' --next' if path.name.startswith(signers.NEXT) else ''}.") from error
    except (signers.SignerFault, ValueError) as error:
        raise Refused(f"{error}. No key is in force that was not before.") from error


def _csr(args: argparse.Namespace) -> int:
    from edge.credentials import files_of
    from edge.evidence import keys, signers, sm2
    config = load(args)
    try:
        if args.sm2:
            if config.evidence.sm2_key is None:
                raise Refused("evidence.sm2_key is not set: there is no second signature here")
            sys.stdout.write(sm2.sm2_request(config.in_state(config.evidence.sm2_key), _device(args, config)).decode())
            return 0
        path = files_of(config).next_key if args.next else config.in_state(config.evidence.key)
        sys.stdout.write(keys.request(signers.Borrowed(signers.open_key(path)), _device(args, config)).decode())
    except (OSError, ValueError, sm2.Sm2Fault) as error:
        raise Refused(f"{error}. `edge key init` makes the key, `edge key roll` the next one.") from error
    return 0


def _sm2_init(args: argparse.Namespace, config: Config) -> int:
    from edge import durable
    from edge.evidence import keys, sm2
    if config.evidence.sm2_key is None:
        raise Refused("name the key's file first: evidence.sm2_key, sm2_certificate and sm2_distid of the configuration. Nothing was made.")
    path = config.in_state(config.evidence.sm2_key)
    try:
        keys.san_uri("device", _device(args, config))
        durable.make_folder(path.parent)
        durable.write_new(path, sm2.make_sm2_key(), 0o600)
        sys.stdout.write(sm2.sm2_request(path, _device(args, config)).decode())
    except FileExistsError as error:
        raise Refused(f"{path} exists: there is an SM2 key already, and nothing was changed") from error
    except (ValueError, sm2.Sm2Fault) as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    chain = config.in_state(config.evidence.sm2_certificate or path)
    print(f"send this request to the authority; put the chain that comes back at {chain}", file=sys.stderr)
    return 0


def _install(args: argparse.Namespace) -> int:
    from edge import keyring
    from edge.clock import SystemClock
    from edge.credentials import files_of
    from edge.evidence.signers import SignerFault
    config = load(args)
    files = files_of(config)
    if args.root is None and not files.root.exists():
        raise Refused("the authority's root is needed: --root. Nothing was changed.")
    try:
        word = keyring.install(files, args.certificate.read_bytes(), (args.root or files.root).read_bytes(), SystemClock().now().utc_us)
    except (ValueError, SignerFault) as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    keyring.hand_over(files)
    print({"installed": "installed; restart the room (systemctl restart edge)",
           "same": "this certificate is in force already; the root was put in place",
           "staged-renewal": "it takes over when the room starts next while no session is under way (systemctl restart edge)",
           "staged-key": "the next key takes over when the room starts next while no session is under way (systemctl restart edge); "
                         "the key in force signs that"}[word])
    return 0


def _status(args: argparse.Namespace) -> int:
    from edge import keyring
    from edge.clock import SystemClock
    from edge.credentials import files_of
    config = load(args)
    found = keyring.status(files_of(config), SystemClock().now().utc_us, lambda signer: signer.sign(b"edge key status"))
    if args.json:
        print(json.dumps({"ok": not found.todo, "lines": [list(each) for each in found.lines], "todo": list(found.todo)},
                         ensure_ascii=False))
    else:
        print("\n".join([*(f"{title:<24}{text}" for title, text in found.lines), *(f"TO DO: {each}" for each in found.todo)]))
    return 1 if found.todo else 0


def _device(args: argparse.Namespace, config: Config) -> str:
    """As asked for; else as the certificate in force has it: a device keeps its name."""
    from edge.credentials import files_of
    from edge.keyring import device_of
    return args.device or device_of(files_of(config)) or f"{config.room.code}-E1"
