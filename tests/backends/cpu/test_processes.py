"""The engine in processes and threads of every kind, each in a process of its own that may crash or hang."""

from __future__ import annotations

import os

import pytest

from runtime.machine_code import run_script

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

# Right answers of a call that has something of everything, at both kernels.
RIGHT = """
import os, signal, sys, threading, time
import torch
import oracle
from saccade import flex_attention
from saccade.masks import causal, sliding_window

def right(number=1.0):
    table = torch.randn(4)
    score = lambda score, b, h, q, k: score * number + table[h]
    mask = sliding_window(int(7 * number) + 1) | causal
    for q_len in (70, 2):
        query, key = torch.randn(2, 4, q_len, 16), torch.randn(2, 2, 90, 16)
        out = flex_attention(query, key, key, score, mask_mod=mask, enable_gqa=True, backend="cpu")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # torch's own products wait for ever in a forked child
        expected = oracle.attention(query, key, key, score=score, mask=mask).out
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
        torch.set_num_threads(threads)
    return True
"""


def run(script: str, timeout: float = 120) -> list[str]:
    """The words that a script prints, which begins with `RIGHT`."""
    return run_script(RIGHT + script, timeout).split()


@FORKS
def test_forked_children() -> None:
    printed = run(
        """
torch.set_num_threads(4)
right()
for number in (1.0, 2.5):  # what the parent compiled, and what nobody has; a child of the child
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        status = 0 if grandchild == 0 else os.waitpid(grandchild, 0)[1]
        os._exit(0 if right(number) and status == 0 else 1)
    print(os.waitpid(child, 0)[1])
print(right())
"""
    )
    assert printed == ["0", "0", "True"]


@FORKS
@pytest.mark.parametrize("keys", [90, 0])
def test_gradients_in_a_forked_child(keys) -> None:
    """Torch's own operators, on tensors so large that it would share them out, wait for ever there."""
    printed = run(
        f"""
torch.set_num_threads(2)
tensors = [torch.randn(8, 16, length, 16).requires_grad_() for length in (300, {keys}, {keys})]

def gradients():
    out, lse = flex_attention(*tensors, return_lse=True, backend="cpu")
    given = [torch.ones(()).expand(result.shape) for result in (out, lse)]  # not dense
    return torch.autograd.grad([out, lse], tensors, given)

expected = gradients()
child = os.fork()
if child == 0:
    signal.alarm(60)  # it shall not outlive a test that failed
    found = gradients()
    torch.set_num_threads(1)
    os._exit(0 if all(map(torch.equal, found, expected)) else 1)
print(os.waitpid(child, 0)[1])
"""
    )
    assert printed == ["0"]


@FORKS
def test_multiprocessing_and_data_loaders() -> None:
    printed = run(
        """
import multiprocessing
from torch.utils.data import DataLoader, Dataset

class Answers(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, number):
        return int(right(1.0 + number % 2))

torch.set_num_threads(3)
right()
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(sum(pool.map(right, [1.0, 2.0, 3.0, 4.0])))
loader = DataLoader(Answers(), batch_size=2, num_workers=2, multiprocessing_context="fork")
print(sum(int(batch.sum()) for batch in loader))
print(right())
"""
    )
    assert printed == ["4", "6", "True"]


def test_python_threads() -> None:
    printed = run(
        """
done = []
def work(place):
    for turn in range(6):
        right(1.0 + place + 4 * (turn % 2))
    done.append(place)

threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(done), right())
"""
    )
    assert printed == ["4", "True"]


def test_inside_threads_of_autograd() -> None:
    printed = run(
        """
class Asks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            answers.append(right())
        return grad

answers = []
x = torch.ones(3, requires_grad=True)
(Asks.apply(x).sum() + Asks.apply(2 * x).sum()).backward()
print(len(answers), x.grad.tolist() == [3.0] * 3)
"""
    )
    assert printed == ["2", "True"]


def test_interrupted_calls() -> None:
    printed = run(
        """
query = torch.randn(1, 8, 8192, 64)
flex_attention(query[:, :, :64], query, query, backend="cpu")
flex_attention(query[:, :, :1024], query, query, backend="cpu")
for _ in range(3):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    try:
        while True:
            flex_attention(query, query, query, backend="cpu")
    except KeyboardInterrupt:
        print(time.monotonic() - begun < 5)
    timer.join()
print(right())
"""
    )
    assert printed == ["True"] * 4


def test_errors_leave_the_engine_usable() -> None:
    printed = run(
        """
tensors = [torch.randn(1, 4, length, 8) for length in (50, 60, 60)]
table = torch.ones(20)
for _ in range(3):
    for length in (50, 2):
        try:
            flex_attention(
                tensors[0][:, :, :length],
                *tensors[1:],
                lambda score, b, h, q, k: score + table[k],
                backend="cpu",
            )
        except IndexError:
            print(right())
"""
    )
    assert printed == ["True"] * 6


def test_any_number_of_threads() -> None:
    printed = run(
        """
for threads in (1, 2, 3, 1, 7, 2):
    torch.set_num_threads(threads)
    print(right())
    torch.randn(300, 300) @ torch.randn(300, 300)
"""
    )
    assert printed == ["True"] * 6


def test_no_byte_outside_is_touched() -> None:
    printed = run(
        """
from fuzz.call import Call, Mod, Table
from fuzz.check import complaint

body = "score(c0: f32[1], c1: u8[1]) -> f32\\nscore + c0[kv_idx] + f32(c1[q_idx])"
sizes = (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33, 63, 65, 127, 130)
kinds = (("f32", "last"), ("bf16", "last"), ("f16", "first"), ("bf16", "first"), ("f64", "last"))
for place, size in enumerate(sizes):
    dtype, guard = kinds[place % len(kinds)]
    for q_len, kv_len in ((size + 32, sizes[place - 3]), (size % 4 + 1, size)):
        tables = (Table("f32", (kv_len,), 1), Table("u8", (q_len,), 2))
        call = Call(
            (q_len, kv_len), (2, 1), (size, sizes[-1 - place]), dtype, batch=2, score=Mod(body, (), tables),
            aux=(True, True), sinks="f32", layouts=("by token", "dense", "by token"), guard=guard,
        )
        said = complaint(call)
        assert said is None, (said, call)
print("right")
"""
    )
    assert printed == ["right"]


def test_the_pages_do_guard() -> None:
    script = """
import ctypes
from fuzz.guard import place

tensor = place(torch.zeros(3), "last")
assert ctypes.string_at(tensor.data_ptr(), 12) == bytes(12)
ctypes.string_at(tensor.data_ptr(), 13)
"""
    with pytest.raises(AssertionError, match="exit status -"):
        run(script)
