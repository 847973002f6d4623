"""What the server is told, and the limits that it keeps to."""

from dataclasses import dataclass, field
from pathlib import Path

from medical_sam2.server.processes import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Args:
        state: folder of the sessions.
        library: file or folder that may be opened from the page.
        host: address to bind to.
        port: of it.
        names: further host names under which the page may be asked for.
        origins: pages from elsewhere that may use the protocols.
        token: who knows it may come in.
        password: asked for where the server is bound to more than this machine.
        window: of intensities, that the network and the page see everything through; see `intensity_window.choose_window`.
        pacs: address of a DICOMweb server that series may be fetched from and segmentations sent to.
        most_sessions: open at once.
        most_upload_mb: of a session.
        most_files: of a session.
        most_body_mb: of any other request.
        most_voxels: of a volume, or of all images of a set.
        keep_days: after which a session that nobody touched is removed.
        held_mb: of labels that are held in memory for all sessions.
        idle_s: without a byte, after which an upload is given up.
        child: limits of decoding.
    """

    state: Path
    library: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8421
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str = ""
    password: str = ""
    window: str = "auto"
    pacs: str = ""
    most_sessions: int = 24
    most_upload_mb: int = 4_096
    most_files: int = 5_000
    most_body_mb: int = 16
    most_voxels: int = 1_000_000_000
    keep_days: float = 7.0
    held_mb: float = 2_048.0
    idle_s: float = 30.0
    child: Limits = field(default=Limits())
