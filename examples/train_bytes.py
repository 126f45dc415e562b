"""Train a small byte-level transformer on a CPU, with a mask and a bias written as Python functions.

The text is on every machine: the sources of Python's own standard library. A document is a top-level
definition; documents are packed end to end into rows, and a byte sees the latest `WINDOW` bytes of its own
document. Distance is told by ALiBi (arXiv 2108.12409) with slopes that are learned, and attention weights are
dropped while training. `--attention sdpa` trains the same model with torch's `scaled_dot_product_attention`
and the dense mask that all this amounts to.

    pip install 'saccade[viz]'
    python examples/train_bytes.py --out out/train_bytes

The folder then holds `loss.png`, `samples.txt` and `checkpoint.pt`. Ctrl-C stops after the step at hand; the
same command with `--resume` goes on, to the same losses as a run that was left alone; without it, a run
starts anew, and keeps the checkpoint it finds as `checkpoint.old`.
"""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from saccade import Mask, create_block_mask, create_mask, document, flex_attention, sliding_window

LAYERS, HEADS, HEAD_DIM, WIDTH = 4, 4, 64, 128
WINDOW = 256
START = 0  # the byte before each document; sources of Python hold no other
PEAK_RATE, WARMUP_STEPS = 4e-3, 20
VALIDATION_ROWS, VALIDATIONS, CHECKPOINTS = 8, 10, 5
SAMPLES, SAMPLE_BYTES, TEMPERATURE = 3, 240, 0.7

AttentionName = Literal["saccade", "sdpa"]
# Attention over one batch: query, key and value [B, H, S, D], slopes [H], dropout -> [B, H, S, D].
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]

console = Console(highlight=False)


@dataclass(frozen=True)
class Settings:
    """What decides the losses of a run: the options of the command, without those that name files."""

    attention: AttentionName
    steps: int
    dropout: float
    seed: int
    length: int
    batch: int


def library_sources() -> list[Path]:
    """List the code of the standard library, without tests and tables, in the same order every time."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "encodings", "pydoc_data", "site-packages", "dist-packages"}
    below = (path.rglob("*.py") for path in root.iterdir() if path.is_dir() and path.name not in skipped)
    return sorted([*root.glob("*.py"), *(file for files in below for file in files)])


def pack(files: list[Path], length: int) -> Tensor:
    """Lay the top-level definitions of files end to end, and cut them into rows: uint8 `[rows, length]`."""
    definitions = (text.strip() for file in files for text in file.read_bytes().split(b"\n\n\n"))
    packed = bytearray().join(bytes([START]) + text + b"\n" for text in definitions if text)
    rows = len(packed) // length
    if rows == 0:
        raise typer.BadParameter(f"{len(files)} files of the standard library do not fill a row of {length}")
    return torch.frombuffer(packed, dtype=torch.uint8)[: rows * length].view(rows, length)


def read_corpus(length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Read the standard library in random order: rows to train on, and rows of other files to validate on."""
    files = library_sources()
    random.Random(seed).shuffle(files)
    kept_back = len(files) // 20
    train, validation = (pack(part, length) for part in (files[kept_back:], files[:kept_back]))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order], validation[:VALIDATION_ROWS]


def with_saccade(visible: Mask, batch: int, length: int) -> Attend:
    """Attend by the functions themselves: hidden blocks are not visited, and no score matrix is stored."""
    block_mask = create_block_mask(visible, batch, None, length, length, device="cpu")

    def attend(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor, dropout: float) -> Tensor:
        def alibi(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + slopes[h] * (kv_idx - q_idx)

        return flex_attention(query, key, value, alibi, block_mask, dropout_p=dropout)

    return attend


def with_sdpa(visible: Mask, batch: int, length: int) -> Attend:
    """Attend by torch's function, over every pair, with a dense bias that passes gradients to the slopes."""
    hidden = ~create_mask(visible, batch, None, length, length, device="cpu")  # [B, 1, S, S]
    distance = torch.arange(length) - torch.arange(length)[:, None]  # [S, S], kv_idx - q_idx

    def attend(query: Tensor, key: Tensor, value: Tensor, slopes: Tensor, dropout: float) -> Tensor:
        bias = (slopes[:, None, None] * distance).masked_fill(hidden, -math.inf)
        return F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout)

    return attend


