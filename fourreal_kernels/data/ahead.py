"""Work done ahead in a thread, on a CUDA stream of its own where there is one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

_POLL_SECONDS = 0.2

Result = tuple[int, dict[str, Tensor]]


class Ahead:
    """Calls `make` again and again in a thread and keeps up to `most` results ready.

    A result is a number and tensors on `device`. What `make` raises, `take` raises in its turn. The CUDA branch
    has never run on a GPU.
    """

    def __init__(self, make: Callable[[], Result], device: torch.device, most: int = 8) -> None:
        self._make, self._device = make, device
        self._ready: queue.Queue = queue.Queue(most)
        self._ended = threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._thread = threading.Thread(target=self._run, name="fourreal-ahead", daemon=True)
        self._thread.start()

    def take(self) -> Result | None:
        """The oldest result, usable on the current stream; None when none is ready."""
        try:
            result, event = self._ready.get_nowait()
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            for tensor in result[1].values():
                # Its memory belongs to the other stream, which must not use it again before this one has read it.
                tensor.record_stream(stream)
        return result

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            while not self._ended.is_set():
                try:
                    result = self._make()
                except BaseException as error:  # handed over to the thread that waits for the result
                    self._put((error, None))
                    return
                self._put((result, self._stream.record_event() if self._stream is not None else None))

    def _put(self, item: tuple) -> None:
        while not self._ended.is_set():
            try:
                return self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                pass
