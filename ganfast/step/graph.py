"""CUDA graphs as capture uses them. tests/step/recorded.py has the same interface on a CPU, for the bookkeeping around them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


class CudaGraphs:
    """Of one device. Trials and recordings run on one stream of their own, so that what libraries keep for a stream is there.
    files: those whose lines are no user's, beside torch's and these."""

    files = ()

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = torch.cuda.default_generators[device.index]
        self._stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream of trials, after all earlier work, before all later."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                yield
            current.wait_stream(self._stream)

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Inside, what waits for the device raises RuntimeError."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def waited(self, error: BaseException) -> bool:
        """Whether an exception of the two says that the step waited for the device."""
        return any(words in str(error) for words in ("synchronizing CUDA operation", "capturing", "StreamCapture"))

    def busy(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def record(self, call: Callable[[], Any], generators: list[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        """(what the call gave, whose memory holds nothing before the first replay; the replay). The graph's memory is a pool of its own."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            if generator is not self.generator:
                graph.register_generator_state(generator)
        failed = []
        try:
            # thread_local: a DataLoader's pinning thread may go on calling CUDA meanwhile.
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                try:
                    out = call()
                except Exception as error:
                    failed.append(error)
                    raise
        except Exception:
            if failed:  # ending a recording that failed raises once more, without the line
                raise failed[0] from None
            raise
        return out, graph.replay
