"""The example that trains a byte model: its files, its losses by both attentions, resumption, and errors."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner, Result

import train_bytes

SMALL = {
    "LAYERS": 2, "HEADS": 2, "HEAD_DIM": 16, "WIDTH": 32, "WINDOW": 8,
    "VALIDATION_ROWS": 2, "SAMPLES": 2, "SAMPLE_BYTES": 8,
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"
ATTENTIONS = list(train_bytes.ATTENTIONS)


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(train_bytes, name, value)


def command(out: Path, *options: str, steps: int = 12, dropout: float = 0.1) -> Result:
    app = typer.Typer()
    app.command()(train_bytes.main)
    sizes = ("--steps", str(steps), "--dropout", str(dropout), "--length", "48", "--batch", "2")
    return CliRunner().invoke(app, [*sizes, "--out", str(out), *options])


def trained(out: Path, *options: str, steps: int = 12, dropout: float = 0.1) -> dict:
    done = command(out, *options, steps=steps, dropout=dropout)
    assert done.exit_code == 0, done.output
    return torch.load(out / "checkpoint.pt", weights_only=True)


def message(done: Result) -> str:
    """What a refusal says, without the frame around it and its line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.output).split())


def test_a_run_leaves_a_picture_samples_and_a_checkpoint(tmp_path: Path) -> None:
    done = command(tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "checkpoint.pt",
        "loss.png",
        "samples.txt",
    ]
    assert (tmp_path / "new" / "folder" / "loss.png").read_bytes().startswith(PNG)
    samples = (tmp_path / "new" / "folder" / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("def ") >= SMALL["SAMPLES"]
    assert "validation loss" in done.output


def test_it_learns_and_its_slopes_do(tmp_path: Path) -> None:
    end = trained(tmp_path, steps=40)
    assert len(end["train_losses"]) == 40
    assert [step for step, _ in end["validation_losses"]] == list(range(4, 41, 4))
    assert end["validation_losses"][-1][1] < end["validation_losses"][0][1] - 0.5
    first = train_bytes.Run.start(train_bytes.Settings("saccade", 40, 0.1, 0, 48, 2)).model.state_dict()
    slopes = [name for name in first if name.endswith("log_slopes")]
    assert len(slopes) == SMALL["LAYERS"]
    for name in slopes:
        assert ((end["model"][name] - first[name]).abs() > 1e-4).all()


def test_both_attentions_have_the_same_losses_without_dropout(tmp_path: Path) -> None:
    ours, torchs = (
        trained(tmp_path / name, "--attention", name, dropout=0)["train_losses"] for name in ATTENTIONS
    )
    assert len(ours) == 12
    assert ours == pytest.approx(torchs, abs=1e-4)


def test_both_attentions_end_near_each_other_with_dropout(tmp_path: Path) -> None:
    ours, torchs = (
        trained(tmp_path / name, "--attention", name, steps=30)["train_losses"] for name in ATTENTIONS
    )
    assert ours != torchs
    assert sum(ours[-5:]) == pytest.approx(sum(torchs[-5:]), rel=0.03)


def test_gradients_reach_the_slopes_alike() -> None:
    rows = torch.randint(1, 256, (2, 49), dtype=torch.uint8)
    rows[:, ::20] = train_bytes.START
    gradients = []
    for attention in ATTENTIONS:
        model = train_bytes.Run.start(train_bytes.Settings(attention, 1, 0.0, 0, 48, 2)).model
        slopes = [block.log_slopes for block in model.blocks]
        gradients.append(torch.stack(torch.autograd.grad(model.loss(rows), slopes)))
    assert (gradients[0].abs() > 1e-6).all()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_byte_sees_its_own_document_and_its_window(attention: str) -> None:
    model = train_bytes.Run.start(train_bytes.Settings(attention, 1, 0.0, 0, 48, 2)).model.eval()
    tokens = torch.randint(1, 256, (2, 48))
    tokens[:, 0] = tokens[0, 20] = train_bytes.START  # the second row is one document

    def changed_by(position: int) -> list[list[int]]:
        other = tokens.clone()
        other[:, position] = tokens[:, position] % 255 + 1
        with torch.no_grad():
            differs: Tensor = (model(tokens) - model(other)).abs().amax(dim=-1) > 1e-6
        return [row.nonzero().flatten().tolist() for row in differs]

    # A window of 8 in each of 2 layers reaches 14 bytes back.
    assert changed_by(10) == [list(range(10, 20)), list(range(10, 25))]


def test_a_run_interrupted_and_resumed_has_the_losses_of_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trained(tmp_path / "alone")
    learn = train_bytes.Run.learn

    def learn_and_press_ctrl_c(run: train_bytes.Run, corpus: Tensor) -> None:
        if len(run.train_losses) == 4:
            signal.raise_signal(signal.SIGINT)
        learn(run, corpus)

    with monkeypatch.context() as patched:
        patched.setattr(train_bytes.Run, "learn", learn_and_press_ctrl_c)
        stopped = command(tmp_path / "resumed")
    assert stopped.exit_code == 130
    assert "stopped after step 5 of 12" in stopped.output
    torch.manual_seed(1)
    resumed = trained(tmp_path / "resumed", "--resume")
    assert resumed["train_losses"] == alone["train_losses"]
    assert resumed["validation_losses"] == alone["validation_losses"]
    for name, weight in alone["model"].items():
        assert torch.equal(resumed["model"][name], weight), name


def test_a_finished_run_can_be_asked_for_its_samples_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    samples = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    (tmp_path / "samples.txt").unlink()
    assert trained(tmp_path, "--resume")["train_losses"] == first["train_losses"]
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == samples


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "--resume")
    assert done.exit_code == 2
    assert "no checkpoint at" in message(done)
    assert "leave out --resume to start" in message(done)


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, steps=2)
    done = command(tmp_path, "--resume", steps=3)
    assert done.exit_code == 2
    assert "a run with --steps 2, got 3" in message(done)


