"""What README.md shows is run, so that it stays true."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_and_its_gradients_arrive() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 20
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    for name in ("query", "key", "value", "bias"):
        tensor = names[name]
        assert isinstance(tensor, torch.Tensor)
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in [README, (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (ROOT / target).is_file(), f"{target} does not exist"
