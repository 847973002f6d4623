import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from medical_sam2.cli import main
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings


def test_it_binds_to_this_machine_with_a_new_token_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[ServerSettings] = []

    def run(settings: ServerSettings, queue: InferenceQueue, **options: object) -> None:
        started.append(settings)

    monkeypatch.setattr("medical_sam2.server.app.serve", run)
    (tmp_path / "images").mkdir()
    for _ in range(2):
        assert main(["serve", str(tmp_path / "images"), "--state", str(tmp_path / "state"), "--port", "9"]) == 0
    assert {one.host for one in started} == {"127.0.0.1"}
    assert started[0].token != started[1].token
    assert all(len(one.token) >= 40 for one in started)


def test_the_network_is_loaded_as_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loads: list[Callable[[], object]] = []
    monkeypatch.setattr("medical_sam2.cli.serve.InferenceQueue", loads.append)
    monkeypatch.setattr("medical_sam2.server.app.serve", lambda *_, **__: None)
    told: dict[str, object] = {}
    monkeypatch.setattr(
        "medical_sam2.segmenter.Segmenter.from_pretrained", lambda weights, **more: told.update(more, of=weights)
    )
    words = ["--weights", "w", "--pool-memory", "1", "--precision", "fp32", "--features-mb", "7", "--port", "9"]
    assert main(["serve", "--state", str(tmp_path), *words]) == 0
    loads[0]()
    assert {"of": "w", "pool_memory": 1, "precision": "fp32", "keep_mb": 7.0}.items() <= told.items()


def test_the_extra_that_is_missing_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medical_sam2.cli.serve.find_spec", lambda _: None)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "the page needs FastAPI and uvicorn; pip install 'medical-sam2[serve]'\n"


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "nothing")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "99999"], "--port 99999 is no port; give one from 1024 to 65535, or leave it out"),
        (["--port", "0"], "--port 0 is no port; give one from 1024 to 65535, or leave it out"),
        (["--port", "-1"], "--port -1 is no port; give one from 1024 to 65535, or leave it out"),
        (["--port", "{taken}"], "--port {taken} is taken; give another, or leave it out"),
        (["--host", "203.0.113.9"], "--host 203.0.113.9 is no address of this machine; give one of it, such as 127.0.0.1"),
        (["--host", "a..b", "--port", "8500"], "--host a..b is no address of this machine; give one of it, such as 127.0.0.1"),
        (["--host", "a..b"], "--host a..b is no address of this machine; give one of it, such as 127.0.0.1"),
    ],
)
def test_an_address_that_cannot_be_offered(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before any address is printed."""
    monkeypatch.setenv("MEDSAM2_PASSWORD", "long enough")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        given = [word.replace("{taken}", taken) for word in words]
        assert main(["serve", str(tmp_path), "--state", str(tmp_path / "state"), "--no-browser", *given]) == 2
    assert capsys.readouterr().err == f"{said.replace('{taken}', taken)}\n"


def test_a_port_that_needs_rights(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("medical_sam2.server.app.socket.create_server", refuse)
    assert main(["serve", str(tmp_path), "--state", str(tmp_path / "state"), "--no-browser", "--port", "80"]) == 2
    assert capsys.readouterr().err == "--port 80 needs rights that you do not have; give one from 1024, or leave it out\n"


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[ServerSettings] = []
    monkeypatch.setattr("medical_sam2.server.app.serve", lambda settings, *_, **__: started.append(settings))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("medical_sam2.cli.serve.PORT", taken)
        assert main(["serve", str(tmp_path), "--state", str(tmp_path / "state")]) == 0
    assert taken < started[0].port < taken + 20
