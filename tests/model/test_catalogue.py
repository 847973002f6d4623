"""Names of weights: the embedded default, the hub, and what is none."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError

from medical_sam2.errors import AmbiguousError, WeightsError
from medical_sam2.model import catalogue
from medical_sam2.model.weights import available, load_backbone, read_weights, save_backbone
from tests.model.conftest import same, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder of the tiny network."""
    save_backbone(tiny(), tmp_path / "tiny")
    return tmp_path / "tiny"


class TestNames:
    def test_the_embedded_default_may_be_absent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
        with pytest.raises(WeightsError, match="nano: these weights are not in this installation; reinstall"):
            load_backbone()

    def test_the_embedded_default(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.rename(folder.with_name("nano"))
        monkeypatch.setattr(catalogue, "EMBEDDED", folder.parent)
        assert same(load_backbone(), tiny())

    @pytest.mark.parametrize("name", ["sam2.1-huge", "a/b/c.pt/", "../x", ".hidden/x", "a b/c", ""])
    def test_unknown(self, name: str) -> None:
        with pytest.raises(WeightsError):
            load_backbone(name)

    @pytest.mark.parametrize("name", ["absent.pt", "folder/absent.safetensors", "/absent/absent.pt"])
    def test_a_file_that_is_not_there(self, name: str) -> None:
        with pytest.raises(WeightsError, match="does not exist"):
            load_backbone(name)

    def test_listed(self) -> None:
        names = [known.name for known in available()]
        assert names[:2] == ["nano", "sam2.1-tiny"]
        assert len(names) == len(set(names)) == 15


class TestHub:
    """The hub is not asked: what it would answer is put in its place."""

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)

    def answer(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
        def metadata(url: str) -> None:
            if not any(url.endswith(f"/{file}") for file in files):
                raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, file: str(files[file]))
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: list(files))

    def test_a_folder_of_the_hub(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.answer(monkeypatch, {file: folder / file for file in ("model.safetensors", "config.json")})
        assert same(load_backbone("someone/something"), tiny())

    def test_the_only_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        torch.save({"image_encoder.w": torch.ones(1)}, tmp_path / "a.pt")
        self.answer(monkeypatch, {"a.pt": tmp_path / "a.pt", "README.md": tmp_path})
        assert read_weights("someone/something").file == tmp_path / "a.pt"

    def test_one_of_several(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        torch.save({"image_encoder.w": torch.ones(1)}, tmp_path / "a.pt")
        self.answer(monkeypatch, {"a.pt": tmp_path / "a.pt", "b.pth": tmp_path})
        with pytest.raises(AmbiguousError, match=r"choose one: someone/something/a\.pt, someone/something/b\.pth"):
            read_weights("someone/something")
        assert read_weights("someone/something/a.pt").file == tmp_path / "a.pt"

    def test_no_weights(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.answer(monkeypatch, {"README.md": tmp_path})
        with pytest.raises(WeightsError, match="holds no weights"):
            read_weights("someone/something")

    def test_from_the_cache(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, file: str(folder / file))
        assert same(load_backbone("someone/something"), tiny())
        assert next(known for known in available() if known.name == "sam2.1-tiny").here

    def test_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: str) -> None:
            raise ConnectionError("Name or service not known")

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
        with pytest.raises(
            WeightsError, match=r"facebook/sam2\.1-hiera-tiny: cannot be fetched .* check the name and the connection"
        ):
            load_backbone("sam2.1-tiny")
        assert not next(known for known in available() if known.name == "sam2.1-tiny").here
