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


def test_the_extra_that_is_missing_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medical_sam2.cli.serve.find_spec", lambda _: None)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "the page needs FastAPI and uvicorn; pip install 'medical-sam2[serve]'\n"


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "nothing")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