@pytest.mark.parametrize("kept", [0, 100, 10_000])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, kept: int) -> None:
    trained(tmp_path, steps=2)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    done = command(tmp_path, "--resume", steps=2)
    assert done.exit_code == 2
    assert "cannot be read; leave out --resume to start anew" in message(done)


def test_starting_anew_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    first = trained(tmp_path, steps=2)
    again = command(tmp_path, steps=3)
    assert again.exit_code == 0, again.output
    assert "starting anew; the checkpoint of the run before is kept as" in message(again)
    kept = torch.load(tmp_path / "checkpoint.old", weights_only=True)
    assert kept["train_losses"] == first["train_losses"]
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["train_losses"]) == 3


@pytest.mark.parametrize("name", ["file", "file/folder"])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = command(tmp_path / name)
    assert done.exit_code == 2
    assert "is a file" in message(done) or "choose another --out" in message(done)


def test_rows_longer_than_the_text_are_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "--length", str(10**9))
    assert done.exit_code == 2
    assert "do not fill a row" in message(done)


def test_documents_are_top_level_definitions_packed_into_rows(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\nx = 1\n\n\n\ndef f():\n    y\n\n    z\n")
    (tmp_path / "b.py").write_bytes(b"")
    (tmp_path / "c.py").write_bytes(b"z")
    rows = train_bytes.pack([tmp_path / name for name in ("a.py", "b.py", "c.py")], 8)
    assert bytes(rows.flatten().tolist()) == b"\0x = 1\n\0def f():\n    y\n\n    z\n\0z\n"[:32]
    assert rows.shape == (4, 8)


def test_the_text_is_the_same_every_time_and_kept_apart_for_validation() -> None:
    train, validation = train_bytes.read_corpus(64, seed=3)
    again, _ = train_bytes.read_corpus(64, seed=3)
    other, _ = train_bytes.read_corpus(64, seed=4)
    assert torch.equal(train, again)
    assert not torch.equal(train[:100], other[:100])
    assert validation.shape == (SMALL["VALIDATION_ROWS"], 64)
    names = [path.name for path in train_bytes.library_sources()]
    assert "os.py" in names
    assert not {"cp1252.py", "topics.py", "test_os.py"} & set(names)
    assert len(names) > 100


def test_it_is_a_script_that_explains_its_options() -> None:
    done = subprocess.run(
        [sys.executable, train_bytes.__file__, "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--attention", "--steps", "--dropout", "--resume", "--out"):
        assert option in done.stdout