ATTENTIONS: dict[AttentionName, Callable[[Mask, int, int], Attend]] = {
    "saccade": with_saccade,
    "sdpa": with_sdpa,
}


class Block(nn.Module):
    """A pre-norm transformer layer; its attention has a slope for each head, positive and learned."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.project_in = nn.Linear(WIDTH, 3 * HEADS * HEAD_DIM, bias=False)
        self.log_slopes = nn.Parameter(-8 * math.log(2) * torch.arange(1, HEADS + 1) / HEADS)
        self.project_out = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, attend: Attend, dropout: float) -> Tensor:
        """Return `x` `[B, S, WIDTH]` with what the layer adds to it."""
        projected = self.project_in(self.norm(x)).unflatten(-1, (3, HEADS, HEAD_DIM))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, self.log_slopes.exp(), dropout)
        x = x + self.project_out(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.feed_forward(x)
        return x + added


class ByteModel(nn.Module):
    """Tells the next byte of packed documents.

    Args:
        attention: What computes attention.
        dropout: Probability of dropping an attention weight, in training mode.
    """

    def __init__(self, attention: AttentionName, dropout: float) -> None:
        super().__init__()
        self.make_attend = ATTENTIONS[attention]
        self.dropout = dropout
        self.embedding = nn.Embedding(256, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits `[B, S, 256]` of the byte after each of `tokens`, int64 `[B, S]`."""
        documents = (tokens == START).cumsum(dim=1)
        attend = self.make_attend(sliding_window(WINDOW) & document(documents), *tokens.shape)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, attend, self.dropout if self.training else 0.0)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean loss of rows, uint8 `[B, S + 1]`, in nats a byte."""
        tokens = rows.long()
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(eq=False)
class Run:
    """A model in training, and all else that a checkpoint holds."""

    settings: Settings
    model: ByteModel
    optimizer: torch.optim.Optimizer
    train_losses: list[float] = field(default_factory=list)  # one a step
    validation_losses: list[tuple[int, float]] = field(default_factory=list)  # after how many steps, the loss

    @classmethod
    def start(cls, settings: Settings) -> Run:
        """Begin with weights drawn from the seed."""
        torch.manual_seed(settings.seed)
        model = ByteModel(settings.attention, settings.dropout)
        return cls(settings, model, torch.optim.Adam(model.parameters(), betas=(0.9, 0.95), fused=True))

    @classmethod
    def resume(cls, settings: Settings, path: Path) -> Run:
        """Go on from a checkpoint of the same settings."""
        if not path.is_file():
            raise typer.BadParameter(f"no checkpoint at {path} to resume from; leave out --resume to start")
        try:
            saved = torch.load(path, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as fault:
            raise typer.BadParameter(
                f"the checkpoint at {path} cannot be read; leave out --resume to start anew"
            ) from fault
        for name, given in asdict(settings).items():
            if saved["settings"][name] != given:
                raise typer.BadParameter(
                    f"the checkpoint is of a run with --{name} {saved['settings'][name]}, got {given}; "
                    "resume with the options of that run, or leave out --resume to start anew"
                )
        run = cls.start(settings)
        run.model.load_state_dict(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.train_losses, run.validation_losses = saved["train_losses"], saved["validation_losses"]
        torch.set_rng_state(saved["random"])
        return run

    def save(self, path: Path) -> None:
        """Write a checkpoint: whenever the path is read, it holds the last or this one, whole."""
        checkpoint = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "train_losses": self.train_losses,
            "validation_losses": self.validation_losses,
            "random": torch.get_rng_state(),
        }
        torch.save(checkpoint, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def learn(self, corpus: Tensor) -> None:
        """Take a step on the next rows of the corpus, and note its loss."""
        step, size = len(self.train_losses), self.settings.batch
        rows = corpus[torch.arange(step * size, (step + 1) * size) % len(corpus)]
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * warmup * (1 + math.cos(math.pi * step / self.settings.steps)) / 2
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.model.loss(rows)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.train_losses.append(loss.item())

    @torch.no_grad()
    def validate(self, rows: Tensor) -> None:
        """Note the loss on rows that are never trained on."""
        self.model.eval()
        loss = fmean(self.model.loss(row).item() for row in rows[:, None])
        self.validation_losses.append((len(self.train_losses), loss))


def make_room(checkpoint: Path, resume: bool) -> None:
    """Make the folder of a checkpoint; one of a run before, unless it is resumed, gets another name."""
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise typer.BadParameter(
            f"{checkpoint.parent} cannot be made a folder: {fault.strerror}; choose another --out"
        ) from fault
    if checkpoint.exists() and not resume:
        kept = checkpoint.with_suffix(".old")
        os.replace(checkpoint, kept)
        console.print(f"starting anew; the checkpoint of the run before is kept as {kept}")


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event, to be looked at between two steps."""
    event = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def train(run: Run, corpus: Tensor, validation: Tensor, checkpoint: Path) -> None:
    """Take the steps that are left, with a checkpoint now and then, at the end, and when interrupted."""
    settings, first = run.settings, len(run.train_losses)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, {task.fields[speed]:,.0f} tokens/s,"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with interrupts() as interrupted, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=settings.steps, completed=first, loss=math.nan, speed=math.nan)
        for done in range(first + 1, settings.steps + 1):
            run.learn(corpus)
            loss = fmean(run.train_losses[-20:])
            tokens = (done - first) * settings.batch * settings.length
            progress.update(task, completed=done, loss=loss, speed=tokens / (time.perf_counter() - start))
            is_last = done == settings.steps or interrupted.is_set()
            if done == settings.steps or done % math.ceil(settings.steps / VALIDATIONS) == 0:
                run.validate(validation)
            if is_last or done % math.ceil(settings.steps / CHECKPOINTS) == 0:
                run.save(checkpoint)
            if is_last:
                break
    if len(run.train_losses) < settings.steps:
        console.print(f"stopped after step {done} of {settings.steps}; add --resume to go on")
        raise typer.Exit(130)


