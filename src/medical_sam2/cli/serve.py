"""`medsam2 serve`: a page on this machine to click, see the outline, correct it and download it."""

import errno
import os
import re
import secrets
import socket
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from medical_sam2.cli.options import FLAG, REPEATED
from medical_sam2.errors import ConfigError, InputError
from medical_sam2.intensity_window import named_window
from medical_sam2.io import registry
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import LOOPBACK, ServerSettings
from medical_sam2.server.users import read_users

if TYPE_CHECKING:
    from medical_sam2.segmenter import Segmenter

PASSWORD = "MEDSAM2_PASSWORD"  # noqa: S105 - the name of a variable
PORT, TRIES = 8421, 20
ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")


@Parameter(name="*", group=Group("Who may come in", sort_key=1))
@dataclass(frozen=True)
class Reach:
    """From where the page may be asked for.

    Args:
        host: address to bind to; any other than this machine's own needs a password.
        port: of the page; the next free one from 8421 unless given.
        name: further host name under which the page is asked for; again for more.
        allow_origin: address of a viewer's page elsewhere that may use the protocols (such as OHIF); again for more.
        password_file: file with the password; the environment variable MEDSAM2_PASSWORD works too.
        users: file of users, one a line (`python -m medical_sam2.server.users NAME`), who sign in by name and password.
        read_only_link: print a second address, by which people may look and change nothing.
        root_path: path below which a reverse proxy offers the page, such as /medsam2.
        trusted_proxy: address of a reverse proxy whose X-Forwarded-Host and X-Forwarded-Proto count; again for more.
        certificate: file of a TLS certificate.
        key: file of its key.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    name: Annotated[tuple[str, ...], REPEATED] = ()
    allow_origin: Annotated[tuple[str, ...], REPEATED] = ()
    password_file: Path | None = None
    users: Path | None = None
    read_only_link: Annotated[bool, FLAG] = False
    root_path: str = ""
    trusted_proxy: Annotated[tuple[str, ...], REPEATED] = ()
    certificate: Path | None = None
    key: Path | None = None


@Parameter(name="*", group=Group("Method", sort_key=2))
@dataclass(frozen=True)
class Machine:
    """What computes.

    Args:
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        engine: what runs the image encoder: torch, or openvino (an extra), which takes less time on a processor.
        pool_memory: as of `medsam2 segment`: less time with SAM 2 at 1024 pixels, for answers that differ a little.
        threads: of the processor.
        features_mb: memory for what the network saw of the slices.
    """

    weights: str = "nano"
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    pool_memory: int | None = None
    threads: int | None = None
    features_mb: float = 1024.0


@Parameter(name="*", group=Group("Sessions", sort_key=3))
@dataclass(frozen=True)
class Keeping:
    """What is kept, and how much.

    Args:
        state: folder of the sessions; they are kept until they are closed.
        keep_days: after which a session that nobody touched is removed.
        most_sessions: that may be kept, those among them that nobody looks at.
        most_upload_mb: of one session.
    """

    state: Path | None = None
    keep_days: float = 7.0
    most_sessions: int = 24
    most_upload_mb: int = 4096


def serve(
    what: Path | None = None,
    /,
    *,
    reach: Reach = Reach(),
    machine: Machine = Machine(),
    keeping: Keeping = Keeping(),
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "auto",
    format: Annotated[tuple[str, ...], REPEATED] = (),
    pacs: str = "",
    no_browser: Annotated[bool, FLAG] = False,
) -> None:
    """Open a page on this machine: click, see the outline, correct it, download it.

    Args:
        what: image file, or folder of images, to be opened from the page; others can be dropped on it.
        window: of intensities, for all that is opened: auto, percentile, soft, lung, bone, brain, or LOW,HIGH.
        format: further format for results, a plug-in (module:attribute, file.py:attribute); again for more.
        pacs: address of a DICOMweb server from which series may be opened.
        no_browser: do not open a browser.
    """
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise ConfigError("the page needs FastAPI and uvicorn", "pip install 'medical-sam2[serve]'")
    from medical_sam2.server import app  # needs the extra "serve"

    if what is not None and not what.exists():
        raise InputError("there is no such file or folder", "check the path", subject=what)
    named_window(window)
    registry.written(plugins=format)  # before anything is opened: a plug-in that cannot be loaded is refused
    settings = replace(_settings(what, reach, keeping), window=window, formats=format, pacs=pacs)
    queue = InferenceQueue(lambda: _load_segmenter(machine))
    files = {name: str(path) if path else None for name, path in (("certificate", reach.certificate), ("key", reach.key))}
    app.serve(settings, queue, **files, browser=not no_browser and sys.stderr.isatty())


def _settings(what: Path | None, reach: Reach, keeping: Keeping) -> ServerSettings:
    secret, users = _read_password(reach.password_file), read_users(reach.users) if reach.users else {}
    if (reach.host not in LOOPBACK or reach.trusted_proxy) and not secret and not users:
        way = "--trusted-proxy: the page" if reach.trusted_proxy else f"--host {reach.host}"
        problem = f"{way} can be reached from other machines, and there is no password"
        raise ConfigError(problem, f"give --users, --password-file or {PASSWORD}")
    _check_proxy(reach)
    return ServerSettings(
        state=keeping.state or _state_folder(),
        library=what,
        host=reach.host,
        port=reach.port if reach.port is not None else _free_port(reach.host),
        names=reach.name,
        origins=reach.allow_origin,
        token=secrets.token_urlsafe(32),
        password=secret,
        users=users,
        read_token=secrets.token_urlsafe(32) if reach.read_only_link else "",
        root_path=reach.root_path.rstrip("/"),
        trusted_proxies=reach.trusted_proxy,
        most_sessions=keeping.most_sessions,
        most_upload_mb=keeping.most_upload_mb,
        keep_days=keeping.keep_days,
    )


def _check_proxy(reach: Reach) -> None:
    if reach.root_path.rstrip("/") and not ROOT_PATH.fullmatch(reach.root_path.rstrip("/")):
        raise ConfigError("--root-path is no path", "give one such as /medsam2, of letters, digits and . _ ~ -")
    for address in reach.trusted_proxy:
        try:
            ip_address(address)
        except ValueError:
            raise ConfigError("--trusted-proxy is no address", "give an address such as 127.0.0.1, not a name") from None


def _load_segmenter(machine: Machine) -> "Segmenter":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait leave the cores to others
    from medical_sam2.segmenter import load_by_settings  # takes seconds to load: the page opens before

    return load_by_settings(vars(machine), keep_mb=machine.features_mb)


def _read_password(file: Path | None) -> str:
    if file is None:
        return os.environ.get(PASSWORD, "")
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        raise InputError("cannot be read", "check the path and its permissions", subject=file) from None
    if len(text) < 8:
        raise InputError("its password is shorter than 8 letters", "use a longer one", subject=file)
    return text


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "medsam2" / "serve"


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(PORT, PORT + TRIES):
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
        except UnicodeError:
            pass  # no address, as is said when the page is to be offered there
        return port
    raise ConfigError(f"ports {PORT} to {PORT + TRIES - 1} are taken", "give --port")
