"""CUDA graphs as capture uses them. tests/step/recorded.py has the same interface on a CPU, for the bookkeeping around them."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ganfast._workspaces import own_workspaces


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
            try:
                with torch.cuda.stream(self._stream):
                    yield
            finally:
                current.wait_stream(self._stream)

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Inside, what waits for the device raises RuntimeError."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def waited(self, error: BaseException) -> bool:
        """Whether an exception of the two says that the step waited for the device."""
        return any(words in str(error) for words in ("synchronizing CUDA operation", "capturing", "StreamCapture", "graph capture"))

    def busy(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def record(self, call: Callable[[], Any], generators: list[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        """(what the call gave, whose memory holds nothing before the first replay; the replay). The graph's memory is a pool of its own."""
        failed = []

        def run():
            try:
                return call()
            except Exception as error:
                failed.append(error)
                raise

        try:
            return self._record(run, generators)
        except Exception:
            with contextlib.suppress(Exception):  # torch up to 2.12 leaves generators in recording when one fails; a good one mends that
                self._record(lambda: torch.zeros(1, device=self.device), generators)
            if failed:  # ending a recording that failed raises once more, without the line
                raise failed[0] from None
            raise

    def _record(self, call: Callable[[], Any], generators: list[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            if generator is not self.generator:
                graph.register_generator_state(generator)
        # The outer stream context: torch leaves the recording's stream current where ending it fails. thread_local: a DataLoader's
        # pinning thread may go on calling CUDA meanwhile.
        recording = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream), own_workspaces(), recording:
            out = call()
        return out, graph.replay