def draw_losses(run: Run, picture: Path) -> None:
    """Draw both losses over the steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(run.train_losses) + 1), run.train_losses, color="#56b4e9", lw=1, label="training")
    axes.plot(*zip(*run.validation_losses, strict=True), color="#17457a", marker="o", label="validation")
    axes.set(xlabel="step", ylabel="loss, nats a byte", title=f"attention by {run.settings.attention}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=150)


@torch.no_grad()
def write_samples(model: ByteModel, seed: int) -> list[str]:
    """Let the model write documents that begin with `def `, a byte at a time."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([[START, *b"def "]] * SAMPLES)
    for _ in range(SAMPLE_BYTES):
        chances = (model(tokens)[:, -1] / TEMPERATURE).softmax(dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
    texts = [bytes(row).split(bytes([START]))[1].decode(errors="replace") for row in tokens.tolist()]
    return ["".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text) for text in texts]


def main(
    attention: Annotated[AttentionName, typer.Option(help="What computes attention.")] = "saccade",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 500,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Share of attention weights dropped.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of all that is random.")] = 0,
    length: Annotated[int, typer.Option(min=1, help="Bytes of a row.")] = 2048,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the results.", file_okay=False)] = Path(
        "out/train_bytes"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")
    ] = False,
) -> None:
    """Train a small byte-level transformer on the sources of Python's standard library."""
    settings = Settings(attention, steps, dropout, seed, length, batch)
    checkpoint = out / "checkpoint.pt"
    run = Run.resume(settings, checkpoint) if resume else Run.start(settings)
    corpus, validation = read_corpus(length + 1, seed)
    make_room(checkpoint, resume)
    train(run, corpus, validation, checkpoint)
    draw_losses(run, out / "loss.png")
    samples = write_samples(run.model, seed)
    (out / "samples.txt").write_text("\n\n".join(samples), encoding="utf-8")
    for text in samples:
        console.rule(style="dim")
        console.print(text, markup=False)
    console.rule(style="dim")
    for number, block in enumerate(run.model.blocks, 1):
        reaches = ", ".join(f"{1 / slope:.1f}" for slope in block.get_parameter("log_slopes").exp().tolist())
        console.print(f"layer {number}: its heads' scores fall by 1 every {reaches} bytes")
    console.print(f"validation loss {run.validation_losses[-1][1]:.3f} nats a byte; results are in {out}")


if __name__ == "__main__":
    typer.run(main)
