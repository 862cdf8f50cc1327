"""Models that come with the package: found by name, loaded, trained from."""

from __future__ import annotations

from pathlib import Path

import pytest

from xecml import pretrained
from xecml.errors import InputError
from xecml.pretrained import is_shipped, model_file, names, pretrained_file


def test_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    assert names() == []
    with pytest.raises(InputError, match="no shipped model 'signal'; this package has none"):
        pretrained_file("signal")
    for name in ("signal", "decoupled"):
        (tmp_path / f"{name}.pth").touch()
    assert names() == ["decoupled", "signal"]
    assert model_file("pretrained:signal") == tmp_path / "signal.pth"
    assert is_shipped(tmp_path / "signal.pth")
    assert not is_shipped(tmp_path / "sub" / "signal.pth")
    assert model_file("pretrained.pth") == Path("pretrained.pth")
    with pytest.raises(InputError, match="no shipped model 'signl' .did you mean 'signal'"):
        model_file("pretrained:signl")
    with pytest.raises(InputError, match="choose one of decoupled, signal"):
        model_file("pretrained:")
